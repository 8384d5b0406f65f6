//! Taking samples in turn.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde::Serialize;

/// How much time to spend.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Samples of each case.
    pub samples: u32,
    /// Seconds for each group, shared by its cases.
    pub seconds: f64,
    /// Moves on with each round of samples.
    pub bar: ProgressBar,
}

/// What came of doing something so many times.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) took: Duration,
    /// If somebody unshared meanwhile: how often, and in which time.
    pub(super) unshared: Option<(u64, Duration)>,
}

impl From<Duration> for Sample {
    fn from(took: Duration) -> Self {
        Self { took, unshared: None }
    }
}

/// What a case is to cost at the most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// So many times what the baseline of its group costs.
    Ratio(f64),
    /// So many nanoseconds.
    Nanoseconds(f64),
}

impl Goal {
    /// Does a case that costs so many nanoseconds, in a group whose baseline costs so many, reach it?
    #[must_use]
    pub fn is_met(self, median: f64, baseline: f64) -> bool {
        match self {
            Self::Ratio(most) => median <= most * baseline,
            Self::Nanoseconds(most) => median <= most,
        }
    }
}

/// One thing to measure.
pub(super) struct Case<'a> {
    /// Its name.
    name: String,
    /// What it is to cost.
    goal: Option<Goal>,
    /// What is reported is a part of an iteration: one of so many.
    parts: u64,
    /// Does it so many times, and says how long that took.
    work: Box<dyn FnMut(u64) -> Sample + 'a>,
}

impl<'a> Case<'a> {
    /// A case that is timed from outside.
    pub(super) fn new(name: &str, mut work: impl FnMut(u64) + 'a) -> Self {
        Self::timed(name, move |iterations| {
            let start = Instant::now();
            work(iterations);
            start.elapsed()
        })
    }

    /// A case that times itself, leaving out what it prepares.
    pub(super) fn timed<S: Into<Sample>>(name: &str, mut work: impl FnMut(u64) -> S + 'a) -> Self {
        let work = Box::new(move |iterations| work(iterations).into());
        Self { name: name.to_owned(), goal: None, parts: 1, work }
    }

    /// The same, of which an iteration does so many operations that one of them is reported.
    pub(super) fn parts(self, parts: u64) -> Self {
        Self { parts, ..self }
    }

    /// The same, which is to cost no more than this.
    pub(super) fn goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }
}

/// What a case cost, per iteration or part of one.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// The median of the samples, in nanoseconds.
    pub median_ns: f64,
    /// The middle half of the samples lies between this
    pub lower_ns: f64,
    /// and this.
    pub upper_ns: f64,
    /// The least.
    pub least_ns: f64,
    /// The greatest.
    pub greatest_ns: f64,
    /// How often somebody gave a table up and took it up again meanwhile, if there was somebody who did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unshares_per_second: Option<f64>,
    /// What it is to cost at the most, if anything was said about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
}

/// Measures the cases in turn: one sample of each, then the next of each.
pub(super) fn measure(effort: &Effort, mut cases: Vec<Case<'_>>) -> Vec<Measured> {
    let each = effort.seconds / f64::from(effort.samples) / cases.len() as f64;
    let iterations: Vec<u64> = cases.iter_mut().map(|case| calibrate(case, each)).collect();
    let mut samples = vec![Vec::new(); cases.len()];
    for _ in 0..effort.samples {
        effort.bar.inc(1);
        for ((case, &iterations), samples) in cases.iter_mut().zip(&iterations).zip(&mut samples) {
            samples.push((iterations, (case.work)(iterations)));
        }
    }
    cases.iter().zip(samples).map(|(case, samples)| summarise(case, &samples)).collect()
}

/// How many iterations take about `seconds`. With what a case prepares and leaves out, they take four times as long at the most.
fn calibrate(case: &mut Case<'_>, seconds: f64) -> u64 {
    let enough = seconds / 4.0;
    let mut iterations = 1;
    loop {
        // Whoever else wants the processor makes a run longer, and none shorter.
        let took = (0..LOOKS).try_fold(f64::INFINITY, |least, _| {
            let began = Instant::now();
            let counted = (case.work)(iterations).took.as_secs_f64();
            let least = counted.max(began.elapsed().as_secs_f64() / 4.0).min(least);
            if least < enough { Err(least) } else { Ok(least) }
        });
        match took {
            Err(_) if iterations < 1 << 30 => iterations *= 2,
            Ok(took) | Err(took) => return ((iterations as f64 * seconds / took.max(1e-9)) as u64).max(1),
        }
    }
}

/// So often a number of iterations has to take long before it is believed that it does.
const LOOKS: u32 = 3;

fn summarise(case: &Case<'_>, samples: &[(u64, Sample)]) -> Measured {
    let each = samples
        .iter()
        .map(|(iterations, sample)| sample.took.as_secs_f64() * 1e9 / (iterations * case.parts) as f64);
    let mut each: Vec<f64> = each.collect();
    each.sort_by(f64::total_cmp);
    let at = |index: usize| each.get(index).copied().unwrap_or(f64::NAN);
    let unshared = samples.iter().filter_map(|(_, sample)| sample.unshared);
    let unshared =
        unshared.reduce(|(times, seconds), (more, longer)| (times + more, seconds.saturating_add(longer)));
    Measured {
        name: case.name.clone(),
        goal: case.goal,
        median_ns: at(each.len() / 2),
        lower_ns: at(each.len() / 4),
        upper_ns: at(each.len() * 3 / 4),
        least_ns: at(0),
        greatest_ns: at(each.len().saturating_sub(1)),
        unshares_per_second: unshared.map(|(times, took)| times as f64 / took.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_samples_of_one_case() {
        let cases = vec![
            Case::timed("one", |iterations| Duration::from_nanos(10 * iterations)),
            Case::timed("other", |iterations| Duration::from_nanos(30 * iterations)),
        ];
        let measured = measure(&Effort { samples: 3, seconds: 1e-6, bar: ProgressBar::hidden() }, cases);
        assert!((measured[0].median_ns - 10.0).abs() < 1e-6);
        assert!((measured[1].median_ns - 30.0).abs() < 1e-6);
    }

    #[test]
    fn a_sample_is_as_long_as_it_was_asked_to_be_whatever_part_of_it_is_reported() {
        let each = |iterations| Duration::from_millis(10 * iterations);
        let mut case = Case::timed("fork, for each of its 1,000 mappings", each).parts(1000);
        assert_eq!(calibrate(&mut case, 0.1), 10);
        let measured = measure(&Effort { samples: 3, seconds: 0.3, bar: ProgressBar::hidden() }, vec![case]);
        assert!((measured[0].median_ns - 10_000.0).abs() < 1e-6);
    }

    #[test]
    fn a_run_that_was_held_up_does_not_make_the_samples_short() {
        let mut runs = 0;
        let mut case = Case::timed("held up at first", |iterations| {
            runs += 1;
            Duration::from_nanos(10 * iterations) + Duration::from_millis(if runs <= 2 { 10 } else { 0 })
        });
        let iterations = calibrate(&mut case, 0.01);
        assert!(iterations > 900_000, "{iterations}");
    }

    #[test]
    fn what_a_case_leaves_out_does_not_make_its_samples_longer_than_four_times_as_long() {
        let mut case = Case::timed("counts a thousandth", |iterations| {
            std::thread::sleep(Duration::from_millis(iterations));
            Duration::from_micros(iterations)
        });
        assert!(calibrate(&mut case, 0.01) <= 40);
    }

    #[test]
    fn unsharing_is_counted_over_all_samples_of_a_case() {
        let sample = |times| Sample {
            took: Duration::from_millis(1),
            unshared: Some((times, Duration::from_millis(10))),
        };
        let case = |name| Case::new(name, |_| {});
        let measured = summarise(&case("one"), &[(1, sample(10)), (1, sample(30))]);
        assert!(measured.unshares_per_second.is_some_and(|rate| (rate - 2000.0).abs() < 1e-6));
        let undisturbed = summarise(&case("other"), &[(1, Duration::from_millis(1).into())]);
        assert_eq!(undisturbed.unshares_per_second, None);
    }

    #[test]
    fn a_goal_is_a_time_or_a_part_of_the_baseline() {
        assert!(Goal::Ratio(1.3).is_met(13.0, 10.0) && !Goal::Ratio(1.3).is_met(13.1, 10.0));
        assert!(Goal::Nanoseconds(100.0).is_met(99.0, 1.0) && !Goal::Nanoseconds(100.0).is_met(101.0, 1e9));
        let case = Case::timed("one", Duration::from_nanos).goal(Goal::Ratio(1.3));
        assert_eq!(summarise(&case, &[(1, Duration::from_nanos(1).into())]).goal, Some(Goal::Ratio(1.3)));
    }
}
