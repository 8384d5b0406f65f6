//! The page of `hugewalk replay --html`, opened from disk in a real browser.

mod browser;
mod common;

use std::path::PathBuf;
use std::sync::LazyLock;

use browser::Browser;
use common::{example, json, run};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The page of a database under load, and the report that it shows.
struct Written {
    directory: TempDir,
    report: Value,
}

static WRITTEN: LazyLock<Written> = LazyLock::new(|| {
    let directory = TempDir::new().expect("a directory");
    let page = directory.path().join("page.html").display().to_string();
    let file = |ending: &str| example(&format!("pgbench.{ending}")).display().to_string();
    let (strace, faults, truth) = (file("strace.gz"), file("faults.gz"), file("truth.json"));
    let ran = run(&[
        "replay", &strace, "--faults", &faults, "--truth", &truth, "--html", &page, "--format", "json",
    ]);
    assert_eq!(ran.code, Some(0));
    Written { report: json(&ran), directory }
});

impl Written {
    fn page(&self) -> PathBuf {
        self.directory.path().join("page.html")
    }
}

/// The page there, in a window of this width; `None` on a machine without a browser.
fn opened(hash: &str, width: u32, scheme: &str) -> Option<Browser> {
    let mut browser = Browser::start_or_say()?;
    browser.look(width, 900, scheme);
    browser.open(&WRITTEN.page(), hash);
    browser.wait_until("document.querySelector('footer') !== null");
    Some(browser)
}

fn assert_quiet(browser: &Browser) {
    assert_eq!(browser.complaints(), [""; 0]);
    assert_eq!(browser.requests(), [""; 0]);
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// A number as the page writes it.
fn grouped(number: u64) -> String {
    let digits: Vec<char> = number.to_string().chars().rev().collect();
    let parts: Vec<String> = digits.chunks(3).map(|part| part.iter().rev().collect()).collect();
    parts.into_iter().rev().collect::<Vec<String>>().join(",")
}

#[test]
fn tables_lie_on_the_map_where_the_report_counts_them() {
    let Some(mut page) = opened("", 1280, "light") else { return };
    let fullest = &WRITTEN.report["peak"]["tables"];
    let cells = page.value("[...document.querySelectorAll('.cell-box')].map((cell) => [cell.dataset.kind, Number(cell.dataset.users), Number(cell.dataset.own)])");
    let cells: Vec<(String, u64, u64)> = serde_json::from_value(cells).expect("cells");
    // Both edges are each process's own; both whole ranges are shared.
    let kinds: Vec<&str> = cells.iter().map(|(kind, ..)| kind.as_str()).collect();
    assert_eq!(kinds, ["own", "shared", "shared", "own"]);
    let alone: u64 = cells.iter().map(|(_, _, own)| own).sum();
    assert_eq!(alone, number(&fullest["by_users"]["1"]));
    for (_, users, _) in cells.iter().filter(|(kind, ..)| kind == "shared") {
        assert_eq!(fullest["by_users"][users.to_string()], 1, "{users}");
    }
    let rows = "document.querySelectorAll('#processes tbody tr').length";
    assert_eq!(page.value(rows), fullest["processes"]);
    let uses = page.value("[...document.querySelectorAll('#processes tbody tr')].map((row) => Number(row.cells[2].textContent) + Number(row.cells[3].textContent)).reduce((sum, one) => sum + one, 0)");
    assert_eq!(uses, fullest["uses"]);
    let protocols = "document.querySelectorAll('#unsharing tbody tr').length";
    assert_eq!(page.value(protocols), 8);
    assert_quiet(&page);
}

#[test]
fn keys_move_through_time_and_what_is_told_is_in_the_table_too() {
    let Some(mut page) = opened("", 1280, "light") else { return };
    let last = number(&page.value("Number(document.querySelector('.frame').getAttribute('aria-valuemax'))"));
    assert!(last >= 8, "{last}");
    page.value("document.querySelector('.frame').focus()");
    let now = "Number(document.querySelector('.frame').getAttribute('aria-valuenow'))";
    let fullest = number(&page.value(now));
    let told = "document.querySelector('.told').textContent";
    let peak = &WRITTEN.report["peak"]["tables"];
    let expected = format!("{} tables, {} without sharing", peak["tables"], peak["uses"]);
    let at_fullest = text(&page.value(told));
    assert!(at_fullest.contains("the peak") && at_fullest.contains(&expected), "{at_fullest}");
    page.press("End");
    assert_eq!(page.value(now), last);
    let at_end = text(&page.value(told));
    let tables = &WRITTEN.report["tables"];
    assert!(at_end.contains(&format!("{} tables, {} without", tables["tables"], tables["uses"])), "{at_end}");
    page.press("ArrowLeft");
    assert_eq!(page.value(now), last - 1);
    page.press("Home");
    assert_eq!(page.value(now), 0);
    assert_ne!(fullest, 0);
    // Every moment is a row of the table that stands for the drawing.
    let row = "[...document.querySelectorAll('#course tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))";
    let rows: Vec<Vec<String>> = serde_json::from_value(page.value(row)).expect("rows");
    assert_eq!(rows.len() as u64, last + 1);
    assert_eq!(rows[fullest as usize][2], peak["tables"].to_string());
    let faults: u64 = rows.iter().map(|row| row[4].replace(',', "").parse::<u64>().expect("a number")).sum();
    assert_eq!(faults, number(&WRITTEN.report["recording"]["huge_faults"]));
    let drawn = "document.querySelectorAll('.course rect.bar').length";
    assert!(number(&page.value(drawn)) > 50, "bars of faults");
    assert_quiet(&page);
}

#[test]
fn what_is_chosen_is_what_was_performed_and_stays_in_the_address() {
    const THEN: &str = "[...document.querySelectorAll('#what-if .compared tbody tr')].slice(0, 3).map((row) => row.cells[3].textContent)";
    let what_if = WRITTEN.report["what_if"].as_array().expect("a list");
    assert_eq!(what_if.len(), 9);
    let computed = what_if.iter().filter(|what| what["tables"].is_object()).count();
    assert_eq!(computed, 9, "{what_if:#?}");
    let find = |aligned: bool, page_kb: u64, clones: u64| {
        let fits = |what: &&Value| {
            json!([what["aligned"], what["page_kb"], what["clones"]]) == json!([aligned, page_kb, clones])
        };
        what_if.iter().find(fits).expect("computed")
    };
    // Four whole gigabytes' worth of mapping share in three when it is aligned.
    let (now, aligned) = (find(false, 2048, 1), find(true, 2048, 1));
    assert!(number(&aligned["tables"]["tables"]) < number(&now["tables"]["tables"]));

    let Some(mut page) = opened("", 1280, "light") else { return };
    page.value("document.querySelector('#what-if input').focus()");
    for (key, what) in [("ArrowRight", aligned), ("ArrowRight", find(true, 1 << 20, 1))] {
        page.press(key);
        let shown: Vec<String> = serde_json::from_value(page.value(THEN)).expect("texts");
        assert_eq!(shown[0], grouped(number(&what["tables"]["tables"])));
        assert_eq!(shown[2], grouped(number(&what["tables"]["pages_faulted"])));
    }
    page.value("[...document.querySelectorAll('#what-if input[name=clones]')].at(-1).click()");
    let hash = text(&page.value("location.hash"));
    assert_eq!(hash, "#aligned,1048576,100");
    page.open(&WRITTEN.page(), &hash);
    let shown: Vec<String> = serde_json::from_value(page.value(THEN)).expect("texts");
    assert_eq!(shown[0], grouped(number(&find(true, 1 << 20, 100)["tables"]["tables"])));
    assert_quiet(&page);
}

#[test]
fn keys_go_to_sections_and_a_question_mark_names_them() {
    let Some(mut page) = opened("", 1280, "light") else { return };
    for (key, section) in [("a", "addresses"), ("w", "what-if"), ("t", "course")] {
        page.press(key);
        assert_eq!(page.value("document.activeElement.id"), format!("{section}-title"));
    }
    page.press("?");
    assert_eq!(page.value("document.getElementById('help').open"), true);
    assert_quiet(&page);
}

#[test]
fn nothing_is_cut_or_overlaps_on_wide_and_narrow_windows_in_light_and_dark() {
    const FAULTS: &str = r"(() => {
        const faults = [];
        const box = (element) => element.getBoundingClientRect();
        if (document.documentElement.scrollWidth > innerWidth) faults.push(`the page is ${document.documentElement.scrollWidth} px wide`);
        for (const element of document.querySelectorAll('main *')) {
            const { left, right, width } = box(element);
            if (width === 0 || element.closest('.wide') || element.closest('svg') || element.closest('.unseen')) continue;
            if (left < -1 || right > innerWidth + 1) faults.push(`${element.tagName}.${element.className}: from ${left} to ${right}`);
        }
        const labels = [...document.querySelectorAll('.panel-label')].map(box);
        for (const label of labels) if (label.height > 22) faults.push(`a label is ${label.height} px high`);
        const cells = [...document.querySelectorAll('.cell-box')];
        cells.forEach((cell, at) => {
            const before = cells[at - 1];
            if (before && box(before).top === box(cell).top && Math.abs(box(before).right - box(cell).left) > 1) faults.push('cells do not touch');
            const [outer, inner] = [box(cell.querySelector('.gigabyte')), box(cell.querySelector('.filled'))];
            if (inner.left < outer.left - 1 || inner.right > outer.right + 1) faults.push('a filled part leaves its gigabyte');
        });
        return faults;
    })()";
    for scheme in ["light", "dark"] {
        for width in [1400, 420] {
            let Some(mut page) = opened("", width, scheme) else { return };
            assert_eq!(page.value(FAULTS), json!([]), "{width} {scheme}");
            let paper = text(&page.value("getComputedStyle(document.body).backgroundColor"));
            assert_eq!(paper == "rgb(21, 22, 26)", scheme == "dark", "{paper}");
            page.look(width, 3000, scheme);
            page.picture(&format!("replay-{width}-{scheme}"));
            assert_quiet(&page);
        }
    }
}

#[test]
fn a_recording_without_huge_pages_has_a_page_that_says_so() {
    let Some(mut page) = Browser::start_or_say() else { return };
    let directory = TempDir::new().expect("a directory");
    let [strace, file] = ["t.strace", "page.html"].map(|name| directory.path().join(name));
    std::fs::write(&strace, "7 1.000001 execve(\"/bin/x\", [\"x\"], 0x7f /* 3 vars */) = 0\n")
        .expect("written");
    let ran = run(&["replay", &strace.display().to_string(), "--html", &file.display().to_string()]);
    assert_eq!(ran.code, Some(0));
    page.open(&file, "");
    page.wait_until("document.querySelector('footer') !== null");
    assert_eq!(page.value("document.querySelectorAll('section svg, nav').length"), 0);
    let said = text(&page.value("document.querySelector('main').textContent"));
    assert!(said.contains("No call mapped huge pages"), "{said}");
    assert_quiet(&page);
}

#[test]
fn a_page_that_cannot_be_written_is_refused_before_the_work() {
    let strace = example("selftest-mremap.strace").display().to_string();
    let output = assert_cmd::Command::cargo_bin("hugewalk")
        .expect("the command")
        .args(["replay", &strace, "--html", "/none/page.html"])
        .output()
        .expect("it ran");
    let error = String::from_utf8(output.stderr).expect("text");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(2), &b""[..]));
    assert!(error.starts_with("hugewalk: /none/page.html: cannot be written: "), "{error}");
    assert_eq!(error.lines().count(), 1);
}
