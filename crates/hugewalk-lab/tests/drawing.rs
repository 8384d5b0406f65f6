//! Drawings of races, as a reader sees them.

use hugewalk_lab::explore::Options;
use hugewalk_lab::lab::Settings;
use hugewalk_lab::scenario::{self, Expected};
use hugewalk_lab::story::{Source, State, StepKind, Story};
use hugewalk_lab::text::{Drawing, draw};
use hugewalk_lab::{check, replay, show};

fn story(id: &str, settings: Settings) -> Story {
    let scenario = scenario::named(id).expect("a scenario");
    let options = Options { shortening: 0, ..Options::default() };
    let found = check(scenario, settings, &options).report.counterexample.expect("a race");
    replay(scenario, settings, &found.schedule).expect("it fits")
}

/// All races there are: those of the table, and those behind the steps that are left out.
fn races() -> Vec<(String, Story)> {
    let named = |id: &str, settings: Settings| (format!("{id} under {}", settings.name), story(id, settings));
    let table = scenario::all().flat_map(|scenario| {
        let races = |settings: &Settings| scenario::expected(scenario.id, settings) == Some(Expected::Race);
        Settings::ALL.into_iter().filter(races).map(move |settings| named(scenario.id, settings))
    });
    let proofs = scenario::PROOFS.iter().map(|&(step, id, settings)| {
        let (name, story) = named(id, settings.without(step).expect("a step"));
        (format!("{name} without {step}"), story)
    });
    table.chain(proofs).collect()
}

#[test]
fn every_race_fits_the_width_and_says_what_went_wrong() {
    let races = races();
    assert!(races.len() > 100, "{} races", races.len());
    for (name, story) in &races {
        let report = story.report.as_ref().expect("a race");
        is_a_diagram(name, story);
        for (all, width) in [(false, 100), (true, 100), (false, 80), (false, 120)] {
            let text = draw(story, &Drawing { all, width, ..Drawing::default() });
            for line in text.lines() {
                assert!(line.len() <= width, "{name}, {width}: {line}");
                assert_eq!(line, line.trim_end(), "{name}, {width}");
            }
            assert!(text.is_ascii() && !text.contains('\x1b'), "{name}: {text}");
            assert!(text.contains(&format!("BUG: hugewalk: {}", report.title)), "{name}");
            assert_eq!(text.contains("^^^"), report.step.is_some(), "{name}: {text}");
            // A number below zero, or two in one word, as it lies in memory.
            let has_address = |line: &str| {
                let words =
                    ["i_size", "load from", "store to", " reports ", "translations of", " looks ahead"];
                words.iter().any(|what| line.contains(what))
            };
            for line in text.lines().filter(|line| !has_address(line)) {
                let is_long = line.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 7);
                assert!(!is_long, "{name}: {line}");
            }
            if !all {
                assert!(text.lines().count() < 200, "{name}: nobody reads {} lines", text.lines().count());
            }
        }
    }
}

/// Fits a commit message, and names what the kernel has.
fn is_a_diagram(name: &str, story: &Story) {
    let text = draw(story, &Drawing::DIAGRAM);
    let report = story.report.as_ref().expect("a race");
    assert!(text.lines().all(|line| line.len() <= 72 && line == line.trim_end()), "{name}: {text}");
    assert!(text.is_ascii() && !text.contains(".rs") && !text.contains("generation: "), "{name}: {text}");
    let said: String = text.split_whitespace().collect();
    let what: String = report.what.split_whitespace().collect();
    assert!(said.ends_with(&what), "{name}: {text}");
}

#[test]
fn a_run_of_a_safe_scenario_stops_the_walker_in_the_middle() {
    let named = |id| scenario::named(id).expect("a scenario");
    let (schedule, story) = show(named("S1"), Settings::HUGEWALK);
    assert!(story.report.is_none());
    let text = draw(&story, &Drawing::default());
    // B and C do all of theirs after A has read the parent entry, and before it reads the entry below.
    let of = |wanted: &str| text.find(wanted).unwrap_or_else(|| panic!("{wanted}: {text}"));
    let (read, cleared) = (of("pudp_get(P2.pud[4]) -> T3"), of("pud_clear(P2.pud[4])"));
    assert!(
        read < cleared && cleared < of("call_rcu(T3)") && of("call_rcu(T3)") < of("rcu_read_unlock()"),
        "{text}"
    );
    assert!(schedule.switches() >= 3, "{schedule}");
    // The same turns give the same run.
    let again = replay(named("S1"), Settings::HUGEWALK, &schedule).expect("it fits");
    assert_eq!(draw(&again, &Drawing::default()), text);
    for scenario in ["S2", "S9/gup-fast", "S22", "S25", "S26"].map(named) {
        for settings in [Settings::VMA_LOCK, Settings::HUGEWALK] {
            if scenario::expected(scenario.id, &settings) == Some(Expected::Safe) {
                assert!(show(scenario, settings).1.report.is_none(), "{}", scenario.id);
            }
        }
    }
}

#[test]
fn whoever_touches_what_is_dead_is_told_who_allocated_and_who_freed_it() {
    let mut told = 0;
    for (name, story) in races() {
        let report = story.report.as_ref().expect("a race");
        // What is told of a VMA is in `story.rs`: who mapped it is nobody's news.
        if !report.what.starts_with("use after free") || report.title.starts_with("VMA") {
            continue;
        }
        let text = draw(&story, &Drawing::default());
        let (allocated, freed) = (report.allocated.as_ref(), report.freed.as_ref());
        let (allocated, freed) = (allocated.expect("it was"), freed.expect("it was"));
        for (event, done) in [(allocated, "allocated"), (freed, "freed")] {
            assert!(text.contains(&format!(" was {done} by ")), "{name}: {text}");
            let is_engine = |source: &Source| source.file.starts_with("crates/hugewalk/src/");
            assert!(event.stack.iter().any(|source| is_engine(source) && source.kernel.is_some()), "{name}");
            // How the lab starts its processors is nobody's business.
            for source in event.stack.iter().filter(|source| !source.file.ends_with("/bench.rs")) {
                assert!(text.contains(&format!("{}:{}", source.file, source.line)), "{name}: {text}");
            }
        }
        let letter = story.cpus[freed.cpu.expect("a processor")].letter;
        assert!(report.what.ends_with(&format!(", freed by CPU {letter}")), "{name}: {}", report.what);
        // Tables above those of pages are not drawn.
        let is_drawn = |state: &State| state.tables.iter().any(|table| freed.object.ends_with(&table.name));
        if !story.states.iter().any(is_drawn) {
            continue;
        }
        // It lies in the drawing as dead as in the report.
        let end = story.states.last().expect("a state");
        let table = end.tables.iter().find(|table| freed.object.ends_with(&table.name)).expect("a table");
        assert!(table.lock_freed, "{name}: {table:?}");
        let is_told = |line: &&str| line.starts_with(&format!(" {}: ", table.name)) && line.contains("freed");
        assert!(text.lines().any(|line| is_told(&line)), "{name}: {text}");
        told += 1;
    }
    assert!(told > 30, "{told} races");
}

#[test]
fn what_is_waited_for_is_drawn_and_how_it_leads_back_is_told() {
    let text = draw(&story("S25:no-trylock", Settings::HUGEWALK), &Drawing::default());
    for wanted in [
        "hugetlb_vma_lock_write(P2)  // waits",
        "CPU B (truncate) waits for: VMA lock of P2, write",
        "CPU A (P2: fault) held VMA lock of P2, read when it took i_mmap, read:",
        " CPU B: inode lock + i_mmap, write",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let text = draw(&story("S26:write-lock", Settings::HUGEWALK), &Drawing::default());
    assert!(text.contains("hugetlb_vma_lock_write(P2)  // waits"), "{text}");
    assert!(
        !text.contains("CPU B (madvise) waits"),
        "it was about to take a lock that it could have had: {text}"
    );
    let text = draw(&story("S6:sleeping-visitor", Settings::RFC), &Drawing::default());
    assert!(text.contains("mmap_read_lock(P2)  // may sleep"), "{text}");
    let text = draw(&story("S19:look-first", Settings::HUGEWALK), &Drawing::default());
    assert!(text.contains("schedule()  // waits"), "{text}");
    assert!(text.contains("CPU A (P1: fault) waits for somebody to wake it:"), "{text}");
}

#[test]
fn a_lock_that_is_only_tried_is_not_drawn_as_one_that_is_waited_for() {
    let story = story("S13:no-vma-lock", Settings::HUGEWALK);
    let text = draw(&story, &Drawing::default());
    assert!(text.contains("hugetlb_vma_trylock_write(") && !text.contains("// fails"), "{text}");
}

#[test]
fn a_loop_without_an_end_is_drawn_once() {
    let text = draw(&story("S24:shared-lock-only", Settings::HUGEWALK), &Drawing::default());
    let times = text.lines().find_map(|line| {
        let (_, times) = line.trim().strip_prefix("... the last ")?.split_once(" steps ")?;
        times.strip_suffix(" times more")?.parse::<u32>().ok()
    });
    assert!(times > Some(1000), "{text}");
    assert!(text.contains("BUG: hugewalk: livelock\n"), "{text}");
}

#[test]
fn colour_changes_nothing_but_the_looks() {
    let story = story("S8", Settings::RFC_PTL);
    let coloured = draw(&story, &Drawing { colour: true, ..Drawing::default() });
    let mut plain = coloured.clone();
    for code in ["\x1b[1m", "\x1b[2m", "\x1b[0m"] {
        assert!(coloured.contains(code));
        plain = plain.replace(code, "");
    }
    assert_eq!(plain, draw(&story, &Drawing::default()));
}

#[test]
fn the_parent_entry_and_the_count_are_drawn_as_linux_writes_them() {
    let text = draw(&story("S1", Settings::LEGACY), &Drawing::default());
    for wanted in [
        "CPU A (P2: walk)",
        "CPU C (P1: munmap)",
        "huge_pte_offset()",
        "pudp_get(P2.pud[4]) -> T3",
        "pud_clear(P2.pud[4])  // was T3",
        "T3.pt_share_count--  // 1 -> 0",
        "i_mmap_lock_write()",
        "call_rcu(T3)",
        "Table T3 was allocated by the setup:",
        "Table T3 was freed by CPU C (P1: munmap):",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(!text.contains("generation"), "it is ours, not Linux's: {text}");
}

#[test]
fn who_is_told_of_a_foreign_entry_has_read_it_before() {
    let story = story("S9", Settings::VMA_LOCK);
    let report = story.report.expect("a race");
    let step = &story.steps[report.step.expect("a step")];
    assert_eq!((step.kind, step.cpu), (StepKind::Read, report.cpu.expect("a walker")));
    assert!(
        step.object.starts_with('T') && report.what.contains(step.text.rsplit(" = ").next().expect("a page"))
    );
}
