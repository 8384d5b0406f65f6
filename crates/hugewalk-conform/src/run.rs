//! Running programs on both sides.

use std::ops::{Deref, DerefMut};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::compare::{Comparison, Difference};
use crate::coverage::Coverage;
use crate::engine::{Engine, EngineError};
use crate::guard::{Guard, Guards};
use crate::kernel::{Kernel, KernelError, LeftBehind};
use crate::known::{self, KNOWN, Known, Met};
use crate::observe::{Outcome, Pool};
use crate::program::{
    Bytes, Call, FileKind, Handling, LONGEST_COPY, LONGEST_MINCORE, LONGEST_NODES, LONGEST_READ, PAGE,
    Places, Program, Step, WINDOW_SIZE,
};

/// How long a difference may be there before it counts. Whoever looks at a process in `/proc` holds on to its memory meanwhile, so
/// the pages of one that exits may come back a little later than it ends.
const PATIENCE: Duration = Duration::from_millis(500);
/// The same while a program is made shorter, which takes many runs.
const LITTLE_PATIENCE: Duration = Duration::from_millis(20);
/// How long the pool may take to come back at the end.
const COMING_BACK: Duration = Duration::from_secs(5);
/// How often a program that differs is run again, at most, before that is taken for chance.
const AGAIN: u32 = 3;

/// Both sides.
pub struct Sides {
    kernel: Kernel,
    engine: OneEngine,
    comparison: Comparison,
    patience: Duration,
    /// What has been seen so far.
    pub coverage: Coverage,
}

/// The engine's side: one engine after the other, for each has a task, and a thread has one.
///
/// # Invariants
///
/// There is one, except after a [`renew`](Self::renew) that failed. The run ends then.
struct OneEngine(Option<Engine>);

impl OneEngine {
    /// A new engine in place of the old one, which ends first.
    fn renew(&mut self) -> Result<(), EngineError> {
        self.0 = None;
        self.0 = Some(Engine::new()?);
        Ok(())
    }
}

impl Deref for OneEngine {
    type Target = Engine;
    fn deref(&self) -> &Engine {
        self.0.as_ref().expect("a run ends when its engine cannot be made anew")
    }
}

impl DerefMut for OneEngine {
    fn deref_mut(&mut self) -> &mut Engine {
        self.0.as_mut().expect("a run ends when its engine cannot be made anew")
    }
}

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kernel's side could not be set up.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The engine's side could not be set up.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Something went wrong in the middle of a program.
    #[error("{error}; it happened in step {step} of: {program}")]
    InProgram {
        /// What.
        error: KernelError,
        /// The step, from 1 on.
        step: usize,
        /// The program.
        program: Program,
    },
    /// A program is over, and the kernel's pool is not what it was.
    #[error(
        "the kernel's pool did not come back ({pool}); nothing more is run on it. The program was: {program}"
    )]
    NotBack {
        /// What the pool is.
        pool: Pool,
        /// The program.
        program: Program,
    },
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ran {
    /// It was carried out on both sides.
    Done {
        /// What it came to on the kernel.
        kernel: Outcome,
        /// And on the engine.
        engine: Outcome,
    },
    /// It names something that is not there.
    Idle,
    /// A guard kept it from being carried out.
    Guarded(Guard),
}

/// Why nothing follows from a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsure {
    /// The kernel found no memory for a huge page in one piece; the engine always has some.
    NoMemory,
    /// The same program did not differ when it was run again: what differed came from outside.
    NotAgain,
}

impl Unsure {
    /// A word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoMemory => "no memory for a huge page",
            Self::NotAgain => "not there again",
        }
    }
}

/// What became of a program.
#[derive(Clone, Debug)]
pub struct Report {
    /// Each step, with what became of it; after those of the program, the steps that ended it.
    pub steps: Vec<(Step, Ran)>,
    /// What differs after the last of them; nothing if the sides agree.
    pub differences: Vec<Difference>,
    /// What differs is meant to: the program ended there.
    pub known: Option<&'static Known>,
    /// What differs says nothing: the program ended there.
    pub unsure: Option<Unsure>,
}

impl Report {
    /// Does something differ that is not meant to, as far as that can be told?
    #[must_use]
    pub fn differs(&self) -> bool {
        !self.differences.is_empty() && self.known.is_none() && self.unsure.is_none()
    }

    /// What differs first: what stays the same while a program is made shorter.
    #[must_use]
    pub fn kind(&self) -> Option<(&'static str, String)> {
        let first = self.differences.first()?;
        // Without the numbers of processes, files and mappings, which shrinking changes.
        let kind = first.what.split(' ').filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
        let (step, _) = self.steps.last()?;
        Some((step.operation(), kind.collect::<Vec<_>>().join(" ")))
    }

    /// Steps that were carried out.
    #[must_use]
    pub fn carried_out(&self) -> u64 {
        self.steps.iter().filter(|(_, ran)| matches!(ran, Ran::Done { .. })).count() as u64
    }
}

impl Sides {
    /// Takes the kernel's pool over and makes an engine beside it.
    ///
    /// # Errors
    ///
    /// [`RunError::Kernel`] or [`RunError::Engine`].
    pub fn new(timeout: Duration) -> Result<Self, RunError> {
        let mut kernel = Kernel::take(timeout)?;
        let engine = OneEngine(Some(Engine::new()?));
        kernel.step(&Step::Overcommit { pages: 0 })?;
        kernel.step(&Step::Pool { pages: 0 })?;
        let comparison = Comparison {
            soft_dirty: kernel.tracks_soft_dirty(),
            memory_failures: kernel.tells_memory_failures(),
        };
        Ok(Self { kernel, engine, comparison, patience: PATIENCE, coverage: Coverage::default() })
    }

    /// What a run that was killed had left behind for this one.
    #[must_use]
    pub fn left_behind(&self) -> Option<LeftBehind> {
        self.kernel.left_behind()
    }

    /// Runs a program on both sides, up to the first difference; again, if there is one, to see whether it is the program's.
    ///
    /// # Errors
    ///
    /// [`RunError`]: nothing more can be run then.
    pub fn run(&mut self, program: &Program) -> Result<Report, RunError> {
        let mut first = self.run_once(program)?;
        if !first.differs() {
            return Ok(first);
        }
        for _ in 0..AGAIN {
            let again = self.run_once(program)?;
            if again.differs() || again.unsure.is_some() {
                return Ok(again);
            }
        }
        first.unsure = Some(Unsure::NotAgain);
        Ok(first)
    }

    /// Runs a program once, and does not wait long for a difference to go away: for those that are known to differ.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_briefly(&mut self, program: &Program) -> Result<Report, RunError> {
        self.patience = LITTLE_PATIENCE;
        let report = self.run_once(program);
        self.patience = PATIENCE;
        report
    }

    fn run_once(&mut self, program: &Program) -> Result<Report, RunError> {
        let mut report = Report { steps: Vec::new(), differences: Vec::new(), known: None, unsure: None };
        let places = program.places();
        let mut guards = Guards::default();
        // Every program starts with an empty pool, unless it sets the size at once.
        let opening = match program.steps.first() {
            Some(Step::Pool { .. }) => [Step::Overcommit { pages: 0 }].to_vec(),
            _ => [Step::Overcommit { pages: 0 }, Step::Pool { pages: 0 }].to_vec(),
        };
        let in_program = |step: usize| {
            move |error| RunError::InProgram { error, step: step + 1, program: program.clone() }
        };
        for step in &opening {
            self.kernel.step(step).map_err(in_program(0))?;
            self.engine.step(step);
        }
        let (shared, unshared) = self.engine.sharing();
        self.kernel.begin().map_err(in_program(0))?;
        self.engine.begin()?;
        for step in &program.steps {
            let number = report.steps.len();
            let ran = self.both(step, &places, &mut guards, &mut report).map_err(in_program(number))?;
            report.steps.push((step.clone(), ran));
            if !report.differences.is_empty() {
                break;
            }
        }
        while report.differences.is_empty()
            && let Some(step) = self.closing(&guards)
        {
            let number = report.steps.len();
            let ran = self.both(&step, &places, &mut guards, &mut report).map_err(in_program(number))?;
            report.steps.push((step, ran));
        }
        let sharing = self.engine.sharing();
        self.coverage.shared += sharing.0 - shared;
        self.coverage.unshared += sharing.1 - unshared;
        self.finish(program, &guards)?;
        Ok(report)
    }

    /// Looks whether each difference that is meant is still there. Those that are not.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn check_known(&mut self) -> Result<Vec<&'static Known>, RunError> {
        let mut outdated = Vec::new();
        for known in KNOWN.iter().filter(|known| known.kernels.is_running()) {
            let report = match known.example.parse::<Program>() {
                Ok(example) => self.run(&example)?,
                Err(_) => continue,
            };
            let is_there = report.known.is_some_and(|found| found.name == known.name);
            if !is_there && report.unsure.is_none() {
                outdated.push(known);
            }
        }
        self.coverage = Coverage::default();
        Ok(outdated)
    }

    /// One step on both sides.
    fn both(
        &mut self,
        step: &Step,
        places: &Places,
        guards: &mut Guards,
        report: &mut Report,
    ) -> Result<Ran, KernelError> {
        if !self.applies(step) {
            return Ok(Ran::Idle);
        }
        if let Some(guard) = guards.check(&mut self.engine, step) {
            self.coverage.guarded(guard);
            return Ok(Ran::Guarded(guard));
        }
        guards.note(step);
        let (kernel, kernel_faults) = self.kernel.step(step)?;
        let (engine, engine_faults) = self.engine.step(step);
        let engine = self.comparison.as_said(engine);
        let engine_seen = self.engine.observe(places, engine.clone(), engine_faults);
        let answers_agree = kernel == engine && kernel_faults == engine_faults;
        let begun = Instant::now();
        let mut pause = Duration::from_millis(1);
        loop {
            let kernel_seen = self.kernel.observe(places, kernel.clone(), kernel_faults)?;
            report.differences = self.comparison.compare(&kernel_seen, &engine_seen);
            if report.differences.is_empty() {
                break;
            }
            report.known = known::find(Met {
                step,
                minimum: guards.minimum(),
                kernel: &kernel_seen,
                engine: &engine_seen,
                differences: &report.differences,
            });
            // What a step has answered does not change any more, and what there is may have to settle.
            if report.known.is_some() || !answers_agree || begun.elapsed() >= self.patience {
                break;
            }
            sleep(pause);
            pause *= 2;
        }
        if !report.differences.is_empty() && report.known.is_none() && self.kernel.lacked_memory() {
            report.unsure = Some(Unsure::NoMemory);
        }
        self.coverage.known(report.known);
        self.coverage.step(step, &kernel, &engine);
        Ok(Ran::Done { kernel, engine })
    }

    /// Does everything a step names exist, and lies in the window?
    fn applies(&self, step: &Step) -> bool {
        let Engine { processes, files, mounts, .. } = &*self.engine;
        // A segment can be attached, and nothing else.
        let plain = |file: usize| files[file].as_ref().is_some_and(|file| !file.segment);
        match *step {
            Step::Pool { .. } | Step::Overcommit { .. } => true,
            Step::Mount { mount, .. } => mounts[mount].is_none(),
            Step::Unmount { mount } => mounts[mount].is_some(),
            Step::Open { file, kind } => {
                let has_mount = match kind {
                    FileKind::Memory => true,
                    FileKind::Segment { length, .. } => length.0 <= WINDOW_SIZE,
                    FileKind::On { mount } => mounts[mount].is_some(),
                };
                files[file].is_none() && has_mount
            }
            Step::Read { file, length, .. } => plain(file) && length <= LONGEST_READ,
            Step::Close { file } => files[file].is_some(),
            Step::Write { file, .. }
            | Step::Truncate { file, .. }
            | Step::Allocate { file, .. }
            | Step::Punch { file, .. } => plain(file),
            Step::In { process, ref call } => {
                let fits = |&(at, length): &(Bytes, Bytes)| {
                    at.0.checked_add(length.0).is_some_and(|end| end + 2 * PAGE <= WINDOW_SIZE)
                };
                let there = match *call {
                    Call::Fork { child } => processes[child].is_none(),
                    Call::Map(ref map) => map.file.is_none_or(|(file, _)| plain(file)),
                    Call::Attach { file, at, .. } => files[file]
                        .as_ref()
                        .is_some_and(|file| file.segment && fits(&(at, Bytes(file.file.size())))),
                    Call::Peek { length, .. } | Call::Poke { length, .. } => length <= LONGEST_READ,
                    Call::Mincore { length, .. } => length.0 <= LONGEST_MINCORE,
                    Call::Nodes { length, .. } => length.0 <= LONGEST_NODES,
                    _ => true,
                };
                let is_open = |handler: usize| {
                    processes[process].as_ref().is_some_and(|process| process.handlers[handler].is_some())
                };
                let handled = match *call {
                    Call::Userfault { handler, handling: Handling::Open { .. } } => !is_open(handler),
                    Call::Userfault { handling: Handling::Copy { length, .. }, .. }
                        if length.0 > LONGEST_COPY =>
                    {
                        false
                    }
                    Call::Userfault { handler, .. } => is_open(handler),
                    _ => true,
                };
                processes[process].is_some() && there && handled && call.ranges().iter().all(fits)
            }
        }
    }

    /// The next step towards the end: children before their parents, files and mounts last.
    fn closing(&mut self, guards: &Guards) -> Option<Step> {
        for process in (0..self.engine.processes.len()).rev() {
            let exit = Step::In { process, call: Call::Exit };
            if self.engine.processes[process].is_some() && guards.check(&mut self.engine, &exit).is_none() {
                return Some(exit);
            }
        }
        let file = self.engine.files.iter().position(Option::is_some).map(|file| Step::Close { file });
        let mount =
            || self.engine.mounts.iter().position(Option::is_some).map(|mount| Step::Unmount { mount });
        file.or_else(mount)
    }

    /// Ends a program on both sides, wherever it stands, and sees that the kernel has all pages back.
    fn finish(&mut self, program: &Program, guards: &Guards) -> Result<(), RunError> {
        let in_program =
            |error| RunError::InProgram { error, step: program.steps.len(), program: program.clone() };
        // One after the other, as the guards want it, also where the sides disagree.
        while let Some(step) = self.closing(guards) {
            self.engine.step(&step);
            self.kernel.close(&step).map_err(in_program)?;
        }
        self.kernel.end().map_err(in_program)?;
        let begun = Instant::now();
        let pool = loop {
            let pool = self.kernel.pool().map_err(in_program)?;
            if pool.free == pool.total && pool.reserved == 0 && pool.surplus == 0 {
                break pool;
            }
            if begun.elapsed() > COMING_BACK {
                return Err(RunError::NotBack { pool, program: program.clone() });
            }
            sleep(Duration::from_millis(10));
        };
        // A size that was set below what was in use is reached on both sides by now; or else one of them is wrong.
        let engine = self.engine.pool();
        if engine != pool {
            self.engine.renew()?;
            self.engine.step(&Step::Pool { pages: pool.total });
        }
        Ok(())
    }
}
