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
    /// All of the former under all of the latter.
    pub(super) cases: Arc<[Case]>,
}

/// What the command line asks for.
pub(super) fn select(args: &CheckArgs) -> Result<Selection, CheckError> {
    Selection::new(&args.scenarios, &args.protocol, &args.without, args.freed_at_once)
}

impl Selection {
    /// What a campaign was asked for.
    pub(super) fn of(options: &Options) -> Result<Self, CheckError> {
        Self::new(&options.scenarios, &options.protocols, &options.without, options.freed_at_once)
    }

    fn new(
        named: &[String],
        under: &[String],
        left_out: &[String],
        freed_at_once: bool,
    ) -> Result<Self, CheckError> {
        let scenarios = scenarios(named)?;
        let mut protocols = protocols(under)?;
        // Each once, however often it was named.
        let mut without_steps: Vec<String> = Vec::new();
        for step in left_out {
            if !without_steps.contains(step) {
                without_steps.push(step.clone());
            }
        }
        for step in &without_steps {
            protocols = without(&protocols, step, !under.is_empty())?;
        }
        if freed_at_once {
            protocols = protocols.into_iter().map(Settings::freed_at_once).collect();
        }
        let case = |scenario: &'static Scenario, settings: Settings| Case {
            scenario,
            settings,
            left_out: None,
            expected: scenario::expected(scenario.id, &settings)
                .or_else(|| proof(scenario.id, &settings, &without_steps).filter(|_| !freed_at_once)),
        };
        let mut cases: Vec<Case> = scenarios
            .iter()
            .flat_map(|&scenario| protocols.iter().map(move |&settings| case(scenario, settings)))
            .collect();
        // By what was selected and not by what was named: a campaign that is merged names what it is of.
        let all = scenarios.len() == scenario::all().count() && protocols.len() == Settings::ALL.len();
        if all && left_out.is_empty() && !freed_at_once {
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
        Ok(Self { scenarios, protocols, without: without_steps, cases: cases.into() })
    }
}

/// What a name that no scenario has was meant to be, as a part of a sentence.
fn meant(name: &str) -> String {
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
    let fits = |name: &str, scenario: &Scenario| match name.strip_suffix("/*") {
        Some(line) => scenario.line().eq_ignore_ascii_case(line),
        None => scenario.id.eq_ignore_ascii_case(name),
    };
    for name in names {
        if !scenario::all().any(|scenario| fits(name, scenario)) {
            let hint = meant(name);
            return Err(CheckError::UnknownScenario { name: name.clone(), hint });
        }
    }
    // In the order of the matrix, whatever the order they were named in.
    let chosen = |scenario: &&Scenario| names.is_empty() || names.iter().any(|name| fits(name, scenario));
    Ok(scenario::all().filter(chosen).collect())
}

fn protocols(names: &[String]) -> Result<Vec<Settings>, CheckError> {
    let all = || Settings::ALL.iter().map(|settings| settings.name);
    for name in names {
        if !all().any(|known| known.eq_ignore_ascii_case(name)) {
            let (hint, all) = (did_you_mean(name, all()), all().collect::<Vec<_>>().join(", "));
            return Err(CheckError::UnknownProtocol { name: name.clone(), hint, all });
        }
    }
    let chosen = |settings: &Settings| {
        names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(settings.name))
    };
    Ok(Settings::ALL.into_iter().filter(chosen).collect())
}

/// Leaves a step out of each; those that have no such step drop out, unless they were asked for by name.
fn without(protocols: &[Settings], step: &str, by_name: bool) -> Result<Vec<Settings>, CheckError> {
    if !Settings::steps().any(|known| known == step) {
        let (hint, all) =
            (did_you_mean(step, Settings::steps()), Settings::steps().collect::<Vec<_>>().join(", "));
        return Err(CheckError::UnknownStep { name: step.to_owned(), hint, all });
    }
    let lacking = protocols.iter().find(|settings| !settings.has(step));
    if let Some(lacking) = lacking
        && (by_name || protocols.iter().all(|settings| !settings.has(step)))
    {
        let having: Vec<_> = Settings::ALL
            .iter()
            .filter(|settings| settings.has(step))
            .map(|settings| settings.name)
            .collect();
        return Err(CheckError::StepNotThere {
            protocol: lacking.name,
            step: step.to_owned(),
            having: having.join(", "),
        });
    }
    Ok(protocols
        .iter()
        .filter_map(|settings| settings.has(step).then(|| settings.without(step)).flatten())
        .collect())
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
    }

    #[test]
    fn all_by_name_is_the_same_as_all() {
        let all = Selection::new(&[], &[], &[], false).expect("all");
        let ids: Vec<String> = all.scenarios.iter().map(|scenario| scenario.id.to_owned()).collect();
        let protocols: Vec<String> = all.protocols.iter().map(|settings| settings.name.to_owned()).collect();
        let named = Selection::new(&ids, &protocols, &[], false).expect("all");
        assert_eq!(named.cases.len(), all.cases.len());
        assert!(named.cases.iter().any(|case| case.left_out.is_some()));
    }

    #[test]
    fn a_step_is_left_out_of_those_that_have_it() {
        let only = without(&Settings::ALL, "revalidate", false).expect("a step");
        assert!(only.iter().any(|settings| settings.name == "hugewalk"));
        assert!(only.iter().all(|settings| settings.name != "legacy" && !settings.has("revalidate")));
        assert!(without(&[Settings::LEGACY], "revalidate", true).is_err());
    }
}
