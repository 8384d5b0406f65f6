//! Random programs.
//!
//! A generator remembers roughly what its program has mapped, so that most steps meet something. Nothing depends on that
//! being right: a step that meets nothing is a step too.

mod files;
mod handler;
mod memory;

use fastrand::Rng;

use super::{
    Bytes, Call, FILES, GIB, HANDLERS, LONGEST_MINCORE, LONGEST_NODES, MOUNTS, Map, MapFlags, PAGE,
    PROCESSES, Program, Rights, Step,
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
    /// What each process has registered with each handler that it has.
    handlers: [[Option<Vec<Mapped>>; HANDLERS]; PROCESSES],
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
            handlers: [const { [const { None }; HANDLERS] }; PROCESSES],
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

    fn living(&mut self) -> Option<usize> {
        let living: Vec<usize> =
            (0..PROCESSES).filter(|&process| self.processes[process].is_some()).collect();
        if living.is_empty() { None } else { Some(self.pick(&living)) }
    }

    fn step(&mut self) -> Option<Step> {
        let roll = self.rng.u32(0..100);
        if roll >= 88 {
            return self.file_step();
        }
        let process = self.living()?;
        if self.handles && self.one_in(3) {
            return Some(Step::In { process, call: self.handle(process)? });
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
                self.handlers[process] = [const { None }; HANDLERS];
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
            74..83 if self.one_in(4) => self.lock_or_bind(process)?,
            74..83 => self.advise(process)?,
            83..86 if self.one_in(3) => {
                let (at, length) = self.part(process)?;
                Call::Nodes { at, length: Bytes(length.0.min(LONGEST_NODES)), moved: self.one_in(2) }
            }
            83..86 if self.handles => self.scan(process)?,
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

    fn fork(&mut self, process: usize) -> Option<Call> {
        let child = (0..PROCESSES).find(|&place| self.processes[place].is_none())?;
        self.processes[child] = self.processes[process].clone();
        Some(Call::Fork { child })
    }
}
