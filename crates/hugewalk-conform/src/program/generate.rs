//! Random programs.
//!
//! A generator remembers roughly what its program has mapped, so that most steps meet something. Nothing depends on that
//! being right: a step that meets nothing is a step too.

use fastrand::Rng;

use super::{
    Advice, Bytes, Call, FILES, FileKind, GIB, Handling, LONGEST_COPY, LONGEST_MINCORE, LONGEST_NODES,
    MOUNTS, Map, MapFlags, Modes, OnRange, PAGE, PROCESSES, Program, Rights, Step, To,
};

/// What kind of program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Few pages, a small pool that runs empty.
    Small,
    /// Whole aligned ranges of 1 GiB, whose tables can be shared.
    Giant,
    /// Files on mounts with limits.
    Mounts,
}

/// What the program may have mapped.
#[derive(Clone, Debug)]
struct Mapped {
    at: u64,
    length: u64,
}

/// Makes one program from a seed.
pub struct Generator {
    rng: Rng,
    kind: Kind,
    steps: Vec<Step>,
    processes: [Option<Vec<Mapped>>; PROCESSES],
    files: [bool; FILES],
    /// The lengths of those that are segments.
    segments: [Option<u64>; FILES],
    mounts: [bool; MOUNTS],
    /// Faults have handlers in this program.
    handles: bool,
    /// What each process has registered, if it has a handler.
    handlers: [Option<Vec<Mapped>>; PROCESSES],
}

impl Generator {
    /// The generator of one program.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let kind = match rng.u8(0..10) {
            0..5 => Kind::Small,
            5..8 => Kind::Giant,
            _ => Kind::Mounts,
        };
        let handles = rng.u8(0..3) == 0;
        Self {
            rng,
            kind,
            steps: Vec::new(),
            processes: [Some(Vec::new()), None, None, None],
            files: [false; FILES],
            segments: [None; FILES],
            mounts: [false; MOUNTS],
            handles,
            handlers: [const { None }; PROCESSES],
        }
    }

    /// The program.
    #[must_use]
    pub fn program(mut self) -> Program {
        self.opening();
        if self.kind == Kind::Giant && !self.one_in(4) {
            self.family();
        }
        if self.handles && !self.one_in(4) {
            self.handled();
        }
        let steps = self.rng.usize(6..32);
        for _ in 0..steps {
            let step = self.step();
            self.steps.extend(step);
        }
        Program { steps: self.steps }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(0..n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.usize(0..from.len())]
    }

    fn opening(&mut self) {
        let kind = self.kind;
        let pages = match kind {
            Kind::Small => self.rng.u64(2..24),
            Kind::Giant if self.one_in(4) => 700,
            Kind::Giant => self.rng.u64(8..40),
            Kind::Mounts => self.rng.u64(8..40),
        };
        self.steps.push(Step::Pool { pages });
        if self.kind == Kind::Small && self.one_in(3) {
            let pages = self.rng.u64(1..6);
            self.steps.push(Step::Overcommit { pages });
        }
        if self.kind == Kind::Mounts {
            for mount in 0..self.rng.usize(1..=MOUNTS) {
                let step = self.mount(mount);
                self.steps.push(step);
            }
        }
        let files = self.rng.usize(0..=FILES);
        for file in 0..files {
            let on = self.file_kind();
            self.opened(file, on);
            self.steps.push(Step::Open { file, kind: on });
            if self.segments[file].is_none() && !self.one_in(4) {
                let size = match kind {
                    Kind::Giant if !self.one_in(4) => self.rng.u64(1..=2) * GIB + self.rng.u64(0..3) * PAGE,
                    _ => self.rng.u64(0..10) * PAGE,
                };
                self.steps.push(Step::Truncate { file, size: Bytes(size) });
            }
        }
    }

    /// A process with an aligned shared mapping that has pages, and children that have touched it: their tables are shared.
    fn family(&mut self) {
        let (read_write, shared) = (Rights::READ | Rights::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        let (at, length) = (self.rng.u64(1..4) * GIB, self.rng.u64(1..=2) * GIB + self.rng.u64(0..3) * PAGE);
        let file = if self.one_in(3) { None } else { self.open_file().map(|file| (file, Bytes(0))) };
        let flags = shared | MapFlags::NO_RESERVE;
        let map = Map { file, at: Bytes(at), length: Bytes(length), rights: read_write, flags };
        self.steps.push(Step::In { process: 0, call: Call::Map(map) });
        self.processes[0].get_or_insert_default().insert(0, Mapped { at, length });
        let touch = |generator: &mut Self, process| {
            for _ in 0..generator.rng.usize(1..5) {
                let page = generator.rng.u64(0..3) * PAGE + generator.rng.u64(0..length / GIB) * GIB;
                let call = Call::Store { at: Bytes(at + page), value: generator.rng.u8(1..) };
                generator.steps.push(Step::In { process, call });
            }
        };
        touch(self, 0);
        for _ in 0..self.rng.usize(1..PROCESSES) {
            let parent = self.living().unwrap_or_default();
            let Some(call) = self.fork(parent) else { break };
            let Call::Fork { child } = call else { break };
            self.steps.push(Step::In { process: parent, call });
            touch(self, child);
        }
    }

    /// A process with a mapping of which it handles faults.
    fn handled(&mut self) {
        let file = if self.one_in(4) { None } else { self.open_file().map(|file| (file, Bytes(0))) };
        let Mapped { at, length } = match self.mapped(0) {
            Some(mapped) => mapped,
            None => {
                let (at, length) = (self.place(), self.rng.u64(2..8) * PAGE);
                let mut flags = MapFlags::FIXED;
                flags.set(MapFlags::SHARED, !self.one_in(3));
                flags.set(MapFlags::NO_RESERVE, self.one_in(5));
                let rights = Rights::READ | Rights::WRITE;
                let map = Map { file, at: Bytes(at), length: Bytes(length), rights, flags };
                self.steps.push(Step::In { process: 0, call: Call::Map(map) });
                self.processes[0].get_or_insert_default().insert(0, Mapped { at, length });
                Mapped { at, length }
            }
        };
        for _ in 0..self.rng.usize(0..3) {
            let page = self.rng.u64(0..(length / PAGE).min(4));
            let call = Call::Store { at: Bytes(at + page * PAGE), value: self.rng.u8(1..) };
            self.steps.push(Step::In { process: 0, call });
        }
        self.handlers[0] = Some(vec![Mapped { at, length }]);
        let register = Handling::Register { at: Bytes(at), length: Bytes(length), modes: self.modes() };
        for handling in [Handling::Open, register] {
            self.steps.push(Step::In { process: 0, call: Call::Userfault(handling) });
        }
    }

    fn modes(&mut self) -> Modes {
        let (missing, wp, minor) = (Modes::MISSING, Modes::WP, Modes::MINOR);
        self.pick(&[missing, missing, wp, wp, minor, missing | wp, missing | minor, wp | minor, Modes::all()])
    }

    fn mount(&mut self, mount: usize) -> Step {
        self.mounts[mount] = true;
        let size = (!self.one_in(3)).then(|| self.rng.u64(1..10));
        let min = self.one_in(2).then(|| self.rng.u64(1..6));
        Step::Mount { mount, size, min }
    }

    fn file_kind(&mut self) -> FileKind {
        if self.one_in(5) {
            let giant = self.kind == Kind::Giant;
            let length = match self.rng.u8(0..12) {
                0 => 0,
                1 => PAGE + 4096,
                _ if giant => self.rng.u64(1..=2) * GIB + self.rng.u64(0..2) * PAGE,
                _ => self.rng.u64(1..8) * PAGE,
            };
            let reserve = if giant { self.one_in(4) } else { !self.one_in(4) };
            return FileKind::Segment { length: Bytes(length), reserve };
        }
        let mounts: Vec<usize> = (0..MOUNTS).filter(|&mount| self.mounts[mount]).collect();
        if mounts.is_empty() || self.one_in(5) {
            return FileKind::Memory;
        }
        FileKind::On { mount: self.pick(&mounts) }
    }

    fn opened(&mut self, file: usize, kind: FileKind) {
        self.files[file] = true;
        self.segments[file] = match kind {
            FileKind::Segment { length, .. } => Some(length.0),
            FileKind::Memory | FileKind::On { .. } => None,
        };
    }

    /// A segment is attached, mostly at a place of its own.
    fn attach(&mut self, process: usize) -> Option<Call> {
        let segments: Vec<usize> = (0..FILES).filter(|&file| self.segments[file].is_some()).collect();
        if segments.is_empty() || self.one_in(3) {
            return None;
        }
        let file = self.pick(&segments);
        let length = self.segments[file]?.next_multiple_of(PAGE);
        let odd = if self.one_in(10) { self.pick(&[1, 4096]) } else { 0 };
        let at = Bytes(self.place());
        self.processes[process].as_mut()?.insert(0, Mapped { at: at.0, length });
        Some(Call::Attach { file, at: Bytes(at.0 + odd), replace: self.one_in(3) })
    }

    fn living(&mut self) -> Option<usize> {
        let living: Vec<usize> =
            (0..PROCESSES).filter(|&process| self.processes[process].is_some()).collect();
        if living.is_empty() { None } else { Some(self.pick(&living)) }
    }

    fn open_file(&mut self) -> Option<usize> {
        let open: Vec<usize> =
            (0..FILES).filter(|&file| self.files[file] && self.segments[file].is_none()).collect();
        if open.is_empty() { None } else { Some(self.pick(&open)) }
    }

    fn step(&mut self) -> Option<Step> {
        let roll = self.rng.u32(0..100);
        if roll >= 88 {
            return self.file_step();
        }
        let process = self.living()?;
        if self.handles && self.one_in(3) {
            return Some(Step::In { process, call: Call::Userfault(self.handle(process)?) });
        }
        let call = match roll {
            0..16 => match self.attach(process) {
                Some(attach) => attach,
                None => self.map(process)?,
            },
            // Now and then of what was never a segment.
            58..60 if self.segments.iter().any(Option::is_some) => {
                Call::Detach { at: Bytes(self.mapped(process)?.at) }
            }
            16..36 => Call::Store { at: self.spot(process)?, value: self.rng.u8(1..) },
            36..45 => Call::Load { at: self.spot(process)? },
            45..48 => self.transfer()?,
            48..55 => self.fork(process)?,
            55..58 => {
                self.processes[process] = None;
                self.handlers[process] = None;
                Call::Exit
            }
            58..63 => {
                let (at, length) = self.part(process)?;
                Call::Unmap { at, length }
            }
            63..69 => {
                let (at, length) = self.part(process)?;
                Call::Protect { at, length, rights: self.rights() }
            }
            69..74 => self.remap(process)?,
            74..83 => self.advise(process)?,
            83..86 if self.one_in(3) => {
                let (at, length) = self.part(process)?;
                Call::Nodes { at, length: Bytes(length.0.min(LONGEST_NODES)), moved: self.one_in(2) }
            }
            83..86 => {
                let (at, length) = self.part(process)?;
                Call::Mincore { at, length: Bytes(length.0.min(LONGEST_MINCORE)) }
            }
            _ => {
                let (at, length) = self.part(process)?;
                // A page of the machine's for each page of the range.
                Call::Sweep { at: at.page(), length: Bytes(length.page().0.min(16 * PAGE)) }
            }
        };
        Some(Step::In { process, call })
    }

    /// One process reads or writes the memory of another, or of itself; of one that is not there now and then.
    fn transfer(&mut self) -> Option<Call> {
        let of = self.living()?;
        let mut at = self.spot(of)?;
        // Up to the end of a page, and over it.
        if self.one_in(3) {
            at.0 = (at.0 + PAGE - 4).max(PAGE) - PAGE;
        }
        let of = if self.one_in(12) { self.rng.usize(0..PROCESSES) } else { of };
        let length = self.rng.u64(0..12);
        Some(if self.one_in(2) {
            Call::Peek { of, at, length }
        } else {
            Call::Poke { of, at, length, value: self.rng.u8(1..) }
        })
    }

    fn fork(&mut self, process: usize) -> Option<Call> {
        let child = (0..PROCESSES).find(|&place| self.processes[place].is_none())?;
        self.processes[child] = self.processes[process].clone();
        Some(Call::Fork { child })
    }

    fn rights(&mut self) -> Rights {
        let (r, w) = (Rights::READ, Rights::WRITE);
        self.pick(&[r | w, r | w, r | w, r | w, r, r, Rights::empty(), w, r | Rights::EXECUTE, Rights::all()])
    }

    /// Where something may be mapped.
    fn place(&mut self) -> u64 {
        let kind = self.kind;
        match kind {
            Kind::Giant if !self.one_in(4) => self.rng.u64(1..6) * GIB,
            // On both sides of a boundary.
            _ => self.rng.u64(1..3) * GIB + self.rng.u64(0..24) * PAGE - 8 * PAGE,
        }
    }

    fn map(&mut self, process: usize) -> Option<Call> {
        let mut flags = MapFlags::empty();
        let file = if self.one_in(4) { None } else { self.open_file() };
        let kind = self.kind;
        let mut length = match kind {
            Kind::Giant if !self.one_in(3) => self.rng.u64(1..=2) * GIB + self.rng.u64(0..2) * PAGE,
            _ => self.rng.u64(1..8) * PAGE,
        };
        let offset = match self.kind {
            Kind::Giant => self.pick(&[0, 0, 0, GIB, PAGE]),
            _ => self.pick(&[0, 0, 0, PAGE, 2 * PAGE, 3 * PAGE]),
        };
        let giant = length >= GIB;
        flags.set(MapFlags::SHARED, giant || self.one_in(2));
        flags.set(MapFlags::NO_RESERVE, if giant { !self.one_in(4) } else { self.one_in(5) });
        flags.set(MapFlags::POPULATE, !giant && self.one_in(12));
        flags.set(MapFlags::LOCKED, !giant && self.one_in(25));
        match self.rng.u8(0..10) {
            0..7 => flags |= MapFlags::FIXED,
            7..9 => flags |= MapFlags::NO_REPLACE,
            _ => {}
        }
        let mut at = self.place();
        if let Some(first) = self.processes[process].as_ref()?.first().cloned()
            && self.one_in(6)
        {
            at = first.at + first.length;
        }
        let mut offset = Bytes(offset);
        // Now and then something that has to be refused, or rounded.
        match self.rng.u8(0..40) {
            0 => at += 4096,
            1 => length += 4096,
            2 => offset.0 += 4096,
            3 => length = 0,
            4 => at += 1,
            _ => {}
        }
        self.processes[process].as_mut()?.insert(0, Mapped { at: Bytes(at).page().0, length });
        let file = file.map(|file| (file, offset));
        let rights = if self.one_in(6) { self.rights() } else { Rights::READ | Rights::WRITE };
        Some(Call::Map(Map { file, at: Bytes(at), length: Bytes(length), rights, flags }))
    }

    /// One of the mappings; the latest ones more often.
    fn mapped(&mut self, process: usize) -> Option<Mapped> {
        let mapped = self.processes[process].as_ref()?;
        if mapped.is_empty() {
            return None;
        }
        let one = self.rng.usize(0..mapped.len()).min(self.rng.usize(0..mapped.len()));
        Some(mapped[one].clone())
    }

    /// A part of what is mapped, give or take.
    fn part(&mut self, process: usize) -> Option<(Bytes, Bytes)> {
        let Mapped { at, length, .. } = self.mapped(process)?;
        let pages = (length / PAGE).max(1);
        let (first, count) = match self.rng.u8(0..10) {
            0..3 => (0, pages),
            3..5 => (0, self.rng.u64(1..=pages)),
            5 => (0, pages + self.rng.u64(1..4)),
            _ => {
                let first = self.rng.u64(0..pages);
                (first, self.rng.u64(1..=(pages - first).min(4)))
            }
        };
        let (mut at, mut length) = (at + first * PAGE, count * PAGE);
        match self.rng.u8(0..40) {
            0 => at += 4096,
            1 => length += 4096,
            2 => length = 0,
            3 => length -= 4096,
            4 => at += 1,
            _ => {}
        }
        Some((Bytes(at), Bytes(length)))
    }

    fn spot(&mut self, process: usize) -> Option<Bytes> {
        let Mapped { at, length, .. } = self.mapped(process)?;
        let pages = (length / PAGE).max(1);
        let page = match self.rng.u8(0..8) {
            0 => pages - 1,
            1 => pages,
            2 => self.rng.u64(0..pages),
            _ => self.rng.u64(0..pages.min(4)),
        };
        let byte = self.pick(&[0, 0, 0, 4096, PAGE - 1]);
        Some(Bytes(at + page * PAGE + byte))
    }

    fn remap(&mut self, process: usize) -> Option<Call> {
        let (at, length) = if self.one_in(2) {
            let mapped = self.mapped(process)?;
            (Bytes(mapped.at), Bytes(mapped.length))
        } else {
            self.part(process)?
        };
        let kept = match self.rng.u8(0..12) {
            0..8 => length,
            8 => Bytes(length.0 + PAGE),
            9 => Bytes(length.0 / 2),
            10 => Bytes(0),
            _ => Bytes(length.page().0 / 2 / PAGE * PAGE),
        };
        let to = match self.rng.u8(0..8) {
            0 => To::InPlace,
            1 => To::Anywhere,
            2 => To::Fixed(Bytes(at.0 + PAGE)),
            3 => To::Fixed(Bytes(self.place() + 4096)),
            _ => {
                let to = Bytes(self.rng.u64(6..9) * GIB + self.rng.u64(1..20) * PAGE);
                self.processes[process].as_mut()?.insert(0, Mapped { at: to.0, length: kept.0 });
                To::Fixed(to)
            }
        };
        Some(Call::Remap { at, length, kept, to })
    }

    fn advise(&mut self, process: usize) -> Option<Call> {
        let (at, mut length) = self.part(process)?;
        let advice = match self.rng.u8(0..12) {
            10 => self.pick(&[Advice::DontDump, Advice::DoDump]),
            11 => self.pick(&[Advice::DontFork, Advice::DoFork]),
            0..5 => Advice::DontNeed,
            5..7 => Advice::Remove,
            7 => Advice::PopulateRead,
            _ => Advice::PopulateWrite,
        };
        if matches!(advice, Advice::PopulateRead | Advice::PopulateWrite) {
            length.0 = length.0.min(8 * PAGE);
        }
        Some(Call::Advise { at, length, advice })
    }

    fn handle(&mut self, process: usize) -> Option<Handling> {
        let Some(registered) = &self.handlers[process] else {
            self.handlers[process] = Some(Vec::new());
            return Some(Handling::Open);
        };
        let none = registered.is_empty();
        let roll = self.rng.u8(0..32);
        if roll == 0 {
            self.handlers[process] = None;
            return Some(Handling::Close);
        }
        if none || roll < 6 {
            let (at, length) = self.part(process)?;
            let modes = if self.one_in(40) { Modes::empty() } else { self.modes() };
            let range = Mapped { at: at.page().0, length: length.0 };
            self.handlers[process].as_mut()?.insert(0, range);
            return Some(Handling::Register { at, length, modes });
        }
        // Mostly what was registered; now and then anything.
        let (mut at, mut length) = self.part(process)?;
        if !self.one_in(8) {
            let count = self.handlers[process].as_ref()?.len();
            let which = self.rng.usize(0..count).min(self.rng.usize(0..count));
            let range = self.handlers[process].as_ref()?[which].clone();
            let pages = (range.length / PAGE).max(1);
            let first = self.rng.u64(0..pages.min(4));
            at = Bytes(range.at + first * PAGE);
            length = Bytes(self.rng.u64(1..=(pages - first).min(4)) * PAGE);
            match self.rng.u8(0..30) {
                0 => at.0 += 4096,
                1 => length.0 += 4096,
                2 => length.0 = 0,
                3 => length = Bytes(range.length),
                _ => {}
            }
        }
        let what = match roll {
            6..14 => {
                let length = Bytes(length.0.min(LONGEST_COPY));
                return Some(Handling::Copy {
                    at,
                    length,
                    value: self.rng.u8(1..),
                    protected: self.one_in(4),
                });
            }
            14..20 => OnRange::Continue,
            20..26 => OnRange::Protect,
            26..29 => OnRange::Unprotect,
            29 => OnRange::Unregister,
            30 => OnRange::Zero,
            _ => OnRange::Wake,
        };
        Some(Handling::On { at, length, what })
    }

    fn file_step(&mut self) -> Option<Step> {
        let roll = self.rng.u8(0..24);
        match roll {
            0 => {
                let pages = self.rng.u64(0..24);
                return Some(Step::Pool { pages });
            }
            1 => {
                let pages = self.rng.u64(0..5);
                return Some(Step::Overcommit { pages });
            }
            2 => {
                let file = (0..FILES).find(|&file| !self.files[file])?;
                let kind = self.file_kind();
                self.opened(file, kind);
                return Some(Step::Open { file, kind });
            }
            3 => {
                let mount = self.rng.usize(0..MOUNTS);
                if self.mounts[mount] {
                    self.mounts[mount] = false;
                    return Some(Step::Unmount { mount });
                }
                return (self.kind == Kind::Mounts).then(|| self.mount(mount));
            }
            _ => {}
        }
        if roll == 4
            && let Some(file) = (0..FILES).find(|&file| self.segments[file].is_some())
        {
            self.files[file] = false;
            self.segments[file] = None;
            return Some(Step::Close { file });
        }
        let file = self.open_file()?;
        let from = self.extent();
        let length = self.extent();
        Some(match roll {
            4 => {
                self.files[file] = false;
                Step::Close { file }
            }
            5..11 => Step::Truncate { file, size: from },
            11..15 => {
                Step::Allocate { file, from, length: Bytes(length.0.min(6 * PAGE)), keep: self.one_in(2) }
            }
            15..21 => Step::Punch { file, from, length },
            21 if self.one_in(6) => Step::Write { file, at: from, value: 7 },
            _ => Step::Read { file, from, length: self.rng.u64(0..20) },
        })
    }

    fn extent(&mut self) -> Bytes {
        let pages = self.rng.u64(0..8);
        let giant = if self.kind == Kind::Giant && self.one_in(3) { GIB } else { 0 };
        let odd = if self.one_in(6) { self.pick(&[1, 4096, PAGE - 4096]) } else { 0 };
        Bytes(giant + pages * PAGE + odd)
    }
}
