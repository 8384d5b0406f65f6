//! Random programs on the engine and on the kernel that this runs on, compared exactly: what `hugewalk conform --guest` links
//! statically and boots in the kernel that embeds the engine.
//!
//! Arguments: a seed and a number of programs, or `--replay` and a program. For each program a line on standard output: `equal SEED
//! STEPS`, `known SEED STEPS NAME` or `differs SEED STEPS`, the last followed by lines that begin with a blank. Status 0 if all are
//! equal or known, 1 if one differs, 3 if the run cannot go on.

use std::process::ExitCode;
use std::time::Duration;

use hugewalk_conform::program::Program;
use hugewalk_conform::program::generate::Generator;
use hugewalk_conform::run::{Report, Sides};

/// How long the kernel may take for a step.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The only difference that is meant here. The kernel refuses write(2) to these files, as Linux does; the engine has it for
/// others.
const MEANT: &str = "write";

/// What is to be run, with seeds.
fn programs() -> Result<Vec<(u64, Program)>, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [replay, text] if replay == "--replay" => {
            text.parse().map(|program| vec![(0, program)]).map_err(|error| format!("{error}"))
        }
        [seed, count] => {
            let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
            let (seed, count) = (number(seed)?, number(count)?);
            let seeds = (0..count).map(|index| seed.wrapping_add(index));
            Ok(seeds.map(|seed| (seed, Generator::new(seed).program())).collect())
        }
        _ => Err("give a seed and a number of programs, or --replay and a program".to_owned()),
    }
}

/// Says what became of a program. True if the sides agree.
fn say(seed: u64, program: &Program, report: &Report) -> bool {
    let steps = report.carried_out();
    let meant = report.known.filter(|known| known.name == MEANT);
    match (report.differences.is_empty(), meant) {
        (true, _) => println!("equal {seed} {steps}"),
        (false, Some(known)) => println!("known {seed} {steps} {}", known.name),
        (false, None) => {
            println!("differs {seed} {steps}");
            if let Some((step, ran)) = report.steps.last() {
                println!(" step {}: {step}: {ran:?}", report.steps.len());
            }
            for difference in &report.differences {
                println!(
                    " {}: {} in the guest, {} on the engine",
                    difference.what, difference.kernel, difference.engine
                );
            }
            println!(" program: {program}");
            return false;
        }
    }
    true
}

fn main() -> ExitCode {
    let stop = |why: &dyn std::fmt::Display| {
        println!("stopped {why}");
        ExitCode::from(3)
    };
    let programs = match programs() {
        Ok(programs) => programs,
        Err(why) => return stop(&why),
    };
    let mut sides = match Sides::new(TIMEOUT) {
        Ok(sides) => sides,
        Err(error) => return stop(&error),
    };
    let mut agree = true;
    for (seed, program) in programs {
        match sides.run(&program) {
            Ok(report) => agree &= say(seed, &program, &report),
            Err(error) => return stop(&error),
        }
    }
    if agree { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
