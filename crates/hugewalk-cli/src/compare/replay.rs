//! Two replays: tables, faults, what unsharing cost, the pools. Names, moments, processes' numbers and how fast it went are no
//! change: they differ between two recordings of one program.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Found, grown};

pub(super) fn compare(before: &Value, now: &Value) -> Found {
    let mut found = Found::default();
    let (old, new) = (figures(before), figures(now));
    let names: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let text = |figure: &u64| figure.to_string();
        let percent = |before: &u64, now: &u64| grown(*before as f64, *now as f64);
        found.pair(name, old.get(name), new.get(name), text, percent);
    }
    let notes = |report: &Value| report["notes"].as_array().map_or(0, Vec::len);
    let notes = notes(before) + notes(now);
    if notes > 0 {
        found.notes.push(format!(
            "The two replays say {notes} times what they cannot tell (`notes`): figures may be wrong on either side."
        ));
    }
    found
}

fn figures(report: &Value) -> BTreeMap<String, u64> {
    let mut figures = BTreeMap::new();
    let mut take = |name: String, value: &Value| {
        if let Some(figure) = value.as_u64() {
            figures.insert(name, figure);
        }
    };
    for name in ["processes", "calls", "huge_faults"] {
        take(format!("recording: {name}"), &report["recording"][name]);
    }
    for (when, tables) in [("at the end", &report["tables"]), ("at the peak", &report["peak"]["tables"])] {
        for (name, value) in tables.as_object().into_iter().flatten() {
            take(format!("tables {when}: {name}"), value);
            for (users, tables) in value.as_object().into_iter().flatten() {
                take(format!("tables {when}: with {users} users"), tables);
            }
        }
    }
    for (call, events) in report["unsharing"]["by_call"].as_object().into_iter().flatten() {
        take(format!("unsharing: by {call}"), events);
    }
    for protocol in report["unsharing"]["protocols"].as_array().into_iter().flatten() {
        let of = protocol["name"].as_str().unwrap_or_default();
        for (name, value) in protocol.as_object().into_iter().flatten() {
            take(format!("unsharing under {of}: {name}"), value);
        }
    }
    for pool in report["pools"].as_array().into_iter().flatten() {
        let size = pool["huge_page_kb"].as_u64().unwrap_or(0);
        for name in ["total", "free", "reserved", "surplus"] {
            take(format!("pool of {size} kB at the end: {name}"), &pool[name]);
        }
    }
    let sum = |list: &str, name: &str| {
        let values = report[list].as_array().into_iter().flatten();
        Value::from(values.filter_map(|each| each[name].as_u64()).sum::<u64>())
    };
    let count = |list: &str| Value::from(report[list].as_array().map_or(0, Vec::len));
    take("mappings".to_owned(), &count("mappings"));
    take("mappings: bytes".to_owned(), &sum("mappings", "bytes"));
    take("mappings: sharable_ranges".to_owned(), &sum("mappings", "sharable_ranges"));
    take("processes at the end: hugetlb_pages_kb".to_owned(), &sum("processes", "hugetlb_pages_kb"));
    for list in ["differences", "failed", "killed"] {
        take(list.to_owned(), &count(list));
    }
    take("truth: differing".to_owned(), &report["truth"]["differing"]);
    figures
}
