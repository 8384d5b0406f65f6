//! Loads and stores, and what they may find.

use hugewalk::arch::AnyPaging;
use hugewalk::fault::FaultError;
use hugewalk::{Task, mm};
use hugewalk_host::Cpu;

use crate::ledger::{Known, Ledger};
use crate::process::{ANONYMOUS, COPY, ON_MOUNT, Process, View, at, file_of, offset};
use crate::tag::{PAGES, Random, Tag, WRITERS};
use crate::world::{File, Host, World};

/// Where in a page the words lie: those of processors, and those that are written through the file.
pub(crate) fn word_offset(writer: usize) -> u64 {
    writer as u64 * 64
}

/// A thread's name in tags.
pub(crate) struct Writer {
    pub(crate) number: usize,
    pub(crate) sequence: u64,
}

impl Writer {
    pub(crate) fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}

/// One place that is accessed.
pub(crate) struct Place<'w> {
    world: &'w World,
    process: &'w Process,
    region: usize,
    page: usize,
}

impl<'w> Place<'w> {
    pub(crate) fn random(world: &'w World, process: &'w Process, random: &mut Random) -> Self {
        Self { world, process, region: random.below(process.regions.len()), page: random.below(PAGES) }
    }

    pub(crate) fn region(&self) -> usize {
        self.region
    }

    fn file(&self) -> Option<&'w File> {
        file_of(self.world, self.region)
    }

    /// The ledger of what is stored here.
    fn ledger(&self) -> &'w Ledger {
        match &self.process.regions[self.region].ledger {
            Some(private) => private,
            None => &self.file().expect("a shared mapping has a file").ledger,
        }
    }

    fn address(&self, view: &View, writer: usize) -> hugewalk::addr::VirtAddr {
        at(view.state.base + offset(self.world, self.region, self.page) + word_offset(writer))
    }

    /// Loads a word and judges it.
    pub(crate) fn load(&self, cpu: &mut Cpu<AnyPaging>, task: &mut Task<Host>, random: &mut Random) {
        let writer = random.below(WRITERS);
        let region = &self.process.regions[self.region];
        let view = region.view();
        let known = self.ledger().known(self.page, writer);
        match cpu.load_u64(task, self.address(&view, writer)) {
            Ok(value) => {
                if let Err(why) = self.judge(value, writer, &known) {
                    self.fail("load", &format!("{why}; {:?}, {known:?}", Tag::decode(value)), &view);
                }
                if !view.state.mapped && region.unchanged(&view) {
                    self.fail("load", "went through where nothing is mapped", &view);
                }
            }
            Err(error) => self.judge_error(error, false, &view),
        }
    }

    /// Stores the thread's word.
    pub(crate) fn store(&self, cpu: &mut Cpu<AnyPaging>, task: &mut Task<Host>, writer: &mut Writer) {
        let region = &self.process.regions[self.region];
        let private = region.ledger.is_some();
        let owner = if private { self.process.id } else { self.file().map_or(0, |file| file.number) };
        let (page, sequence) = (self.page, writer.next());
        let tag = Tag { private, owner, page, writer: writer.number, sequence };
        let view = region.view();
        let quiet = self.ledger().storing(page, writer.number, sequence);
        match cpu.store_u64(task, self.address(&view, writer.number), tag.encode()) {
            Ok(()) => {
                self.ledger().stored(page, writer.number, sequence, quiet);
                self.world.finished[writer.number].store(sequence, std::sync::atomic::Ordering::SeqCst);
                let allowed = view.state.mapped && view.state.is_writable(page);
                if !allowed && region.unchanged(&view) {
                    self.fail("store", "went through where it is not allowed", &view);
                }
            }
            Err(error) => self.judge_error(error, true, &view),
        }
    }

    /// Is this a value that may be here?
    fn judge(&self, value: u64, writer: usize, known: &Known) -> Result<(), &'static str> {
        let (ledger, page) = (self.ledger(), self.page);
        let lost = |else_where: Result<(), &'static str>| {
            if ledger.binds(page, known) { Err("a finished store is lost") } else { else_where }
        };
        let Some(tag) = Tag::decode(value) else {
            return lost(Ok(()));
        };
        if tag.page != page || tag.writer != writer {
            return Err("the word of another place");
        }
        let private = self.process.regions[self.region].ledger.is_some();
        if !tag.private {
            if self.region == ANONYMOUS || self.file().is_none_or(|file| file.number != tag.owner) {
                return Err("another file's page");
            }
            if private {
                // What the file had when it was mapped or copied, and nothing of what was stored here since.
                if tag.sequence > ledger.issued_behind(page, writer) {
                    return Err("nobody has stored that");
                }
                if tag.sequence <= known.truncated {
                    return Err("the file's contents from before it was truncated");
                }
                return lost(Ok(()));
            }
        }
        let most = match tag.private {
            false => ledger.issued(page, writer),
            true if !private => return Err("a process's own page in a file"),
            true if tag.owner == self.process.id => ledger.issued(page, writer),
            true if self.process.ancestors.contains(&tag.owner) => ledger.inherited(page, writer),
            true => return Err("another process's page"),
        };
        if tag.sequence > most {
            return Err("nobody has stored that, or an ancestor did after the fork");
        }
        if tag.sequence <= known.floor {
            return Err("contents that were taken away");
        }
        if tag.sequence < known.seen {
            return Err("a later value has been seen");
        }
        if tag.sequence < known.stored && ledger.binds(page, known) {
            return Err("a later store had finished");
        }
        ledger.saw(page, writer, tag.sequence);
        Ok(())
    }

    /// Is this an error that what the others do explains?
    fn judge_error(&self, error: FaultError, store: bool, view: &View) {
        let region = &self.process.regions[self.region];
        let reserved = region.is_reserved(self.page);
        let stable = region.unchanged(view);
        let state = view.state;
        // The owner of a reservation gets its page, as long as it has not thrown it away.
        let reserved = reserved && self.region == ANONYMOUS && state.mapped;
        let explained = match error {
            FaultError::NotMapped { .. } => !stable || !state.mapped,
            FaultError::Protection { .. } => !stable || (store && !state.is_writable(self.page)),
            FaultError::BeyondEof { .. } => {
                // No file is ever truncated to nothing.
                self.page > 0 && self.file().is_some_and(|file| file.shrinks)
            }
            FaultError::PoolEmpty(_) => !(stable && reserved),
            FaultError::SubPoolFull(_) => self.region == ON_MOUNT,
            FaultError::TakenAway { .. } => {
                matches!(self.region, ANONYMOUS | COPY) && !(stable && state.owner)
            }
            _ => false,
        };
        if !explained {
            self.fail(if store { "store" } else { "load" }, &format!("unexplained error: {error}"), view);
        }
    }

    fn fail(&self, what: &str, why: &str, view: &View) -> ! {
        let Self { process, region, page, .. } = self;
        let (id, ancestors) = (process.id, &process.ancestors);
        panic!("{what} by process {id} (from {ancestors:?}), mapping {region}, page {page}: {why}; {view:?}");
    }
}

/// An error of a call on an address space that the other threads explain.
pub(crate) fn explained(error: &mm::MapError) -> bool {
    use hugewalk::reserve::NoPage;
    use mm::MapError::{Exited, Fault, NoPage as Unreserved};
    match error {
        Exited | Unreserved(NoPage::PoolEmpty(_) | NoPage::SubPoolFull(_)) => true,
        Fault(fault) => !matches!(fault, FaultError::OutOfMemory(_) | FaultError::Hwpoison { .. }),
        _ => false,
    }
}
