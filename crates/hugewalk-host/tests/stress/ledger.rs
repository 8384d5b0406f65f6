//! What is known of the words of some pages, kept beside them in atomics, so that a load can be judged whatever the other
//! threads do.
//!
//! A *zap* is what takes contents away: truncation, a hole, MADV_DONTNEED of a private mapping, unmapping. Who zaps
//! counts `begun` up before and `ended` after. A store that was finished before a load began, with no zap under way since
//! before the store, must be seen by the load. After a zap no value may be seen whose store was finished before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::tag::{PAGES, WRITERS};

/// A store that a zap may have met.
const UNQUIET: u64 = u32::MAX as u64;

#[derive(Default)]
pub(crate) struct Ledger {
    pages: [PageLedger; PAGES],
    /// The file behind a private mapping: its zaps take private copies away too.
    behind: Option<Arc<Ledger>>,
}

#[derive(Default)]
struct PageLedger {
    begun: AtomicU64,
    ended: AtomicU64,
    words: [WordLedger; WRITERS],
    /// Of each writer, the last store that must be gone.
    floor: [AtomicU64; WRITERS],
    /// The same for what private copies keep of a file's contents, which holes leave alone.
    truncated: [AtomicU64; WRITERS],
}

#[derive(Default)]
struct WordLedger {
    /// The last store that has begun.
    issued: AtomicU64,
    /// The last store that has returned, and the count of zaps before it.
    stored: AtomicU64,
    /// The last store that anybody has seen.
    seen: AtomicU64,
    /// The last store that may have come from an ancestor.
    inherited: AtomicU64,
}

/// What was known when a load began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) stored: u64,
    mark: u64,
    pub(crate) seen: u64,
    pub(crate) floor: u64,
    pub(crate) truncated: u64,
}

/// How sure it is that a zap took the contents away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zapped {
    Perhaps,
    Surely,
    /// Also what private copies had taken over from the file.
    WithCopies,
}

/// The last finished store of each writer, anywhere.
pub(crate) type Finished = [AtomicU64; WRITERS];

/// A zap that has begun.
pub(crate) struct Zap<'l> {
    ledger: &'l Ledger,
    pages: Vec<usize>,
    finished: [u64; WRITERS],
}

impl Ledger {
    pub(crate) fn new(behind: Option<Arc<Ledger>>) -> Self {
        Self { pages: Default::default(), behind }
    }

    fn behind(&self, page: usize) -> Option<&PageLedger> {
        self.behind.as_ref().map(|file| &file.pages[page])
    }

    /// Zaps begun so far.
    pub(crate) fn begun(&self, page: usize) -> u64 {
        self.pages[page].begun.load(SeqCst) + self.behind(page).map_or(0, |file| file.begun.load(SeqCst))
    }

    /// Zaps so far, if none is under way.
    fn quiet(&self, page: usize) -> u64 {
        let ended =
            self.pages[page].ended.load(SeqCst) + self.behind(page).map_or(0, |file| file.ended.load(SeqCst));
        if ended == self.begun(page) { ended & UNQUIET } else { UNQUIET }
    }

    /// A store begins; what is returned belongs to [`stored`](Self::stored).
    pub(crate) fn storing(&self, page: usize, writer: usize, sequence: u64) -> u64 {
        self.pages[page].words[writer].issued.store(sequence, SeqCst);
        self.quiet(page)
    }

    /// A store has returned.
    pub(crate) fn stored(&self, page: usize, writer: usize, sequence: u64, quiet: u64) {
        self.pages[page].words[writer].stored.store(sequence << 32 | quiet, SeqCst);
    }

    /// What is known of a word.
    pub(crate) fn known(&self, page: usize, writer: usize) -> Known {
        let word = &self.pages[page].words[writer];
        let stored = word.stored.load(SeqCst);
        let own = self.pages[page].floor[writer].load(SeqCst);
        let file = self.behind(page).map_or(0, |file| file.floor[writer].load(SeqCst));
        let truncated = self.behind(page).map_or(0, |file| file.truncated[writer].load(SeqCst));
        Known {
            stored: stored >> 32,
            mark: stored & UNQUIET,
            seen: word.seen.load(SeqCst),
            floor: own.max(file),
            truncated,
        }
    }

    pub(crate) fn issued(&self, page: usize, writer: usize) -> u64 {
        self.pages[page].words[writer].issued.load(SeqCst)
    }

    pub(crate) fn issued_behind(&self, page: usize, writer: usize) -> u64 {
        self.behind(page).map_or(0, |file| file.words[writer].issued.load(SeqCst))
    }

    pub(crate) fn inherited(&self, page: usize, writer: usize) -> u64 {
        self.pages[page].words[writer].inherited.load(SeqCst)
    }

    pub(crate) fn saw(&self, page: usize, writer: usize, sequence: u64) {
        self.pages[page].words[writer].seen.fetch_max(sequence, SeqCst);
    }

    /// Must a load that has just ended have seen the store that was known when it began?
    pub(crate) fn binds(&self, page: usize, known: &Known) -> bool {
        known.stored != 0 && known.mark != UNQUIET && known.mark == self.begun(page) & UNQUIET
    }

    /// A zap of some pages begins.
    pub(crate) fn zap(&self, pages: impl Iterator<Item = usize>, finished: &Finished) -> Zap<'_> {
        let pages: Vec<usize> = pages.collect();
        for &page in &pages {
            self.pages[page].begun.fetch_add(1, SeqCst);
        }
        let finished = core::array::from_fn(|writer| finished[writer].load(SeqCst));
        Zap { ledger: self, pages, finished }
    }

    /// What a fork will need to know of this ledger, taken before it.
    pub(crate) fn before_fork(&self) -> Vec<[Known; WRITERS]> {
        (0..PAGES).map(|page| core::array::from_fn(|writer| self.known(page, writer))).collect()
    }

    /// The ledger of a child, after the fork.
    pub(crate) fn child(&self, before: &[[Known; WRITERS]]) -> Self {
        let child = Self::new(self.behind.clone());
        for (page, known) in before.iter().enumerate() {
            for (writer, known) in known.iter().enumerate() {
                let (word, of) = (&child.pages[page].words[writer], &self.pages[page].words[writer]);
                let issued = of.issued.load(SeqCst);
                word.issued.store(issued, SeqCst);
                word.inherited.store(issued, SeqCst);
                word.seen.store(known.seen, SeqCst);
                child.pages[page].floor[writer].store(known.floor, SeqCst);
                // No zap since before the store means: none of the file either, so its count is the same as then.
                let mark = child.begun(page) & UNQUIET;
                if self.binds(page, known) {
                    word.stored.store(known.stored << 32 | mark, SeqCst);
                }
            }
        }
        child
    }
}

impl Zap<'_> {
    pub(crate) fn end(self, how: Zapped) {
        for &page in &self.pages {
            let page = &self.ledger.pages[page];
            for (writer, &finished) in self.finished.iter().enumerate() {
                if how != Zapped::Perhaps {
                    page.floor[writer].fetch_max(finished, SeqCst);
                }
                if how == Zapped::WithCopies {
                    page.truncated[writer].fetch_max(finished, SeqCst);
                }
            }
            page.ended.fetch_add(1, SeqCst);
        }
    }
}
