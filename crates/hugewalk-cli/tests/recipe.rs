//! The recipe for recording a program: what the help prints is what the documentation prints, and it works.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{json, run};
use hugewalk_cli::trace::calls;
use tempfile::TempDir;

/// The recipe as `hugewalk replay --help` prints it.
fn printed() -> String {
    let help = run(&["replay", "--help"]).text;
    let lines = help.lines().skip_while(|line| !line.starts_with("`hugewalk record")).skip(1);
    let recipe: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    recipe.iter().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect::<Vec<_>>().join("\n")
}

#[test]
fn help_and_documentation_print_the_one_list_of_calls() {
    assert_eq!(printed(), calls::recipe());
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/traces/README.md");
    let document = fs::read_to_string(document).expect("the documentation");
    assert!(document.contains(&calls::recipe()), "print this there:\n{}", calls::recipe());
}

/// Whether a tool runs here, and may do what it has to.
fn works(command: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(command);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[test]
fn the_recipe_works_as_it_is_printed() {
    let directory = TempDir::new().expect("a directory");
    let probe = directory.path().join("probe.perf").display().to_string();
    let may_record =
        works("perf", &["record", "-k", "CLOCK_REALTIME", "-e", "page-faults", "-o", &probe, "--", "true"]);
    if !may_record || !works("strace", &["-o", "/dev/null", "true"]) {
        println!("perf and strace may not record here: the recipe is not tried");
        return;
    }
    // Two processes, one of which the other one forked.
    let script = printed().replace("PROGRAM", "sh -c 'ls / > /dev/null; true'");
    let output = Command::new("sh").arg("-ec").arg(&script).current_dir(&directory).output().expect("it ran");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}\n{error}");
    let file = |name: &str| directory.path().join(name).display().to_string();
    let report =
        json(&run(&["replay", &file("x.strace"), "--faults", &file("x.faults"), "--format", "json"]));
    assert_eq!(report["recording"]["clock"], "real-time");
    assert_eq!(report["recording"]["processes"], 2, "{report:#}");
    assert!(report["recording"]["other_faults"].as_u64().is_some_and(|faults| faults > 50), "{report:#}");
    // The faults are those of the recorded processes, and no others.
    let strace = fs::read_to_string(file("x.strace")).expect("the recording");
    assert!(strace.contains("execve(\"/usr/bin/sh\"") || strace.contains("execve(\"/bin/sh\""), "{strace}");
}
