//! Two checks: which verdicts changed. How many executions it took is no change.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Found;

/// A verdict by scenario, protocol and the step that was left out.
type Key = (String, String, String);

pub(super) fn compare(before: &Value, now: &Value) -> Found {
    let mut found = Found::default();
    let (old, new) = (verdicts(before), verdicts(now));
    let keys: BTreeSet<&Key> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let (scenario, protocol, left_out) = key;
        let without = if left_out.is_empty() { String::new() } else { format!(" without {left_out}") };
        let what = format!("{scenario} under {protocol}{without}");
        found.pair(&what, old.get(key), new.get(key), Clone::clone, |_, _| None);
    }
    if before["options"] != now["options"] {
        found.notes.push("The two were not asked for the same: their options differ.".to_owned());
    }
    let incomplete = |report: &Value| report["incomplete"].as_u64().unwrap_or(0);
    let incomplete = incomplete(before) + incomplete(now);
    if incomplete > 0 {
        found
            .notes
            .push(format!("{incomplete} verdicts of the two are incomplete: what was not run may race."));
    }
    found
}

fn verdicts(report: &Value) -> BTreeMap<Key, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let verdict = |entry: &Value| {
        let key = (text(&entry["scenario"]), text(&entry["protocol"]), text(&entry["left_out"]));
        let verdict = match entry["kind"].as_str() {
            Some(kind) => format!("{} ({})", text(&entry["verdict"]), kind.replace('_', " ")),
            None => text(&entry["verdict"]).replace('_', " "),
        };
        (key, verdict)
    };
    report["verdicts"].as_array().into_iter().flatten().map(verdict).collect()
}
