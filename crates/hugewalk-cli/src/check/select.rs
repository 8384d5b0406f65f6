//! From names to cases: which scenarios under which protocols.

use std::sync::Arc;

use hugewalk_lab::lab::Settings;
use hugewalk_lab::scenario::{self, Expected, Scenario};

use super::args::CheckArgs;
use super::error::{CheckError, did_you_mean};
use super::outcome::Options;

/// A scenario under a protocol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) scenario: &'static Scenario,
    pub(super) settings: Settings,
    /// The step that this case alone leaves out: of our own protocol, each in turn.
    pub(super) left_out: Option<&'static str>,
    /// What must come of it, if anybody has said.
    pub(super) expected: Option<Expected>,
}

impl Case {
    /// Why there is nothing to find out, if there is nothing.
    pub(super) fn does_not_apply(&self) -> Option<&'static str> {
        match self.expected {
            Some(Expected::DoesNotApply(why)) => Some(why),
            _ => None,
        }
    }
}

/// What was selected, line by line.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) scenarios: Vec<&'static Scenario>,
    pub(super) protocols: Vec<Settings>,
    /// The steps that are left out of them.
    pub(super) without: Vec<String>,
    /// The steps that are added to them.
    pub(super) with: Vec<String>,
    /// How the protocols are called that were defined, and what they were defined as; in the order of `protocols`.
    pub(super) defined: Vec<String>,
    /// All of the former under all of the latter.
    pub(super) cases: Arc<[Case]>,
}

/// What the command line asks for.
pub(super) fn select(args: &CheckArgs) -> Result<Selection, CheckError> {
    Selection::new(&Wanted {
        scenarios: &args.scenarios,
        protocols: &args.protocol,
        without: &args.without,
        with: &args.with,
        freed_at_once: args.freed_at_once,
    })
}

impl Selection {
    /// What a campaign was asked for.
    pub(super) fn of(options: &Options) -> Result<Self, CheckError> {
        Self::new(&Wanted {
            scenarios: &options.scenarios,
            protocols: &options.protocols,
            without: &options.without,
            with: &options.with,
            freed_at_once: options.freed_at_once,
        })
    }

    fn new(wanted: &Wanted<'_>) -> Result<Self, CheckError> {
        let &Wanted { scenarios: named, protocols: under, freed_at_once, .. } = wanted;
        let scenarios = scenarios(named)?;
        let (mut protocols, definitions) = protocols(under)?;
        let (without_steps, with_steps) = (once(wanted.without), once(wanted.with));
        for step in &without_steps {
            protocols = changed(&protocols, Change::Without, step, !under.is_empty())?;
        }
        for step in &with_steps {
            protocols = changed(&protocols, Change::With, step, !under.is_empty())?;
        }
        let defined = protocols
            .iter()
            .map(|settings| {
                let is_this =
                    |line: &&String| line.split_once('=').is_some_and(|(name, _)| name == settings.name);
                definitions.iter().find(is_this).cloned().unwrap_or_else(|| settings.name.to_owned())
            })
            .collect();
        if freed_at_once {
            protocols = protocols.into_iter().map(Settings::freed_at_once).collect();
        }
        let case = |scenario: &'static Scenario, settings: Settings| Case {
            scenario,
            settings,
            left_out: None,
            expected: scenario::expected(scenario.id, &settings).or_else(|| {
                proof(scenario.id, &settings, &without_steps)
                    .filter(|_| !freed_at_once && with_steps.is_empty())
            }),
        };
        let mut cases: Vec<Case> = scenarios
            .iter()
            .flat_map(|&scenario| protocols.iter().map(move |&settings| case(scenario, settings)))
            .collect();
        // By what was selected and not by what was named: a campaign that is merged names what it is of.
        let all = scenarios.len() == scenario::all().count() && protocols == Settings::ALL;
        if all && !freed_at_once {
            // All there is: then each step of ours is put to the proof as well.
            cases.extend(scenario::PROOFS.iter().map(|&(step, id, settings)| Case {
                scenario: scenario::named(id).expect("a scenario of the table"),
                settings: settings.without(step).expect("a step of the table"),
                left_out: Some(step),
                expected: Some(Expected::Race),
            }));
        }
        if let [case] = &cases[..]
            && let Some(why) = case.does_not_apply()
        {
            return Err(CheckError::DoesNotApply {
                scenario: case.scenario.id,
                protocol: case.settings.name,
                why,
            });
        }
        let (without, with) = (without_steps, with_steps);
        Ok(Self { scenarios, protocols, without, with, defined, cases: cases.into() })
    }
}

/// What is asked for, by names.
struct Wanted<'n> {
    scenarios: &'n [String],
    protocols: &'n [String],
    without: &'n [String],
    with: &'n [String],
    freed_at_once: bool,
}

/// Each once, however often it was named.
fn once(steps: &[String]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for step in steps {
        if !all.contains(step) {
            all.push(step.clone());
        }
    }
    all
}

/// What a name that no scenario has was meant to be, as a part of a sentence.
pub(super) fn meant(name: &str) -> String {
    let line = name.trim_end_matches(['*', '/']);
    let is_line = |scenario: &Scenario| scenario.line().eq_ignore_ascii_case(line);
    match scenario::all().find(|scenario| is_line(scenario)) {
        // As a shell would have it, or a line whose every scenario has a longer name.
        Some(scenario) => format!(", did you mean '{}/*'?", scenario.line()),
        None => did_you_mean(line, scenario::all().map(|scenario| scenario.id)),
    }
}

/// What is known of a step that is left out: that this scenario has a race without it.
fn proof(scenario: &str, settings: &Settings, left_out: &[String]) -> Option<Expected> {
    let [step] = left_out else { return None };
    let is_this = |proof: &&(&str, &str, Settings)| {
        proof.0 == *step && proof.1 == scenario && proof.2.name == settings.name
    };
    scenario::PROOFS.iter().find(is_this).map(|_| Expected::Race)
}

fn scenarios(names: &[String]) -> Result<Vec<&'static Scenario>, CheckError> {
    let is_meant = |name: &str, scenario: &Scenario| match name.strip_suffix("/*") {
        Some(line) if !is_pattern(line) => scenario.line().eq_ignore_ascii_case(line),
        _ => fits(name, scenario.id),
    };
    for name in names {
        if !scenario::all().any(|scenario| is_meant(name, scenario)) {
            let hint = meant(name);
            return Err(CheckError::UnknownScenario { name: name.clone(), hint });
        }
    }
    // In the order of the matrix, whatever the order they were named in.
    let chosen = |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| is_meant(name, scenario));
    Ok(scenario::all().filter(chosen).collect())
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// Does a name fit a pattern, in which `*` stands for anything and `?` for one character? Capital letters or not.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return name.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    let mut left = name.chars();
    match first {
        '*' => name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| fits(rest, &name[at..])),
        '?' => left.next().is_some() && fits(rest, left.as_str()),
        letter => {
            left.next().is_some_and(|other| other.eq_ignore_ascii_case(&letter)) && fits(rest, left.as_str())
        }
    }
}

/// The protocols of these names, and the lines among them that define one.
fn protocols(names: &[String]) -> Result<(Vec<Settings>, Vec<String>), CheckError> {
    let all = || Settings::ALL.iter().map(|settings| settings.name);
    let (mut known, mut defined, mut lines) = (Vec::new(), Vec::<Settings>::new(), Vec::new());
    for text in names {
        if text.contains('=') {
            let not_one = |why| CheckError::NotAProtocol { text: text.clone(), why };
            let settings = Settings::define(text).map_err(not_one)?;
            if defined.iter().any(|other| other.name == settings.name) {
                return Err(CheckError::DefinedTwice { name: settings.name });
            }
            defined.push(settings);
            lines.push(text.clone());
            continue;
        }
        for name in text.split(',') {
            if !all().any(|known| known.eq_ignore_ascii_case(name)) {
                let (hint, all) = (did_you_mean(name, all()), all().collect::<Vec<_>>().join(", "));
                return Err(CheckError::UnknownProtocol { name: name.to_owned(), hint, all });
            }
            known.push(name);
        }
    }
    // In the order of the matrix, whatever the order they were named in.
    let chosen = |settings: &Settings| {
        names.is_empty() || known.iter().any(|name| name.eq_ignore_ascii_case(settings.name))
    };
    let mut chosen: Vec<Settings> = Settings::ALL.into_iter().filter(chosen).collect();
    chosen.extend(defined);
    Ok((chosen, lines))
}

/// How a step is changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Without,
    With,
}

impl Change {
    /// Does it change anything?
    fn matters(self, settings: &Settings, step: &str) -> bool {
        match self {
            Self::Without => settings.has(step),
            Self::With => settings.lacks(step),
        }
    }
}

/// Changes a step of each; those in which that changes nothing drop out, unless they were asked for by name.
fn changed(
    protocols: &[Settings],
    change: Change,
    step: &str,
    by_name: bool,
) -> Result<Vec<Settings>, CheckError> {
    if !Settings::steps().any(|known| known == step) {
        let (hint, all) =
            (did_you_mean(step, Settings::steps()), Settings::steps().collect::<Vec<_>>().join(", "));
        return Err(CheckError::UnknownStep { name: step.to_owned(), hint, all });
    }
    let idle = protocols.iter().find(|settings| !change.matters(settings, step));
    if let Some(idle) = idle
        && (by_name || protocols.iter().all(|settings| !change.matters(settings, step)))
    {
        let others: Vec<_> = Settings::ALL
            .iter()
            .filter(|settings| change.matters(settings, step))
            .map(|settings| settings.name)
            .collect();
        let (protocol, step, others) = (idle.name, step.to_owned(), others.join(", "));
        return Err(match change {
            Change::Without => CheckError::StepNotThere { protocol, step, having: others },
            Change::With if others.is_empty() => CheckError::StepEverywhere { step },
            Change::With => CheckError::StepThere { protocol, step, lacking: others },
        });
    }
    let change_it = |settings: &Settings| match change {
        Change::Without => settings.without(step),
        Change::With => settings.with(step),
    };
    Ok(protocols.iter().filter(|settings| change.matters(settings, step)).filter_map(change_it).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str]) -> Vec<&'static str> {
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        scenarios(&wanted).expect("names").into_iter().map(|scenario| scenario.id).collect()
    }

    #[test]
    fn a_line_is_itself_and_all_that_belongs_to_it() {
        assert_eq!(names(&["s1"]), ["S1"]);
        let line = names(&["S1/*"]);
        assert!(line.contains(&"S1") && line.iter().all(|id| id.starts_with("S1") && !id.starts_with("S10")));
        assert_eq!(names(&["S9", "S1", "S9"]), ["S1", "S9"], "each once, in the order of the table");
        assert_eq!(names(&["S80", "S74"]), ["S74", "S80"]);
    }

    #[test]
    fn a_pattern_is_all_that_it_fits() {
        assert_eq!(
            names(&["S*"]).len(),
            scenario::all().filter(|scenario| scenario.id.starts_with('S')).count()
        );
        let walkers = names(&["*/gup-fast"]);
        assert!(walkers.len() > 1 && walkers.iter().all(|id| id.ends_with("/gup-fast")), "{walkers:?}");
        let tens = names(&["s1?"]);
        assert!(
            tens.contains(&"S10") && tens.iter().all(|id| id.len() == 3 && id.starts_with("S1")),
            "{tens:?}"
        );
        assert!(names(&["S10:*"]).iter().all(|id| id.starts_with("S10:")));
        assert!(scenarios(&["S1*x".to_owned()]).is_err());
    }

    fn wanted<'n>(scenarios: &'n [String], protocols: &'n [String]) -> Wanted<'n> {
        Wanted { scenarios, protocols, without: &[], with: &[], freed_at_once: false }
    }

    #[test]
    fn all_by_name_is_the_same_as_all() {
        let all = Selection::new(&wanted(&[], &[])).expect("all");
        let ids: Vec<String> = all.scenarios.iter().map(|scenario| scenario.id.to_owned()).collect();
        let protocols: Vec<String> = all.protocols.iter().map(|settings| settings.name.to_owned()).collect();
        let named = Selection::new(&wanted(&ids, &protocols)).expect("all");
        assert_eq!(named.cases.len(), all.cases.len());
        assert!(named.cases.iter().any(|case| case.left_out.is_some()));
    }

    #[test]
    fn a_step_is_left_out_of_those_that_have_it() {
        let only = changed(&Settings::ALL, Change::Without, "revalidate", false).expect("a step");
        assert!(only.iter().any(|settings| settings.name == "hugewalk"));
        assert!(only.iter().all(|settings| settings.name != "legacy" && !settings.has("revalidate")));
        assert!(changed(&[Settings::LEGACY], Change::Without, "revalidate", true).is_err());
        let added = changed(&Settings::ALL, Change::With, "revalidate", false).expect("a step");
        assert!(added.iter().all(|settings| settings.has("revalidate") && settings.name != "hugewalk"));
        assert!(changed(&[Settings::HUGEWALK], Change::With, "revalidate", true).is_err());
        assert!(changed(&Settings::ALL, Change::With, "flush", false).is_err(), "all have it");
    }
}
