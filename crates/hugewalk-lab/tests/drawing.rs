//! Drawings of races, as a reader sees them.

use hugewalk_lab::explore::Options;
use hugewalk_lab::lab::Settings;
use hugewalk_lab::scenario::{self, Expected};
use hugewalk_lab::story::{StepKind, Story};
use hugewalk_lab::text::{Drawing, draw};
use hugewalk_lab::{check, replay};

fn story(id: &str, settings: Settings) -> Story {
    let scenario = scenario::named(id).expect("a scenario");
    let options = Options { shortening: 0, ..Options::default() };
    let found = check(scenario, settings, &options).report.counterexample.expect("a race");
    replay(scenario, settings, &found.schedule).expect("it fits")
}

#[test]
fn every_race_of_the_table_fits_the_width_and_says_what_went_wrong() {
    let mut drawn = 0;
    for scenario in scenario::all() {
        for settings in Settings::ALL {
            if scenario::expected(scenario.id, &settings) != Some(Expected::Race) {
                continue;
            }
            let story = story(scenario.id, settings);
            for all in [false, true] {
                let text = draw(&story, &Drawing { all, ..Drawing::default() });
                let name = format!("{} under {}", scenario.id, settings.name);
                let widest = text.lines().max_by_key(|line| line.chars().count()).expect("lines");
                let is_list = widest.starts_with(" ") && widest.contains("crates/");
                assert!(widest.chars().count() <= 100 || is_list, "{name}: {widest}");
                assert!(!text.contains('\x1b') && text.is_ascii(), "{name}: {text}");
                let report = story.report.as_ref().expect("a race");
                assert!(text.contains(&format!("BUG: hugewalk: {}", report.title)), "{name}");
                assert_eq!(text.contains("^^^"), report.step.is_some(), "{name}: {text}");
            }
            drawn += 1;
        }
    }
    assert!(drawn > 30, "{drawn} races");
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
