//! Every scenario under every protocol, and the shortest race of one:
//! `cargo run --release -p hugewalk-lab --example matrix [SCENARIO|all [PROTOCOL|all [STEP TO LEAVE OUT]]]`. A name that ends
//! in `*` stands for all that begin so.

use hugewalk_lab::explore::{Options, catch_crashes};
use hugewalk_lab::lab::Settings;
use hugewalk_lab::{check, replay, scenario, text};

// SAFETY: the scenarios keep to themselves.
#[global_allocator]
static ALLOCATOR: hugewalk_lab::Allocator = unsafe { hugewalk_lab::Allocator::new() };

/// Is it this one, or does it begin like this: `S4*`?
fn fits(wanted: &str, name: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => wanted == "all" || wanted == name,
    }
}

fn main() {
    catch_crashes();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |at: usize, name: &str| wanted.get(at).is_none_or(|wanted| fits(wanted, name));
    let draws = wanted.len() > 1 && wanted.iter().take(2).all(|name| name != "all" && !name.ends_with('*'));
    for scenario in scenario::all().filter(|scenario| is_wanted(0, scenario.id)) {
        for settings in Settings::ALL.into_iter().filter(|settings| is_wanted(1, settings.name)) {
            let settings = match wanted.get(2) {
                Some(step) => settings.without(step).expect("a step of the protocol"),
                None => settings,
            };
            let verdict = check(scenario, settings, &Options::default());
            println!("{verdict}");
            if let Some(found) = verdict.report.counterexample.filter(|_| draws) {
                let run = replay(scenario, settings, &found.schedule).expect("its own schedule");
                print!("\n{}\n{}", scenario.what, text::draw(&run, &Default::default()));
            }
        }
    }
}
