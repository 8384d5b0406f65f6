//! The page of `hugewalk check --html`, opened from disk in a real browser.

mod browser;
#[path = "browser/layout.rs"]
mod layout;

use assert_cmd::Command;
use browser::opened::{CHECKED, Opened, checked};
use serde_json::{Value, json};
use tempfile::TempDir;

fn story(scenario: &str, protocol: &str) -> &'static Value {
    let verdicts = CHECKED.report["verdicts"].as_array().expect("verdicts");
    let fits = |verdict: &&Value| verdict["scenario"] == scenario && verdict["protocol"] == protocol;
    &verdicts.iter().find(fits).expect("a verdict")["story"]
}

fn steps(story: &Value) -> &Vec<Value> {
    story["steps"].as_array().expect("steps")
}

/// The state after so many steps.
fn state(story: &Value, after: usize) -> &Value {
    let number = if after == 0 { 0 } else { steps(story)[after - 1]["state"].as_u64().expect("a number") };
    &story["states"][number as usize]
}

impl Opened {
    /// The number of the step that is chosen: 0 before the first one.
    fn chosen(&mut self) -> usize {
        let at = self.browser.value("Number(document.querySelector('[aria-current=step]').dataset.step) + 1");
        at.as_u64().expect("a number") as usize
    }

    fn drawn(&mut self) -> Value {
        serde_json::from_str(self.browser.value(DRAWN).as_str().expect("text")).expect("JSON")
    }

    /// Does the drawing show this state, and nothing else?
    fn assert_drawn(&mut self, state: &Value, at: usize) {
        let drawn = self.drawn();
        let mut expected: Vec<[String; 2]> = Vec::new();
        for (list, entries) in [("processes", "pud"), ("tables", "entries")] {
            for owner in state[list].as_array().expect("a list") {
                for entry in owner[entries].as_array().expect("a list") {
                    let place = if list == "processes" { "pud" } else { "" };
                    let name = format!("{} {place}[{}]", text(&owner["name"]), entry["index"]);
                    expected.push([name, text(&entry["entry"]).to_owned()]);
                }
            }
        }
        let entries = drawn["entries"].as_array().expect("a list").iter();
        let mut shown: Vec<[String; 2]> =
            entries.map(|pair| [0, 1].map(|part| text(&pair[part]).to_owned())).collect();
        shown.retain(|[_, holds]| holds != "none");
        expected.sort();
        shown.sort();
        assert_eq!(shown, expected, "step {at}");
        for table in state["tables"].as_array().expect("tables") {
            let name = &table["name"];
            let lock = match (table["lock_freed"] == true, table["lock"].as_str()) {
                (true, _) => "lock freed".to_owned(),
                (false, holder) => format!("lock {}", holder.unwrap_or("–")),
            };
            let (users, generation) = (&table["users"], &table["generation"]);
            let expected =
                json!([name, table["life"], format!("users {users}"), format!("gen {generation}"), lock]);
            let shown = drawn["tables"].as_array().expect("tables").iter().find(|shown| shown[0] == *name);
            assert_eq!(shown, Some(&expected), "step {at}");
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// All that is drawn, in the words of the data: who points where, and what has become of the tables.
const DRAWN: &str = "JSON.stringify({
    entries: [...document.querySelectorAll('[data-entry]')].map((row) => [row.dataset.entry, row.dataset.holds]),
    tables: [...document.querySelectorAll('[data-table]')].map((table) => [table.dataset.table, table.dataset.life,
        ...[...table.querySelectorAll('[data-part]')].map((part) => part.firstChild.data)]),
})";

#[test]
fn keys_go_through_a_run_and_the_tables_beside_it_are_those_of_each_step() {
    let Some(mut page) = Opened::at("#S1/legacy?step=0") else { return };
    let story = story("S1", "legacy");
    let count = steps(story).len();
    assert_eq!(page.chosen(), 0);
    page.assert_drawn(state(story, 0), 0);

    let wrong = story["report"]["step"].as_u64().expect("a step that goes wrong") as usize + 1;
    // Beside what is contended, the report names when the table was freed.
    let freed = |step: &Value| {
        let frees = ["free", "free_lock", "call_rcu"].contains(&text(&step["kind"]));
        frees && step["object"] == story["report"]["freed"]["object"]
    };
    let is_shown = |at: &usize| {
        let step = &steps(story)[at - 1];
        step["contended"] == true || freed(step) || [wrong, count].contains(at)
    };
    let shown: Vec<usize> = (1..=count).filter(is_shown).collect();
    let mut differing = 0;
    for &at in &shown {
        let before = page.drawn();
        page.browser.press(if at % 2 == 0 { "j" } else { "ArrowDown" });
        assert_eq!(page.chosen(), at);
        page.assert_drawn(state(story, at), at);
        differing += usize::from(page.drawn() != before);
    }
    assert!(shown.len() > 10 && differing > 5, "{} steps, {differing} of them change something", shown.len());
    let freed = page.browser.value("document.querySelectorAll('[data-life=freed]').length");
    assert!(freed.as_u64() > Some(0), "the table of a use after free is drawn as gone");

    page.browser.press("k");
    assert_eq!(page.chosen(), shown[shown.len() - 2]);
    page.browser.press("Home");
    assert_eq!(page.chosen(), 0);
    page.browser.press("End");
    assert_eq!(page.chosen(), count);
    assert_eq!(page.browser.value("location.hash"), format!("#S1/legacy?step={count}"));
    page.assert_quiet();
}

#[test]
fn a_key_goes_to_the_next_step_of_the_same_processor() {
    let Some(mut page) = Opened::at("#S9/vma-lock?step=9999") else { return };
    let steps = steps(story("S9", "vma-lock"));
    let last = steps.last().expect("a step");
    assert_eq!(page.chosen(), steps.len());
    for key in ["p", "p", "p", "n"] {
        page.browser.press(key);
        let at = page.chosen();
        assert_eq!(steps[at - 1]["cpu"], last["cpu"], "{key}: step {at}");
    }
    assert!(page.chosen() < steps.len());
    page.assert_quiet();
}

#[test]
fn quiet_steps_unfold_and_fold() {
    const VISIBLE: &str =
        "[...document.querySelectorAll('[id^=step-]')].filter((step) => step.offsetHeight > 0).length";
    let Some(mut page) = Opened::at("#S9/vma-lock?step=0") else { return };
    let steps = steps(story("S9", "vma-lock"));
    let contended = steps.iter().filter(|step| step["contended"] == true).count() as u64;
    let folded = page.browser.value(VISIBLE).as_u64().expect("a number");
    let wrong = story("S9", "vma-lock")["report"]["step"].as_u64().expect("a step that goes wrong") as usize;
    // The step that goes wrong and the last one are there in any case.
    let besides = [wrong, steps.len() - 1].iter().filter(|&&at| steps[at]["contended"] == false).count();
    assert_eq!(folded, contended + besides as u64);
    page.browser.press("f");
    assert_eq!(page.browser.value(VISIBLE), steps.len());
    page.browser.press("j");
    assert_eq!(page.chosen(), 1);
    page.browser.press("f");
    assert_eq!(page.browser.value(VISIBLE), folded);
    page.assert_quiet();
}

#[test]
fn the_step_that_the_report_is_about_is_marked_also_where_it_is_not_the_last() {
    let Some(mut page) = Opened::at("#S9/vma-lock") else { return };
    let story = story("S9", "vma-lock");
    let wrong = story["report"]["step"].as_u64().expect("a step that goes wrong") + 1;
    assert_ne!(wrong, steps(story).len() as u64);
    let marked =
        page.browser.value("[...document.querySelectorAll('.violation')].map((step) => step.id).join()");
    assert_eq!(marked, format!("step-{wrong}"));
    page.browser.press("w");
    assert_eq!(page.chosen(), wrong as usize);
    page.assert_quiet();
}

#[test]
fn what_is_done_over_and_over_is_shown_once_with_how_often() {
    let Some(mut page) = Opened::at("#S24:shared-lock-only/hugewalk?step=0") else { return };
    let story = story("S24:shared-lock-only", "hugewalk");
    let count = steps(story).len();
    let shown = "document.querySelectorAll('[data-step]').length - 1";
    let shown = page.browser.value(shown).as_u64().expect("a number") as usize;
    assert!(count > 1000 && shown < 100, "{shown} of {count} steps");
    let again = page
        .browser
        .value("[...document.querySelectorAll('.again')].map((line) => line.innerText).join('\\n')");
    let figures = |line: &str| -> Vec<usize> {
        let words = line.split_whitespace().map(|word| word.replace(',', ""));
        words.filter_map(|word| word.parse().ok()).collect()
    };
    let left_out: usize = text(&again).lines().map(|line| figures(line).iter().product::<usize>()).sum();
    assert_eq!(shown + left_out, count, "{again}");
    page.assert_drawn(state(story, 0), 0);
    page.browser.press("f");
    page.browser.press("End");
    page.assert_drawn(state(story, count), count);

    // An address of a step that is not shown leads to the last one before it.
    let numbers = "[...document.querySelectorAll('[id^=step-]')].map((step) => step.id).join()";
    let numbers = page.browser.value(numbers);
    let numbers: Vec<usize> = text(&numbers)
        .split(',')
        .map(|id| id.trim_start_matches("step-").parse().expect("a number"))
        .collect();
    let gap = (1..count).find(|number| !numbers.contains(number)).expect("a step that is not shown");
    page.open(&format!("#S24:shared-lock-only/hugewalk?step={gap}"));
    let place = page.browser.value("document.querySelector('[aria-current=step]').id");
    assert_eq!(place, format!("step-{}", gap - 1));
    page.assert_quiet();
}

#[test]
fn a_report_says_who_waits_in_what_and_how_locks_were_taken_in_the_other_order() {
    let Some(mut page) = Opened::at("") else { return };
    for (scenario, orders) in [("S19:look-first", 0), ("S25:no-trylock", 1)] {
        let report = &story(scenario, "hugewalk")["report"];
        page.open(&format!("#{scenario}/hugewalk"));
        let shown = page.browser.value("document.querySelector('.report').innerText");
        let lanes = page
            .browser
            .value("[...document.querySelectorAll('.waiting')].map((line) => line.innerText).join()");
        let list = |name: &str| report[name].as_array().expect("a list").clone();
        let innermost = |stack: &Value| {
            let source = &stack[0];
            let place = format!("{}:{}", text(&source["file"]), source["line"]);
            assert!(text(&shown).contains(&place), "{scenario}: {place}: {shown}");
        };
        assert!(!list("waits").is_empty(), "{scenario}: {report}");
        assert_eq!(list("order").len(), orders, "{scenario}: {report}");
        for (wait, stack) in list("waits").iter().zip(list("waits_in")) {
            let waits = format!("waits for {}", text(&wait[1]));
            assert!(
                text(&shown).contains(&waits) && text(&lanes).contains(&waits),
                "{waits}: {shown} {lanes}"
            );
            innermost(&stack);
        }
        for taken in list("order") {
            let order = format!("held {} when it took {}", text(&taken["held"]), text(&taken["taken"]));
            assert!(text(&shown).contains(&order), "{order}: {shown}");
            innermost(&taken["stack"]);
        }
    }
    page.assert_quiet();
}

#[test]
fn the_tables_are_those_of_the_step_under_the_pointer() {
    let Some(mut page) = Opened::at("#S8/legacy?step=0") else { return };
    let story = story("S8", "legacy");
    let last = steps(story).len();
    assert_ne!(state(story, last), state(story, 0));
    page.browser.point_at(&format!("#step-{last}"));
    page.assert_drawn(state(story, last), last);
    assert_eq!(page.chosen(), 0, "what is looked at is not chosen");
    page.browser.point_at("h1");
    page.assert_drawn(state(story, 0), 0);
    page.assert_quiet();
}

#[test]
fn what_a_tlb_keeps_is_drawn_and_stale_if_its_process_has_lost_it() {
    let Some(mut page) = Opened::at("#S11:no-flush/hugewalk?step=9999") else { return };
    let story = story("S11:no-flush", "hugewalk");
    let end = state(story, steps(story).len());
    assert!(!end["tlb"].as_array().expect("a list").is_empty(), "{end}");
    let stale = page.browser.value("document.querySelectorAll('.edge.tlb.stale').length");
    assert!(stale.as_u64() > Some(0));
    page.assert_quiet();
}

#[test]
fn the_matrix_leads_to_each_verdict_and_escape_leads_back() {
    let Some(mut page) = Opened::at("") else { return };
    let verdicts = CHECKED.report["verdicts"].as_array().expect("verdicts");
    let cells = page.browser.value("[...document.querySelectorAll('.cell')].map((cell) => cell.hash + ' ' + cell.innerText.slice(0, 6).trim()).join()");
    let sign = |verdict: &Value| match text(&verdict["verdict"]) {
        "race" => format!("✗ {}", &text(&verdict["kind"]).replace('_', " ")[..5]),
        "safe" => "✓ safe".to_owned(),
        _ if text(&verdict["scenario"]).contains(':') => "· not a".to_owned(),
        _ => "– does".to_owned(),
    };
    let address = |verdict: &Value| format!("#{}/{}", text(&verdict["scenario"]), text(&verdict["protocol"]));
    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
    let expected: Vec<String> =
        verdicts.iter().map(|verdict| format!("{} {}", address(verdict), sign(verdict))).collect();
    assert_eq!(squeezed(text(&cells)), squeezed(&expected.join(",")));

    page.browser.value("document.querySelector('.cell').focus()");
    page.browser.press("ArrowDown");
    page.browser.press("Enter");
    assert_eq!(page.browser.value("location.hash"), "#S8/legacy");
    page.browser.wait_until("document.querySelector('[aria-current=step]') !== null");
    page.browser.press("]");
    assert_eq!(page.browser.value("location.hash"), "#S9/legacy");
    page.browser.press("Escape");
    assert_eq!(page.browser.value("document.getElementById('story').hidden"), true);
    assert_eq!(page.browser.value("document.activeElement.hash"), "#S9/legacy");

    page.browser.value("document.querySelector('input[value=legacy]').click()");
    let left = verdicts.iter().filter(|verdict| verdict["protocol"] != "legacy").count();
    assert_eq!(page.browser.value("document.querySelectorAll('.cell').length"), left);
    page.open("#S30/page-walk/legacy?step=1");
    assert_eq!(
        page.browser.value("document.querySelector('h1').innerText.includes('S30/page-walk under legacy')"),
        true
    );
    page.open("#S1/hugewalk");
    let text = page.browser.value("document.querySelector('.explored').innerText");
    assert!(text.as_str().is_some_and(|text| text.contains("every interleaving")), "{text}");
    page.assert_quiet();
}

#[test]
fn an_address_that_means_nothing_shows_the_matrix_and_says_so() {
    const NOTICE: &str = "document.querySelector('.notice')?.innerText ?? ''";
    let Some(mut page) = Opened::at("") else { return };
    assert_eq!(page.browser.value(NOTICE), "");
    for hash in ["#S1/no-such-protocol", "#nonsense", "#%", "#S1/legacy/x?step=y", "#S77/legacy"] {
        page.open(hash);
        assert_eq!(page.browser.value("document.getElementById('matrix').hidden"), false, "{hash}");
        let notice = page.browser.value(NOTICE);
        assert!(text(&notice).contains(&format!("no verdict at {hash}")), "{notice}");
    }
    page.open("#S1/legacy?step=x");
    let wrong = story("S1", "legacy")["report"]["step"].as_u64().expect("a step that goes wrong") as usize;
    assert_eq!(page.chosen(), wrong + 1);
    assert_eq!(page.browser.value(NOTICE), "");
    page.assert_quiet();
}

/// Text in the page that is what a script makes of something that was not there.
const NO_TEXT: &str = "(() => {
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let count = 0;
    while (walk.nextNode()) {
        const outside = walk.currentNode.parentElement.closest('script') === null;
        count += outside && /^(null|undefined|true|false|NaN)$|\\[object/.test(walk.currentNode.data.trim());
    }
    return count;
})()";

#[test]
fn the_page_fits_its_window_in_both_colour_schemes() {
    let Some(mut page) = Opened::at("") else { return };
    for (width, height) in [(1280, 800), (1920, 1080), (800, 1000), (390, 844)] {
        for scheme in ["light", "dark"] {
            page.browser.look(width, height, scheme);
            let shown = [
                ("", "matrix"),
                ("#S1/legacy?step=9999", "story"),
                ("#S9/vma-lock?step=60", "middle"),
                ("#S1/hugewalk", "safe"),
                ("#S24:shared-lock-only/hugewalk?step=9999", "loop"),
                ("#S25:no-trylock/hugewalk?step=9999", "order"),
            ];
            for (hash, name) in shown {
                page.open(hash);
                page.browser.picture(&format!("{name}-{width}-{scheme}"));
                let sides = page.browser.value("document.documentElement.scrollWidth - innerWidth");
                assert!(sides.as_i64() <= Some(0), "{name} at {width}: {sides} pixels too wide");
                assert_eq!(page.browser.value(NO_TEXT), 0, "{name}: a value shows that is no text");
            }
        }
    }
    page.assert_quiet();
}

/// Is something on the screen, and not only on the page?
fn on_screen(selector: &str) -> String {
    format!(
        "[...document.querySelectorAll({selector:?})].some((each) => {{ \
         const box = each.getBoundingClientRect(); \
         return box.height > 0 && box.top >= 0 && box.bottom <= innerHeight; }})"
    )
}

#[test]
fn a_race_opens_on_what_went_wrong_and_says_it_in_its_head() {
    let Some(mut page) = Opened::at("#S1/legacy") else { return };
    for (scenario, protocol, place) in [
        ("S1", "legacy", ".step.violation[aria-current=step]"),
        ("S9", "vma-lock", ".step.violation[aria-current=step]"),
        ("S19:look-first", "hugewalk", ".waiting"),
        ("S25:no-trylock", "hugewalk", ".waiting"),
        ("S24:shared-lock-only", "hugewalk", ".again"),
    ] {
        page.open(&format!("#{scenario}/{protocol}"));
        assert_eq!(page.browser.value(&on_screen(place)), true, "{scenario}: {place}");
        let head = page.browser.value("document.querySelector('.story > header .wrong').innerText");
        let what = story(scenario, protocol)["report"]["what"].as_str().expect("a sentence");
        assert!(text(&head).contains(&what.replace("->", "→")), "{scenario}: {head}");
        let title = page.browser.value("document.title");
        let kind = story(scenario, protocol)["report"]["kind"].as_str().expect("a kind").replace('_', " ");
        assert!(text(&title).ends_with(&kind), "{title}");
        // What the names mean stands beside it.
        let key = page.browser.value("document.querySelector('.key').innerText");
        for name in ["P1", "T3", "pud[4]", "quiet"] {
            assert!(text(&key).contains(name), "{name}: {key}");
        }
    }
    page.assert_quiet();
}

#[test]
fn the_locks_that_a_report_names_are_not_folded() {
    let Some(mut page) = Opened::at("#S25:no-trylock/hugewalk") else { return };
    let story = story("S25:no-trylock", "hugewalk");
    let shown = page.browser.value(
        "[...document.querySelectorAll('[data-step]')].filter((step) => step.offsetHeight > 0).map((step) => step.innerText).join('\\n')",
    );
    let orders = story["report"]["order"].as_array().expect("a list");
    assert!(!orders.is_empty());
    for order in orders {
        for lock in [text(&order["held"]), text(&order["taken"])] {
            assert!(text(&shown).contains(&format!("takes {lock}")), "{lock}: {shown}");
        }
    }
    for lock in ["inode lock", "i_mmap, write"] {
        assert!(text(&shown).contains(&format!("takes {lock}")), "{lock}: {shown}");
    }
}

#[test]
fn a_race_that_chance_did_not_meet_is_not_called_safe_and_its_step_not_useless() {
    let checked = checked("check --random 1 --seed 1");
    let verdicts = checked.report["verdicts"].as_array().expect("verdicts");
    let missed = |verdict: &&Value| verdict["verdict"] == "not_met";
    let not_met: Vec<&Value> = verdicts.iter().filter(missed).collect();
    assert!(not_met.iter().all(|verdict| verdict["expected"] == "race" && verdict["as_expected"].is_null()));
    assert_eq!(checked.report["not_met"], not_met.len());
    assert!(not_met.len() > 20, "one run meets few");
    let wrong = verdicts.iter().find(|verdict| verdict["verdict"] == "safe" && verdict["expected"] == "race");
    assert_eq!(wrong, None);
    let Some(mut page) = Opened::of(&checked, "") else { return };
    let summary = page.browser.value("document.querySelector('.summary').innerText");
    let told = format!("{} known races not met", not_met.len());
    assert!(text(&summary).contains(&told) && text(&summary).contains("All other verdicts"), "{summary}");
    let cells = not_met.iter().filter(|verdict| verdict["left_out"].is_null()).count();
    assert_eq!(page.browser.value("document.querySelectorAll('.cell.not_met').length"), cells);
    let steps = page.browser.value("document.querySelector('.steps').innerText");
    assert!(text(&steps).contains("not met") && !text(&steps).contains("no scenario shows"), "{steps}");
    // Each step says what it is.
    let empty = page.browser.value(
        "[...document.querySelectorAll('.steps .what')].filter((what) => what.innerText.length < 20).length",
    );
    assert_eq!(empty, 0);
    let one = not_met.iter().find(|verdict| !verdict["left_out"].is_null()).expect("a step");
    page.open(&format!("#{}/{}~{}", text(&one["scenario"]), text(&one["protocol"]), text(&one["left_out"])));
    let told = page.browser.value("document.querySelector('.explored').innerText");
    assert!(text(&told).contains("a race is known here"), "{told}");
    page.assert_quiet();
}

#[test]
fn the_foot_of_the_page_says_what_made_it_when_and_how() {
    let Some(mut page) = Opened::at("") else { return };
    let foot = page.browser.value("document.querySelector('.matrix footer').innerText");
    let foot = text(&foot);
    assert!(foot.contains(concat!("hugewalk ", env!("CARGO_PKG_VERSION"))), "{foot}");
    let command = text(&CHECKED.report["command"]);
    assert!(command.starts_with("hugewalk check S1 S8 S9 ") && foot.contains(command), "{foot}");
    let date = foot.split(" · ").nth(1).unwrap_or_default();
    assert!(date.starts_with("20") && date.ends_with(" UTC") && date.len() == 20, "{date}");
}

#[test]
fn a_page_that_cannot_be_written_is_refused_before_the_work_with_exit_code_2() {
    let directory = TempDir::new().expect("a directory");
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    let output = command
        .current_dir(&directory)
        .args(["check", "--html", "no/page.html"])
        .timeout(std::time::Duration::from_secs(60))
        .output()
        .expect("it ran");
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{error}");
    assert!(error.contains("no/page.html: cannot be written"), "{error}");
    assert!(output.stdout.is_empty());
}
