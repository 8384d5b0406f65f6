//! The verdicts that the scenarios must have.

use hugewalk::arch::PMD_SIZE;
use hugewalk::uffd::{Features, Modes, Userfault};
use hugewalk_lab::explore::{Coverage, Options};
use hugewalk_lab::lab::{Cpu, Flaw, Property, Settings, Speculator, Walker};
use hugewalk_lab::scenario::Expected;
use hugewalk_lab::{Verdict, check, replay, scenario};

// SAFETY: the scenarios keep to themselves.
#[global_allocator]
static ALLOCATOR: hugewalk_lab::Allocator = unsafe { hugewalk_lab::Allocator::new() };

fn verdict(id: &str, settings: Settings) -> Verdict {
    check(scenario::named(id).expect("a scenario"), settings, &Options::default())
}

/// As [`verdict`], with whatever counterexample comes first.
fn quick_verdict(id: &str, settings: Settings) -> Verdict {
    let options = Options { shortening: 0, ..Options::default() };
    check(scenario::named(id).expect("a scenario"), settings, &options)
}

#[test]
fn each_scenario_has_the_verdicts_of_the_table() {
    for scenario in scenario::all() {
        for settings in Settings::ALL {
            let expected = scenario::expected(scenario.id, &settings).expect("it is in the table");
            if matches!(expected, Expected::DoesNotApply(_)) {
                continue;
            }
            let verdict = quick_verdict(scenario.id, settings);
            assert_eq!(verdict.is_safe(), expected == Expected::Safe, "{verdict}");
            if verdict.is_safe() {
                assert_eq!(verdict.report.coverage, Coverage::Everything, "{verdict}");
            }
        }
    }
}

#[test]
fn the_matrix_has_one_line_after_the_other() {
    let number = |line: &str| line.strip_prefix('S').and_then(|number| number.parse::<u32>().ok());
    let numbers: Vec<_> =
        scenario::all().map(|scenario| number(scenario.line()).expect("a number")).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[test]
fn names_of_scenarios_are_unique_and_say_what_they_consist_of() {
    let mut names: Vec<_> = scenario::all().map(|scenario| scenario.id).collect();
    for scenario in scenario::all() {
        let walker = scenario.walker().map(|walker| format!("/{walker}")).unwrap_or_default();
        let mistake = scenario.mistake().map(|mistake| format!(":{mistake}")).unwrap_or_default();
        assert_eq!(scenario.id, format!("{}{walker}{mistake}", scenario.line()));
    }
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    let changed = Settings::HUGEWALK.without("flush").expect("a step");
    assert_eq!(scenario::expected("S1", &changed), None);
}

#[test]
fn each_step_of_the_protocol_closes_a_race() {
    for step in Settings::steps() {
        assert!(scenario::PROOFS.iter().any(|&(name, ..)| name == step), "{step} is missing in the proofs");
    }
    for (step, id, settings) in scenario::PROOFS {
        let verdict = quick_verdict(id, settings.without(step).expect("a step"));
        assert!(!verdict.is_safe(), "without {step}: {verdict}");
    }
}

#[test]
fn a_counterexample_repeats() {
    let wrong_table = scenario::named("S8").expect("a scenario");
    let found = verdict("S8", Settings::RFC_PTL).report.counterexample.expect("a race");
    let again: hugewalk_lab::explore::Schedule =
        found.schedule.to_string().parse().expect("it was written by us");
    for _ in 0..3 {
        let run = replay(wrong_table, Settings::RFC_PTL, &again).expect("it fits");
        let report = run.report.expect("a race");
        assert_eq!(format!("{}: {}", report.property, report.what), found.text);
    }
    let other =
        replay(scenario::named("S25").expect("a scenario"), Settings::HUGEWALK, &"C1".parse().expect("one"));
    assert!(other.is_err(), "there is no third thread");
}

#[test]
fn no_turn_of_a_counterexample_is_longer_than_it_must_be() {
    let wrong_table = scenario::named("S8").expect("a scenario");
    let found = verdict("S8", Settings::RFC_PTL).report.counterexample.expect("a race");
    assert!(found.shortest);
    let text = found.schedule.to_string();
    let turns: Vec<(char, u32)> =
        text.split_inclusive(|c: char| c.is_ascii_digit()).fold(Vec::new(), |mut turns, part| {
            let digit = part.chars().last().and_then(|c| c.to_digit(10)).expect("a digit");
            match part.chars().next().filter(char::is_ascii_uppercase) {
                Some(thread) => turns.push((thread, digit)),
                None => turns.last_mut().expect("a turn").1 = turns.last().expect("a turn").1 * 10 + digit,
            }
            turns
        });
    // After its last turn a schedule lets the thread run on, so that one is as long as it is.
    for short in 0..turns.len() - 1 {
        let shorter: String = turns
            .iter()
            .enumerate()
            .map(|(at, (thread, accesses))| format!("{thread}{}", accesses - u32::from(at == short)))
            .collect();
        // One that does not fit does not do it either.
        let run = replay(wrong_table, Settings::RFC_PTL, &shorter.parse().expect("a schedule"));
        let races = run.is_ok_and(|run| run.report.is_some());
        assert!(!races, "{shorter} does it too, and {text} was found");
    }
}

/// For each property, rows that show it, under which protocol, and words of what is found there.
const JUDGES: [(&str, &str, Settings, &str); 32] = [
    ("I1", "S1", Settings::LEGACY, "use after free: CPU A reads T"),
    ("I1", "S2", Settings::RFC, "use after free: CPU A locks the lock of T"),
    ("I1", "S28:two-loads", Settings::HUGEWALK, "which has never been a table"),
    ("I1", "S21:no-reference", Settings::HUGEWALK, "B uses the lock in a VMA of P1, freed by CPU A"),
    ("I2", "S8", Settings::RFC_PTL, "writes to T"),
    ("I3", "S7", Settings::RFC_PTL, "not its own when it was read"),
    ("I3", "S9/gup-fast", Settings::VMA_LOCK, "its mapping has no right to"),
    ("I4", "S18:two-locks", Settings::HUGEWALK, "its count says"),
    ("I5", "S14:unshare-early", Settings::HUGEWALK, "has no mapping that may"),
    ("I6", "S11:late-flush", Settings::HUGEWALK, "a paging-structure cache still reaches"),
    ("I6", "S11:narrow-flush", Settings::HUGEWALK, "a TLB still reaches"),
    ("I6", "S74/reuse:leaves-only", Settings::HUGEWALK, "a paging-structure cache still reaches"),
    ("I7", "S25:no-trylock", Settings::HUGEWALK, "lock order"),
    ("I7", "S26:write-lock", Settings::HUGEWALK, "waits for a lock that it holds itself"),
    ("I8", "S19:look-first", Settings::HUGEWALK, "deadlock"),
    ("I8", "S24:shared-lock-only", Settings::HUGEWALK, "livelock"),
    ("I8", "S5:no-sleep", Settings::HUGEWALK, "livelock"),
    ("I8", "S33:lock-let-go", Settings::HUGEWALK, "starves"),
    ("I9", "S16:page-reference", Settings::HUGEWALK, "left at the end"),
    ("I9", "S32:size-once", Settings::HUGEWALK, "mapped of a file with nothing in it"),
    ("I10", "S6:sleeping-visitor", Settings::RFC, "sleeping in an atomic section"),
    ("I11", "S34:no-flush", Settings::HUGEWALK, "still stores to page"),
    ("I11", "S35:late-flush", Settings::HUGEWALK, "in whose place page"),
    ("I11", "S35/zap:late-flush", Settings::HUGEWALK, "of another process has stored since"),
    ("I12", "S37:late-fill", Settings::HUGEWALK, "which has not been filled"),
    ("I13", "S34:read-then-write", Settings::HUGEWALK, "and a processor has stored to its page"),
    ("I14", "S38:torn-freeze", Settings::HUGEWALK, "references"),
    (
        "I15",
        "S43:account-let-go",
        Settings::HUGEWALK,
        "mounts have 1 reservations of their own, and the pool has 0",
    ),
    ("I16", "S46/protect:empty-first", Settings::HUGEWALK, "reports none"),
    ("I16", "S46/reuse:parent-not-confirmed", Settings::HUGEWALK, "where all the time was"),
    ("I17", "S80:no-barrier-of-entry", Settings::HUGEWALK, "a reader and a writer hold the lock at once"),
    ("I18", "S90:no-break", Settings::HUGEWALK, "has two translations of"),
];

#[test]
fn each_judge_can_say_no() {
    for (property, id, settings, words) in JUDGES {
        let verdict = quick_verdict(id, settings);
        let found = verdict.report.counterexample.as_ref().map_or("nothing", |found| &found.text);
        assert!(found.contains(words), "{property}: {verdict}");
    }
}

#[test]
fn the_documentation_names_the_rows_that_show_each_property() {
    let page = include_str!("../../../docs/lab.md");
    let told: Vec<&str> = page.lines().filter(|line| line.starts_with("- I")).collect();
    let mut expected: Vec<String> = Vec::new();
    for (property, id, settings, _) in JUDGES {
        let under = if settings == Settings::HUGEWALK { "" } else { &format!(" under {}", settings.name) };
        match expected.last_mut().filter(|line| line.starts_with(&format!("- {property}: "))) {
            Some(line) => *line += &format!(", {id}{under}"),
            None => expected.push(format!("- {property}: {id}{under}")),
        }
    }
    assert_eq!(told, expected);
    let properties = page.lines().filter(|line| line.starts_with("| I")).count();
    assert_eq!(properties, expected.len(), "a property that no row shows");
}

/// The text of what is found in a scenario of the test's own, which is judged by nothing but what is judged always.
fn found_in(build: fn(&mut scenario::Bench<'_>)) -> String {
    let scenario = scenario::Scenario { id: "mine", what: "the test's own", judged: &[], build };
    let verdict = check(&scenario, Settings::HUGEWALK, &Options::default());
    verdict.report.counterexample.map_or_else(|| "nothing".to_owned(), |found| found.text)
}

#[test]
fn a_page_that_is_free_twice_is_a_verdict_and_not_a_list_that_never_ends() {
    let text = found_in(|bench| {
        bench.flawed(Flaw::LateReference);
        let file = bench.file();
        let process = bench.process(&file, &[0]);
        let same = file.clone();
        bench.cpu("read", move |_| _ = same.read_at(0, &mut [0; 8]).expect("no failure"));
        bench.cpu("fallocate", move |task| {
            file.punch_hole(task, 0, PMD_SIZE).expect("aligned");
            drop(process);
        });
    });
    assert_eq!(text, "I9: left at the end: the pool has 5 free pages in its list, and 4 are free");
}

#[test]
fn who_sleeps_when_all_threads_have_ended_is_a_verdict_and_not_a_sleep_that_never_ends() {
    let text = found_in(|bench| {
        let file = bench.file();
        let process = bench.process(&file, &[]);
        let handler = Userfault::new(&process, Features::empty()).expect("memory");
        handler.register(bench.task(), scenario::BASE, PMD_SIZE, Modes::MISSING).expect("mapped");
        // It never leaves, and nobody asks it: whoever looks at the mapping at the end faults, and waits for it.
        std::mem::forget(handler);
        bench.cpu("nothing", |_| {});
    });
    assert_eq!(text, "deadlock: somebody sleeps when all threads have ended");
}

#[test]
fn a_count_that_is_right_at_the_end_must_be_right_whenever_i_mmap_is_free() {
    let scenario = scenario::Scenario {
        id: "for a moment",
        what: "the count of users is wrong for a moment, and somebody has i_mmap",
        judged: &[],
        build: |bench| {
            bench.protocol(|settings| Some(settings.counting_references()));
            let file = bench.file();
            let process = bench.process(&file, &[0]);
            let same = process.clone();
            bench.cpu("get_page", move |task| Speculator::new(&same, scenario::page(0)).hold(task));
            bench.cpu("VmPTE", move |task| {
                // The explorer goes where threads meet: at the count.
                let _ = process.tables(task);
                drop(file.i_mmap_read(task));
            });
        },
    };
    let found =
        check(&scenario, Settings::HUGEWALK, &Options::default()).report.counterexample.expect("a count");
    assert!(found.text.starts_with("I4: 1 entry points to T"), "{}", found.text);
}

/// Somebody meets a count that a reference had raised, and counts a user out who is the last. In a build with overflow checks
/// and in one without it is the same violation, and not a panic.
#[test]
fn a_count_that_goes_below_none_is_a_wrong_count() {
    let scenario = scenario::named("S16:page-reference").expect("a scenario");
    // A takes its reference; B sees two users, and is about to count itself out; A gives the reference back; B goes on. How many
    // accesses each has made by then depends on the engine.
    let switches = (1..10).flat_map(|first| (1..30).map(move |second| (first, second)));
    let told = switches.filter_map(|(first, second)| {
        let schedule = format!("A{first}B{second}A1B1").parse().expect("a schedule");
        replay(scenario, Settings::HUGEWALK, &schedule).ok()?.report
    });
    let stories: Vec<_> = told.map(|report| report.what).collect();
    let story = stories.iter().find(|story| story.contains("counted out")).expect("a count below none");
    assert!(story.contains("is counted out, and there is one left"), "{story}");
}

/// A page is copied while a processor still stores to it, by a translation that was not flushed.
#[test]
fn a_store_that_a_move_leaves_behind_is_lost() {
    let scenario = scenario::Scenario {
        id: "left behind",
        what: "a page moves elsewhere, nobody flushes, and a processor stores to where it was",
        judged: &[Property::I13],
        build: |bench| {
            bench.flawed(Flaw::NoFlush);
            let file = bench.file();
            let process = bench.process(&file, &[0]);
            let frame = bench.frame(&process, 0);
            bench.cpu("store, store", move |_| {
                let mut cpu = Cpu::new(&process);
                cpu.store(scenario::page(0));
                cpu.store(scenario::page(0));
            });
            bench.cpu("migrate", move |task| {
                let hugetlb = task.hugetlb().clone();
                hugetlb.migrate(task, frame).expect("nobody holds it");
            });
        },
    };
    let verdict = check(&scenario, Settings::HUGEWALK, &Options::default());
    let found = verdict.report.counterexample.as_ref().map_or("nothing", |found| &found.text);
    assert!(found.starts_with("I13: page ") && found.ends_with("has not what CPU A has stored"), "{verdict}");
}

#[test]
fn each_walker_is_in_the_walkers_role_somewhere() {
    let walkers = [
        "maps-page",
        "must-wait",
        "page-walk",
        "sleeping-walk",
        "rmap",
        "follow-page",
        "gup-range",
        "first-look",
        "gup-fast",
    ];
    for walker in walkers {
        let lines: Vec<_> = scenario::all().filter(|scenario| scenario.walker() == Some(walker)).collect();
        assert!(!lines.is_empty(), "{walker}");
    }
}

#[test]
fn what_is_left_over_is_a_leak() {
    let leaks = scenario::Scenario {
        id: "leak",
        what: "somebody keeps an address space for ever",
        judged: &[],
        build: |bench| {
            let file = bench.file();
            let process = bench.process(&file, &[0]);
            bench.cpu("forget", move |_| std::mem::forget(process));
        },
    };
    let found = check(&leaks, Settings::HUGEWALK, &Options::default()).report.counterexample.expect("a leak");
    assert!(found.text.starts_with("I9"), "{}", found.text);
}

#[test]
fn sleeping_in_a_read_section_is_seen() {
    let sleeps = scenario::Scenario {
        id: "S6",
        what: "a visitor that sleeps inside an RCU walk: with a second task, since it does not compile with one",
        judged: &[Property::I10],
        build: |bench| {
            let file = bench.file();
            let process = bench.process(&file, &[0]);
            bench.cpu("walk", move |task| {
                let mut other = scenario::another(task.hugetlb());
                let section = task.rcu_read_lock();
                drop(process.mmap_read(&mut other));
                drop(section);
            });
        },
    };
    let found =
        check(&sleeps, Settings::HUGEWALK, &Options::default()).report.counterexample.expect("a sleep");
    assert!(found.text.starts_with("I10"), "{}", found.text);
}

/// Mappings do not merge, so one that was replaced in part covers its gigabyte no more, and nobody shares with it again. If it
/// did, GUP-fast that looks at its parent entry alone would be given the other file's page.
#[test]
fn a_table_that_has_held_another_files_page_does_not_come_back() {
    use hugewalk::fault::Access;
    let scenario = scenario::Scenario {
        id: "comes back",
        what: "A is in GUP-fast; B unshares, maps another file where the table is now the other's, and back, and shares again",
        judged: &[Property::I1, Property::I3],
        build: |bench| {
            let file = bench.file();
            let other = bench.process(&file, &[0]);
            let process = bench.process(&file, &[0]);
            let foreign = bench.foreign_file();
            let same = process.clone();
            bench.cpu("GUP-fast", move |task| _ = Walker::new(&process, scenario::page(0)).gup_fast(task));
            bench.cpu("madvise, mmap, mmap, fault", move |task| {
                scenario::dont_need(task, &same);
                scenario::map(task, &other, &foreign, 0, 1);
                other.fault(task, scenario::page(0), Access::Read).expect("a page");
                scenario::map(task, &other, &file, 0, 1);
                same.fault(task, scenario::page(0), Access::Read).expect("a page");
            });
        },
    };
    let parent_only = Settings::HUGEWALK.without("confirm-generation").expect("a step");
    for settings in [parent_only, Settings::HUGEWALK] {
        let verdict = check(&scenario, settings, &Options::default());
        assert!(verdict.is_safe() && verdict.report.coverage == Coverage::Everything, "{verdict}");
        assert!(verdict.report.executions > 100, "{verdict}");
    }
}
