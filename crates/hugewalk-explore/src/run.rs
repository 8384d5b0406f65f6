//! Exploring a program, and what is said of it.

use std::cell::Cell;
use std::fmt;
use std::panic::{self, PanicHookInfo};
use std::sync::Once;
use std::time::Duration;

use crate::draw;
use crate::explorer::{
    Chance, Counterexample, Coverage, Deadlock, Explorer, Livelock, Options, Report, Schedule, Setup,
    in_thread, violation,
};
use crate::state::{self, MACHINE};
use crate::thread;

/// The environment variable that makes [`explore`] and [`Explore::run`] run one schedule instead of all.
pub const REPLAY: &str = "HUGEWALK_EXPLORE_REPLAY";

/// Runs a program under every interleaving of its threads.
///
/// The closure is the first thread of each run; it begins the others by [`thread::spawn`]. It is called many times, each time
/// anew, and has to do the same each time as far as it depends on the schedule alone.
///
/// # Panics
///
/// If a run goes wrong: a thread panics, threads wait for each other, or one runs on without end. The message says what went
/// wrong, draws a shortest run in which it does, and names the schedule of that run. Also if there were too many runs to make all
/// of them: see [`Explore`] for what to do then.
pub fn explore(program: impl Fn()) -> Explored {
    Explore::new().run(program)
}

/// How to explore a program.
///
/// ```
/// use hugewalk_explore::{Explore, thread};
///
/// let explored = Explore::new().preemptions(1).run(|| {
///     let other = thread::spawn(|| 1);
///     assert_eq!(other.join().unwrap(), 1);
/// });
/// assert!(explored.executions >= 1);
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is explored before `run`"]
pub struct Explore {
    options: Options,
    way: Way,
    seed: u64,
    most_accesses: u32,
    lock_order: bool,
    incomplete: bool,
    set_back: bool,
}

#[derive(Clone, Debug)]
enum Way {
    All,
    Chance(Chance, u64),
    Replay(String),
}

impl Default for Explore {
    fn default() -> Self {
        Self::new()
    }
}

impl Explore {
    /// All schedules: first those with at most 0, 1 and 2 preemptions, which find most mistakes, then all, but for those that
    /// differ only in the order of steps that commute. At most five million runs of each.
    pub fn new() -> Self {
        Self {
            options: Options::default(),
            way: Way::All,
            seed: 0,
            most_accesses: 20_000,
            lock_order: false,
            incomplete: false,
            set_back: false,
        }
    }

    /// Only schedules in which at most so many turns are taken from a thread that could have gone on. Most mistakes take one or
    /// two.
    pub fn preemptions(mut self, most: u32) -> Self {
        (self.options.preemptions, self.options.unbounded, self.way) = (most, false, Way::All);
        self
    }

    /// So many schedules in which any of the threads that can move does. Finds mistakes, and excludes none.
    pub fn random(mut self, runs: u64) -> Self {
        self.way = Way::Chance(Chance::Plain, runs);
        self
    }

    /// So many schedules by priorities that change at `changes` places (probabilistic concurrency testing): a mistake that takes
    /// few switches is found with a chance that has a lower bound.
    pub fn pct(mut self, runs: u64, changes: u32) -> Self {
        self.way = Way::Chance(Chance::Pct { changes }, runs);
        self
    }

    /// So many schedules by partial-order sampling: an order of steps that do not commute is not found less often because few
    /// schedules are equal to it.
    pub fn partial_order(mut self, runs: u64) -> Self {
        self.way = Way::Chance(Chance::PartialOrder, runs);
        self
    }

    /// Where schedules by chance begin. The same seed gives the same schedules.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// One schedule, as a report names it.
    pub fn replay(mut self, schedule: &str) -> Self {
        self.way = Way::Replay(schedule.to_owned());
        self
    }

    /// At most so many runs of each bound on preemptions, and of all schedules.
    pub fn executions(mut self, most: u64) -> Self {
        (self.options.executions, self.options.shortening) = (most, most);
        self
    }

    /// Calls a run that takes more steps than this a livelock: by default 20,000.
    ///
    /// # Panics
    ///
    /// If it is more than 32,000.
    pub fn accesses(mut self, most: u32) -> Self {
        assert!(most <= 32_000, "more than 32,000 accesses");
        self.most_accesses = most;
        self
    }

    /// Reports locks that are taken in two orders, whether a run hangs or not.
    pub fn lock_order(mut self) -> Self {
        self.lock_order = true;
        self
    }

    /// Does not call it a failure if not all runs were made. [`Explored::coverage`] says how far it came.
    pub fn allow_incomplete(mut self) -> Self {
        self.incomplete = true;
        self
    }

    /// Sets runs back to where they part from the one before, instead of starting each anew: several times as fast for long
    /// runs. Without an effect unless [`Allocator`](crate::explorer::Allocator) is the global allocator.
    ///
    /// # Safety
    ///
    /// A run changes nothing but its own variables, what it has allocated itself, and what this crate has: nothing that it
    /// allocates outlives it, and nothing that was there before it is changed, freed or grown by it. In particular it prints
    /// nothing, and puts nothing into statics, thread-local variables and what the closure captured.
    pub unsafe fn set_back(mut self) -> Self {
        self.set_back = true;
        self
    }

    /// Explores a program.
    ///
    /// # Panics
    ///
    /// As [`explore`].
    pub fn run(&self, program: impl Fn()) -> Explored {
        match self.try_run(program) {
            Ok(explored) => explored,
            Err(failure) => panic!("{failure}"),
        }
    }

    /// Explores a program, and returns what went wrong.
    ///
    /// # Errors
    ///
    /// A run that goes wrong, or the reason why not all were made.
    ///
    /// # Panics
    ///
    /// If it is called by a thread of a program that is explored.
    pub fn try_run(&self, program: impl Fn()) -> Result<Explored, Failure> {
        tell_panics();
        let asked = std::env::var(REPLAY).ok().map(Way::Replay);
        let program: &dyn Fn() = &program;
        // SAFETY: no thread of the program runs any more when this function returns.
        let program = unsafe { std::mem::transmute::<&dyn Fn(), &'static dyn Fn()>(program) };
        let set_up = move |setup: &mut Setup| {
            state::begin_run();
            setup.thread("main", move || drop(thread::run(&thread::first(), program)));
        };
        let report = match asked.as_ref().unwrap_or(&self.way) {
            Way::All => self.explorer(&set_up).check(&self.options),
            &Way::Chance(chance, runs) => self.explorer(&set_up).sample(chance, runs, self.seed),
            Way::Replay(schedule) => {
                let schedule = schedule.parse().map_err(|error| Failure::new(&error, None))?;
                return self.follow(&schedule, &set_up);
            }
        };
        let Report { counterexample, coverage, executions, asleep, time, .. } = report;
        if let Some(found) = counterexample {
            return Err(self.tell(&found, executions, &set_up));
        }
        let explored = Explored { coverage, executions, asleep, time };
        if matches!(self.way, Way::All) && !self.incomplete && !self.is_complete(coverage) {
            return Err(Failure::new(&TooLarge(explored), None));
        }
        Ok(explored)
    }

    fn explorer<'p>(&self, program: &'p dyn Fn(&mut Setup)) -> Explorer<'p> {
        let mut explorer = Explorer::new(program).with_most_accesses(self.most_accesses);
        if !self.lock_order {
            explorer = explorer.ignoring_lock_order();
        }
        if self.set_back { explorer.rewinding(MACHINE) } else { explorer }
    }

    fn is_complete(&self, coverage: Coverage) -> bool {
        match coverage {
            Coverage::Everything => true,
            Coverage::Preemptions(most) => !self.options.unbounded && most >= self.options.preemptions,
            Coverage::Some => false,
        }
    }

    /// Runs one schedule.
    fn follow(&self, schedule: &Schedule, program: &dyn Fn(&mut Setup)) -> Result<Explored, Failure> {
        let replayed = self.explorer(program).replay(schedule, || ()).map_err(|error| {
            Failure::new(&format!("the schedule is not one of this program: {error}"), None)
        })?;
        match &replayed.counterexample {
            None => Ok(Explored { coverage: Coverage::Some, executions: 1, asleep: 0, time: Duration::ZERO }),
            Some(found) => Err(Failure {
                text: what_went_wrong(found),
                found: Some(Found {
                    schedule: schedule.to_string(),
                    switches: schedule.switches(),
                    accesses: schedule.steps(),
                    shortest: false,
                    executions: 1,
                    drawing: draw::draw(&replayed),
                }),
            }),
        }
    }

    /// Runs what went wrong once more, and draws it.
    fn tell(&self, found: &Counterexample, executions: u64, program: &dyn Fn(&mut Setup)) -> Failure {
        let drawing = match self.explorer(program).replay(&found.schedule, || ()) {
            Ok(replayed) => draw::draw(&replayed),
            Err(error) => format!(
                "The run cannot be repeated ({error}): it depends on more than the schedule, such as time, a random number, an \
                 address, or what a run before it has left behind.\n"
            ),
        };
        let Counterexample { schedule, shortest, .. } = found;
        Failure {
            text: what_went_wrong(found),
            found: Some(Found {
                schedule: schedule.to_string(),
                switches: schedule.switches(),
                accesses: schedule.steps(),
                shortest: *shortest,
                executions,
                drawing,
            }),
        }
    }
}

fn what_went_wrong(found: &Counterexample) -> String {
    let mut text = found.text.clone();
    if found.what.is::<Livelock>() {
        text.push_str(
            "; if a loop waits for another thread, call hint::spin_loop() or thread::yield_now() in it",
        );
    } else if found.what.is::<Deadlock>() {
        text.push_str(", or run on for ever in a loop that waits");
    }
    text
}

/// What was explored, and nothing was found in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explored {
    /// Which schedules.
    pub coverage: Coverage,
    /// Runs that were made.
    pub executions: u64,
    /// Runs that were given up half way, since they would have been equal to others: the cost of the reduction.
    pub asleep: u64,
    /// How long it took.
    pub time: Duration,
}

/// There were more runs than were allowed.
struct TooLarge(Explored);

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explored { coverage, executions, time, .. } = self.0;
        let seconds = time.as_secs_f64();
        write!(
            f,
            "not all schedules were explored: nothing goes wrong in {executions} runs ({seconds:.1} s)"
        )?;
        if let Coverage::Preemptions(most) = coverage {
            write!(f, ", among them all with at most {most} preemptions")?;
        }
        f.write_str(
            ". Make the program smaller, set a bound by Explore::preemptions, raise Explore::executions, take \
             samples (Explore::pct), or say that this is enough (Explore::allow_incomplete)",
        )
    }
}

/// A run that goes wrong, or why the runs were not made.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    text: String,
    found: Option<Found>,
}

#[derive(Clone, PartialEq, Eq)]
struct Found {
    schedule: String,
    switches: u32,
    accesses: u32,
    shortest: bool,
    executions: u64,
    drawing: String,
}

impl Failure {
    fn new(text: &dyn ToString, found: Option<Found>) -> Self {
        Self { text: text.to_string(), found }
    }

    /// What went wrong.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The schedule of the run that goes wrong, for [`Explore::replay`]; `None` if there is no such run.
    #[must_use]
    pub fn schedule(&self) -> Option<&str> {
        self.found.as_ref().map(|found| &*found.schedule)
    }

    /// The run that goes wrong, drawn: a column for each thread, a line for each step on what they race for.
    #[must_use]
    pub fn drawing(&self) -> Option<&str> {
        self.found.as_ref().map(|found| &*found.drawing)
    }

    /// No run with fewer switches goes wrong, and none with as many and fewer steps.
    #[must_use]
    pub fn is_shortest(&self) -> bool {
        self.found.as_ref().is_some_and(|found| found.shortest)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Found { schedule, switches, accesses, shortest, executions, drawing }) = &self.found else {
            return f.write_str(&self.text);
        };
        let plural = |count: u32, one: &'static str, many: &'static str| if count == 1 { one } else { many };
        let (turns, steps) = (plural(*switches, "switch", "switches"), plural(*accesses, "step", "steps"));
        writeln!(f, "{}\n\n{drawing}", self.text)?;
        write!(f, "schedule {schedule}: {switches} {turns}, {accesses} {steps}")?;
        if *shortest {
            f.write_str("; no run with fewer switches goes wrong, nor one with as many and fewer steps")?;
        }
        write!(
            f,
            "\n{executions} {} were made. To see this one again: {REPLAY}={schedule}, or Explore::replay",
            if *executions == 1 { "run" } else { "runs" }
        )
    }
}

impl fmt::Debug for Failure {
    /// As it is displayed: what `unwrap` shows should be read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failure {}

/// Comes with a panic of a thread.
#[derive(Clone, Copy, Debug)]
pub struct Panicked;

static HOOK: Once = Once::new();

thread_local! {
    /// A panic is being told.
    static TELLING: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic of a thread that is explored is what goes wrong in that run, at the moment at which it happens; and
/// nothing is printed, since there may be many such runs.
pub(crate) fn tell_panics() {
    HOOK.call_once(set_hook);
}

fn set_hook() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // The explorer's own panics are none of the program's.
        let own =
            info.location().is_some_and(|place| place.file().contains("hugewalk-explore/src/explorer/"));
        let explored = state::is_explored() && in_thread().is_some();
        if !explored || own || TELLING.replace(true) {
            return before(info);
        }
        violation(text_of(info), Panicked);
        TELLING.set(false);
    }));
}

fn text_of(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(|text| &**text)).unwrap_or("a panic");
    match info.location() {
        Some(place) => format!("{text}\nat {}:{}", place.file(), place.line()),
        None => text.to_owned(),
    }
}
