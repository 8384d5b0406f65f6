//! Takes samples of several programs in turn, and prints what each costs in proportion to the first.
//!
//! Time is processor time of the thread that works, so that other work on the machine counts only by what it does to caches. All
//! cases of a [`Group`] take turns, sample by sample: a machine whose speed drifts slows all of them alike.

use std::fmt::{self, Write as _};
use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Barrier;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How much to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Effort {
    /// Samples of each case.
    pub samples: usize,
    /// How long one sample takes, about.
    pub sample: Duration,
    /// Only groups whose titles hold one of these words; all if there are none.
    pub only: Vec<String>,
}

/// Why the command line was refused.
#[derive(Debug, PartialEq)]
pub struct Unknown(String);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no option {}; there are --samples=N, --quick, and words of titles", self.0)
    }
}

impl std::error::Error for Unknown {}

impl Effort {
    /// Reads the command line: `--samples=N`, `--quick`, and words of titles.
    ///
    /// # Errors
    ///
    /// Any other option.
    pub fn new(args: impl Iterator<Item = String>) -> Result<Self, Unknown> {
        let mut effort = Self { samples: 21, sample: Duration::from_millis(4), only: Vec::new() };
        for arg in args {
            match arg.strip_prefix("--") {
                // What `cargo bench` adds.
                Some("bench") => {}
                Some("quick") => (effort.samples, effort.sample) = (3, Duration::from_micros(20)),
                Some(option) => {
                    let number = option.strip_prefix("samples=").and_then(|number| number.parse().ok());
                    effort.samples = number.filter(|&number| number > 0).ok_or(Unknown(arg))?;
                }
                None => effort.only.push(arg),
            }
        }
        Ok(effort)
    }

    /// Is the group of this title wanted?
    #[must_use]
    pub fn wants(&self, title: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| title.contains(word))
    }
}

/// One program, which does its work so many times and returns how long that took.
pub struct Case<'c> {
    name: &'static str,
    work: Box<dyn FnMut(u64) -> Duration + 'c>,
}

impl<'c> Case<'c> {
    /// A case that times itself.
    pub fn new(name: &'static str, work: impl FnMut(u64) -> Duration + 'c) -> Self {
        Self { name, work: Box::new(work) }
    }
}

/// Programs that can be compared with each other.
pub struct Group<'c> {
    /// What they do.
    pub title: String,
    /// Into how many parts an iteration is shared out: pages, for one that maps so many.
    pub parts: u64,
    /// The first is what ratios refer to.
    pub cases: Vec<Case<'c>>,
}

/// What a case cost, in nanoseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Its name.
    pub name: &'static str,
    /// The median of the samples.
    pub median: f64,
    /// Half of the samples lie between these.
    pub middle: (f64, f64),
    /// The least.
    pub least: f64,
}

impl Group<'_> {
    /// Measures the cases in turn.
    pub fn measure(&mut self, effort: &Effort) -> Vec<Measured> {
        let iterations: Vec<u64> = self.cases.iter_mut().map(|case| calibrate(case, effort.sample)).collect();
        let mut samples = vec![Vec::new(); self.cases.len()];
        for _ in 0..effort.samples {
            for ((case, &iterations), samples) in self.cases.iter_mut().zip(&iterations).zip(&mut samples) {
                let took = (case.work)(iterations).as_secs_f64() * 1e9;
                samples.push(took / iterations as f64 / self.parts as f64);
            }
        }
        self.cases.iter().zip(samples).map(|(case, samples)| summary(case.name, samples)).collect()
    }

    /// Measures the cases, if the title is wanted, and prints them.
    ///
    /// # Errors
    ///
    /// What could not be printed.
    pub fn report(mut self, effort: &Effort, out: &mut dyn Write) -> io::Result<()> {
        if !effort.wants(&self.title) {
            return Ok(());
        }
        let measured = self.measure(effort);
        write!(out, "\n{}", table(&self.title, &measured))
    }
}

/// How many iterations take about so long.
fn calibrate(case: &mut Case<'_>, sample: Duration) -> u64 {
    let mut iterations = 1;
    loop {
        let took = (case.work)(iterations).as_secs_f64();
        if took >= sample.as_secs_f64() / 4.0 || iterations >= 1 << 28 {
            return ((iterations as f64 * sample.as_secs_f64() / took.max(1e-9)) as u64).max(1);
        }
        iterations *= 2;
    }
}

fn summary(name: &'static str, mut samples: Vec<f64>) -> Measured {
    samples.sort_by(f64::total_cmp);
    let at = |index: usize| samples.get(index).copied().unwrap_or(f64::NAN);
    let last = samples.len();
    Measured { name, median: at(last / 2), middle: (at(last / 4), at(last * 3 / 4)), least: at(0) }
}

/// The cases of a group, a line each, with the ratio to the first.
#[must_use]
pub fn table(title: &str, measured: &[Measured]) -> String {
    let base = measured.first().map_or(f64::NAN, |first| first.median);
    let mut text =
        format!("{title}\n{:54} {:>11} {:>7} {:>11} {:>8}\n", "", "median", "spread", "least", "of first");
    for case in measured {
        let spread = (case.middle.1 - case.middle.0) / 2.0 / case.median * 100.0;
        let _ = writeln!(
            text,
            "  {:52} {:>8.2} ns {:>5} % {:>8.2} ns {:>8.2}",
            case.name,
            case.median,
            format!("±{spread:.0}"),
            case.least,
            case.median / base,
        );
    }
    text
}

/// Says on what was measured: a line.
#[must_use]
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let name = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = read("/proc/loadavg");
    format!(
        "{} processors, {}; Linux {}; load {} before",
        std::thread::available_parallelism().map_or(1, usize::from),
        name.map_or("unknown", |(_, name)| name.trim()),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split(' ').next().unwrap_or("unknown"),
    )
}

/// The processor time that this thread has used.
#[must_use]
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs().try_into().unwrap_or(0))
}

/// How long `work` keeps this thread's processor.
pub fn timed(work: impl FnOnce()) -> Duration {
    let began = processor_time();
    work();
    processor_time().saturating_sub(began)
}

/// Calls `each` so many times, and uses what it returns.
pub fn repeat(count: u64, mut each: impl FnMut() -> u64) -> Duration {
    timed(|| {
        let mut sum = 0_u64;
        for _ in 0..count {
            sum = sum.wrapping_add(each());
        }
        black_box(sum);
    })
}

/// Runs `work` on so many new threads at once, which are told their numbers; the time of the slowest.
///
/// # Panics
///
/// If `work` does.
pub fn together(threads: usize, work: impl Fn(usize) -> Duration + Sync) -> Duration {
    let start = Barrier::new(threads);
    let one = |thread| {
        start.wait();
        work(thread)
    };
    let one = &one;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).max().unwrap_or_default()
    })
}

/// The end of a title that says how many threads are at work.
#[must_use]
pub fn threads(count: usize) -> &'static str {
    if count == 1 { "1 thread" } else { "2 threads at once" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effort(args: &[&str]) -> Result<Effort, Unknown> {
        Effort::new(args.iter().map(|&arg| arg.to_owned()))
    }

    #[test]
    fn the_median_is_of_the_samples_of_one_case_and_of_one_part() {
        let cases = vec![
            Case::new("one", |n| Duration::from_nanos(100 * n)),
            Case::new("other", |n| Duration::from_nanos(300 * n)),
        ];
        let mut group = Group { title: "two".into(), parts: 10, cases };
        let measured = group.measure(&effort(&["--quick"]).unwrap());
        assert!((measured[0].median - 10.0).abs() < 1e-6, "{measured:?}");
        let lines = table("two", &measured);
        assert!(lines.lines().nth(3).is_some_and(|line| line.ends_with("    3.00")), "{lines}");
    }

    #[test]
    fn the_command_line_is_understood_or_refused() {
        let read = effort(&["--bench", "--samples=7", "walk", "lock"]).unwrap();
        assert_eq!(read.samples, 7);
        assert!(read.wants("a walk of 16 GiB") && !read.wants("map and unmap"));
        assert!(effort(&[]).unwrap().wants("anything"));
        for wrong in ["--sample=3", "--samples=0", "--samples=x"] {
            assert_eq!(effort(&[wrong]), Err(Unknown(wrong.to_owned())));
        }
    }

    #[test]
    fn the_slowest_thread_counts() {
        assert_eq!(together(3, |thread| Duration::from_secs(thread as u64)), Duration::from_secs(2));
    }
}
