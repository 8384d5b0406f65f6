//! Every scenario under every protocol: `cargo run --release -p hugewalk-lab --example matrix [SCENARIO [PROTOCOL]]`.

use hugewalk_lab::explore::Options;
use hugewalk_lab::lab::Settings;
use hugewalk_lab::{check, scenario};

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted =
        |at: usize, name: &str| wanted.get(at).is_none_or(|wanted| wanted == name || wanted == "all");
    let options = Options { time: std::time::Duration::from_secs(10), ..Options::default() };
    for scenario in scenario::all().filter(|scenario| is_wanted(0, scenario.id)) {
        for settings in Settings::ALL.into_iter().filter(|settings| is_wanted(1, settings.name)) {
            let settings = match wanted.get(2) {
                Some(step) => settings.without(step).expect("a step"),
                None => settings,
            };
            println!("{}", check(scenario, settings, &options));
        }
    }
}
