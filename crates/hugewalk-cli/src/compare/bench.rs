//! Two benches: what a case costs in proportion to the baseline of its group, since the speed of the machine changes from run to
//! run and slows all of a group alike. A case counts as changed if that proportion moved by more than is tolerated, and the
//! middle halves of its samples do not overlap.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Change, Found, grown};

/// A case in proportion to its baseline: the median, and where the middle half of its samples lies.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Proportion {
    median: f64,
    middle: (f64, f64),
}

pub(super) fn compare(before: &Value, now: &Value, tolerance: f64) -> Found {
    let mut found = Found::default();
    let (old, new) = (proportions(before), proportions(now));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for name in names {
        let text = |proportion: &Proportion| format!("{:.3} of the baseline", proportion.median);
        let (Some(before), Some(now)) = (old.get(name), new.get(name)) else {
            found.pair(name, old.get(name), new.get(name), text, |_, _| None);
            continue;
        };
        let percent = grown(before.median, now.median).unwrap_or(0.0);
        let apart = before.middle.1 < now.middle.0 || now.middle.1 < before.middle.0;
        if percent.abs() <= tolerance || !apart {
            found.alike += 1;
            continue;
        }
        found.changes.push(Change {
            what: name.clone(),
            before: Some(text(before)),
            now: Some(text(now)),
            percent: Some(percent),
        });
    }
    for machine in ["processor", "kernel", "processors", "membarrier"] {
        if before[machine] != now[machine] {
            found.notes.push(format!(
                "The machines differ: {machine} was {} and is {}.",
                before[machine], now[machine]
            ));
        }
    }
    found
}

/// By group and case. Without the baselines, which are 1.
fn proportions(report: &Value) -> BTreeMap<String, Proportion> {
    let mut proportions = BTreeMap::new();
    for group in report["groups"].as_array().into_iter().flatten() {
        let cases = group["cases"].as_array().into_iter().flatten();
        let base = cases.clone().find(|case| case["name"] == group["baseline"]);
        let Some(base) = base.and_then(|case| case["median_ns"].as_f64()).filter(|base| *base > 0.0) else {
            continue;
        };
        for case in cases.filter(|case| case["name"] != group["baseline"]) {
            let of = |figure: &str| case[figure].as_f64().map(|figure| figure / base);
            let Some(median) = of("median_ns") else { continue };
            let middle = (of("lower_ns").unwrap_or(median), of("upper_ns").unwrap_or(median));
            let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = format!("{}: {}", name(&group["title"]), name(&case["name"]));
            proportions.insert(name, Proportion { median, middle });
        }
    }
    proportions
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(base: f64, median: f64, spread: f64) -> Value {
        json!({"groups": [{"title": "walk", "baseline": "chase", "cases": [
            {"name": "chase", "median_ns": base, "lower_ns": base, "upper_ns": base},
            {"name": "rcu", "median_ns": median, "lower_ns": median - spread, "upper_ns": median + spread},
        ]}]})
    }

    #[test]
    fn a_case_changes_with_its_baseline_and_not_with_the_machine() {
        let changes = |before: &Value, now: &Value| compare(before, now, 5.0).changes.len();
        // Twice as slow a machine.
        assert_eq!(changes(&report(5.0, 8.0, 0.1), &report(10.0, 16.0, 0.1)), 0);
        assert_eq!(changes(&report(5.0, 8.0, 0.1), &report(5.0, 9.0, 0.1)), 1);
        // Within what is tolerated; and with samples that overlap.
        assert_eq!(changes(&report(5.0, 8.0, 0.1), &report(5.0, 8.3, 0.1)), 0);
        assert_eq!(changes(&report(5.0, 8.0, 1.0), &report(5.0, 9.0, 1.0)), 0);
        let compared = compare(&report(5.0, 8.0, 0.1), &report(5.0, 10.0, 0.1), 5.0);
        assert_eq!(compared.changes[0].percent.map(f64::round), Some(25.0));
    }
}
