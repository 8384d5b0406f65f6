//! What became a CVE in Linux: in which kernels it was real, and where it shows here.

use super::{Expected, Scenario, all, expected};
use crate::lab::Settings;

/// The line of the table of scenarios, the CVE, and the kernels that had the fault.
const CVES: [(&str, &str, &str); 4] = [
    ("S9", "CVE-2025-38085", "Linux before 6.16"),
    ("S11", "CVE-2021-4002", "Linux before 5.16"),
    ("S14", "CVE-2025-38084", "Linux before 6.16"),
    ("S16", "CVE-2024-57883", "Linux before 6.13"),
];

/// If the scenario became a CVE: in which kernels the fault was real, and which cases show it here. A plain row may be safe
/// under the protocol of a kernel that had the fault: protocols differ in who holds what and who waits for whom, and all of
/// them run one engine, in which other faults are mended.
#[must_use]
pub fn history(id: &str) -> Option<String> {
    let (line, cve, kernels) = CVES.into_iter().find(|(line, ..)| *line == id)?;
    let races = |scenario: &Scenario| {
        let race = |settings: &&Settings| expected(scenario.id, settings) == Some(Expected::Race);
        Settings::ALL.iter().filter(race).map(|settings| settings.name).collect::<Vec<_>>()
    };
    let is_mistake = |scenario: &&Scenario| scenario.line() == line && scenario.mistake().is_some();
    let own = super::named(id).map(races).unwrap_or_default();
    let mut places = Vec::new();
    if !own.is_empty() {
        places.push(format!("in this row under {}", listed(&own)));
    }
    for mistake in all().filter(is_mistake) {
        let under = races(mistake);
        let under =
            if under.len() == Settings::ALL.len() { "all protocols".to_owned() } else { listed(&under) };
        places.push(format!("in {} under {under}", mistake.id));
    }
    let why =
        if own.is_empty() { "This row is safe because all protocols run an engine without it. " } else { "" };
    Some(format!(
        "{cve} was real in {kernels}, but for stable releases with the fix. {why}It shows here {}.",
        places.join(", ")
    ))
}

fn listed(names: &[&str]) -> String {
    match names {
        [rest @ .., last] if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cve_that_a_scenario_names_says_where_it_was_real_and_where_it_shows() {
        for scenario in all().filter(|scenario| scenario.what.contains("CVE-")) {
            let told = history(scenario.id).unwrap_or_default();
            let cve =
                scenario.what.split("CVE-").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or("?");
            assert!(
                told.contains(cve) && told.contains("was real in Linux before"),
                "{}: {told}",
                scenario.id
            );
            assert!(told.contains(" under "), "{}: it shows nowhere: {told}", scenario.id);
        }
        let split = history("S14").expect("a CVE");
        assert!(
            split.contains("safe because") && split.contains("S14:unshare-early under hugewalk"),
            "{split}"
        );
        assert!(history("S9").expect("a CVE").contains("in this row under legacy, "));
        assert_eq!(history("S1"), None);
    }
}
