//! Small programs come to the same ends however they are explored.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::corpus::Do::*;
use super::corpus::{CELLS, Do, LOCKS, Program, with_subject};
use super::memory::Touch;
use crate::explore::compare::{Ends, Falsify, How, WRONG};

/// Compares all ways to explore it; `None` if there are too many runs.
fn compare(program: &Program) -> Result<Option<(Ends, u64)>, String> {
    with_subject(program, |subject| subject.compare())
}

/// Programs, each with a reason to be here.
fn chosen() -> Vec<(&'static str, Program)> {
    vec![
        ("a lost wakeup", vec![vec![Await(0), Store(1)], vec![Load(1), Store(0)]]),
        (
            "a wakeup that comes before the sleep",
            vec![vec![Store(0), Park, Load(1)], vec![Store(1), Unpark(0)]],
        ),
        (
            "two wakeups for one sleep",
            vec![vec![Park, Load(0), Park], vec![Store(0), Unpark(0)], vec![Unpark(0)]],
        ),
        ("nobody wakes", vec![vec![Load(0), Park], vec![Store(0)]]),
        (
            "a writer between two readers",
            vec![
                vec![Reading(vec![Load(0), Reading(vec![Load(1)])])],
                vec![Writing(vec![Store(0), Store(1)])],
            ],
        ),
        (
            "a reader behind a queued writer",
            vec![vec![Reading(vec![Await(0)])], vec![Writing(vec![Store(1)])], vec![Reading(vec![Store(0)])]],
        ),
        (
            "who only tries, beside a queued writer",
            vec![
                vec![Reading(vec![Load(0)])],
                vec![Writing(vec![Store(0)])],
                vec![TryReading(vec![Load(0)]), TryWriting(vec![Store(0)])],
            ],
        ),
        (
            "a section that began too late to be waited for",
            vec![vec![Section(vec![])], vec![Synchronize, Load(0)], vec![Section(vec![Store(0)])]],
        ),
        (
            "the same with a callback",
            vec![vec![Section(vec![])], vec![Call(0), Load(1)], vec![Section(vec![Store(1)])]],
        ),
        (
            "a section that sees before or after, never both",
            vec![vec![Section(vec![Load(0), Load(1)])], vec![Store(0), Synchronize, Store(1)]],
        ),
        (
            "a callback that runs under the section it waited for",
            vec![vec![Section(vec![Load(0)]), Load(0)], vec![Call(0), Call(1)]],
        ),
        (
            "a broadcast passes a section by, and waits for interrupts",
            vec![vec![Section(vec![Load(0)]), InterruptsOff(vec![Load(0)])], vec![Broadcast, Store(0)]],
        ),
        (
            "a flush waits for an access",
            vec![vec![Access(vec![Load(0), Load(1)])], vec![Store(0), Flush, Store(1)]],
        ),
        (
            "a flush waits for two",
            vec![vec![Access(vec![Load(0)])], vec![Access(vec![Load(1)])], vec![Flush, Store(0), Store(1)]],
        ),
        (
            "locks in two orders",
            vec![
                vec![Locked(0, vec![Locked(1, vec![Guarded(1)])])],
                vec![Locked(1, vec![Locked(0, vec![Guarded(0)])])],
            ],
        ),
        ("an error that takes a switch", vec![vec![Load(1), Store(0), Store(0)], vec![Load(1), Check(0)]]),
        ("an error that takes two", vec![vec![Store(0), Load(1)], vec![Await(0), Store(1)], vec![Check(1)]]),
        (
            "an error of the second thread that takes less",
            vec![vec![Section(vec![Store(1), Check(1)])], vec![Store(1), Check(1)]],
        ),
        (
            "two processors look an address up, each in its own caches",
            vec![vec![Memory(Touch::Translate), Memory(Touch::Detach)], vec![Memory(Touch::Translate)]],
        ),
        (
            "a look at a table that is retired, in a section and beside it",
            vec![
                vec![Memory(Touch::Retire(0))],
                vec![Section(vec![Memory(Touch::Load(0))]), Memory(Touch::Load(0))],
            ],
        ),
        (
            "a table whose lock dies while it is waited for",
            vec![vec![Memory(Touch::Lock(0)), Memory(Touch::Free(0))], vec![Memory(Touch::Lock(0))]],
        ),
        (
            "a flush between a look at the tables and the end of the access",
            vec![vec![Memory(Touch::Translate)], vec![Memory(Touch::Detach), Flush, Memory(Touch::Free(0))]],
        ),
        (
            "memory that runs out and comes back",
            vec![
                vec![Memory(Touch::Allocate)],
                vec![Memory(Touch::SetMemory(false)), Memory(Touch::SetMemory(true))],
            ],
        ),
        (
            "a wait in an access that a flush waits for",
            vec![vec![Access(vec![Await(0)])], vec![Flush, Store(0)]],
        ),
    ]
}

#[test]
fn chosen_programs_end_in_the_same_ways_however_they_are_explored() {
    let (mut hung, mut wrong) = (0, 0);
    for (name, program) in chosen() {
        let compared = compare(&program).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (naive, _) = compared.unwrap_or_else(|| panic!("{name} is too large"));
        hung += u32::from(!naive.hung.is_empty());
        wrong += u32::from(!naive.wrong.is_empty());
    }
    assert!(hung >= 4 && wrong >= 2, "too tame: {hung} hang, {wrong} go wrong");
}

fn plain() -> impl Strategy<Value = Do> {
    let (cell, lock) = (0..CELLS, 0..LOCKS);
    prop_oneof![
        4 => cell.clone().prop_map(Load),
        4 => cell.clone().prop_map(Store),
        2 => cell.clone().prop_map(Update),
        2 => lock.prop_map(Guarded),
        2 => cell.clone().prop_map(Await),
        1 => (0..3_usize).prop_map(Unpark),
        2 => cell.prop_map(Check),
    ]
}

fn step(threads: usize) -> impl Strategy<Value = Do> {
    let inner = || prop::collection::vec(plain().prop_map(move |step| within(step, threads)), 0..3);
    let lock = || 0..LOCKS;
    prop_oneof![
        10 => plain().prop_map(move |step| within(step, threads)),
        2 => (lock(), inner()).prop_map(|(lock, steps)| Locked(lock, steps)),
        1 => lock().prop_map(|lock| Locked(lock, vec![Guarded(lock)])),
        1 => lock().prop_map(|lock| Locked(lock, vec![Locked(1 - lock, vec![])])),
        1 => (lock(), inner()).prop_map(|(lock, steps)| TryLocked(lock, steps)),
        2 => inner().prop_map(Reading),
        1 => inner().prop_map(|steps| Reading(vec![Reading(steps)])),
        1 => inner().prop_map(TryReading),
        2 => inner().prop_map(Writing),
        1 => inner().prop_map(TryWriting),
        1 => Just(Park),
        2 => inner().prop_map(Section),
        2 => inner().prop_map(InterruptsOff),
        1 => Just(Synchronize),
        1 => (0..CELLS).prop_map(Call),
        1 => Just(Broadcast),
        1 => inner().prop_map(Access),
        1 => Just(Flush),
    ]
}

/// There are only so many threads to wake.
fn within(step: Do, threads: usize) -> Do {
    if let Unpark(thread) = step { Unpark(thread % threads) } else { step }
}

fn program() -> impl Strategy<Value = Program> {
    let threads = |count: usize, steps: usize| {
        prop::collection::vec(prop::collection::vec(step(count), 1..=steps), count)
    };
    prop_oneof![threads(2, 4), threads(3, 2)]
}

/// The same programs every time, unless `PROPTEST_CASES` asks for so many others.
pub(super) fn runner(cases: u32, seed: u8) -> TestRunner {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config { cases: asked.unwrap_or(cases), failure_persistence: None, ..Config::default() };
    if asked.is_some() {
        return TestRunner::new(config);
    }
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Compared {
    pub(super) programs: u64,
    pub(super) hung: u64,
    pub(super) wrong: u64,
    pub(super) varied: u64,
    pub(super) naive_runs: u64,
    pub(super) reduced_runs: u64,
    /// Programs that have too many runs.
    pub(super) large: u64,
}

/// Generates programs and compares.
pub(super) fn compare_many(mut runner: TestRunner, programs: impl Strategy<Value = Program>) -> Compared {
    let seen = std::cell::Cell::new(Compared::default());
    let result = runner.run(&programs, |program| {
        let mut now = seen.get();
        match compare(&program).map_err(TestCaseError::fail)? {
            None => now.large += 1,
            Some((naive, reduced)) => {
                now.programs += 1;
                now.hung += u64::from(!naive.hung.is_empty());
                now.wrong += u64::from(!naive.wrong.is_empty());
                now.varied += u64::from(naive.ended.len() > 1);
                (now.naive_runs, now.reduced_runs) =
                    (now.naive_runs + naive.runs, now.reduced_runs + reduced);
            }
        }
        seen.set(now);
        Ok(())
    });
    match result {
        Err(TestError::Fail(why, program)) => panic!("{program:?}: {why}"),
        other => other.unwrap(),
    }
    seen.get()
}

#[test]
fn small_programs_end_in_the_same_ways_however_they_are_explored() {
    let seen = compare_many(runner(300, 4), program());
    let Compared { programs, hung, wrong, varied, large, .. } = seen;
    let enough = [programs > 3 * large, hung * 8 > programs, wrong * 10 > programs, varied * 5 > programs];
    assert_eq!(enough, [true; 4], "too large or too tame: {seen:?}");
    assert!(seen.reduced_runs * 100 < seen.naive_runs, "the reduction saves little: {seen:?}");
}

#[test]
fn a_wrong_idea_of_what_commutes_is_noticed() {
    let mut runner = runner(1, 5);
    let mut left = Vec::from(WRONG);
    // The others seldom make the shortest one longer.
    let mut lengths = Vec::from(&WRONG[..1]);
    for _ in 0..400 {
        let program = program().new_tree(&mut runner).expect("a program").current();
        with_subject(&program, |subject| {
            let Some(naive) = subject.ends(How::Naive, None) else { return };
            left.retain(|&(_, falsify)| {
                subject.agrees(&naive, How::ReducedEverywhere, Some(falsify)).is_ok()
            });
            lengths.retain(|&(_, falsify)| subject.is_shortened(&naive, Some(falsify)).is_ok());
        });
        if left.is_empty() && lengths.is_empty() {
            return;
        }
    }
    let names = |of: &[(&'static str, Falsify)]| of.iter().map(|&(name, _)| name).collect::<Vec<_>>();
    panic!("not noticed: {:?}; in a search for something shorter: {:?}", names(&left), names(&lengths));
}
