//! What every command has: completions, manual pages, colour, quiet, and words for what is wrong.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use clap::CommandFactory;
use hugewalk_cli::args::Cli;
use tempfile::TempDir;

struct Ran {
    code: Option<i32>,
    text: String,
    error: String,
}

fn hugewalk(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hugewalk"));
    command.args(arguments).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").stdin(Stdio::null());
    let output = command.output().expect("it ran");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran { code: output.status.code(), text: text(output.stdout), error: text(output.stderr) }
}

/// The names of all commands, as they are typed: `check merge`.
fn commands() -> Vec<String> {
    fn add(command: &clap::Command, before: &str, all: &mut Vec<String>) {
        for below in command.get_subcommands() {
            let name = format!("{before}{}", below.get_name());
            add(below, &format!("{name} "), all);
            all.push(name);
        }
    }
    let mut all = Vec::new();
    add(&Cli::command(), "", &mut all);
    assert!(all.contains(&"check merge".to_owned()) && all.contains(&"replay".to_owned()));
    all
}

#[test]
fn every_command_has_a_manual_page() {
    let directory = TempDir::new().expect("a directory");
    let written = hugewalk(&["man", "--to", directory.path().to_str().expect("a name")]);
    assert_eq!((written.code, &*written.text, &*written.error), (Some(0), "", ""));
    for command in commands() {
        let words: Vec<&str> = std::iter::once("man").chain(command.split(' ')).collect();
        let shown = hugewalk(&words);
        assert_eq!(shown.code, Some(0), "{command}: {}", shown.error);
        assert!(shown.text.contains(".SH SYNOPSIS"), "{command}");
        let file = directory.path().join(format!("hugewalk-{}.1", command.replace(' ', "-")));
        assert_eq!(fs::read_to_string(file).expect("a page"), shown.text, "{command}");
    }
    let own = hugewalk(&["man"]);
    assert!(own.text.contains("hugewalk\\-check(1)"), "the page of hugewalk names those of its commands");
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), commands().len() + 1);
    let wrong = hugewalk(&["man", "chekc"]);
    assert_eq!(
        (wrong.code, &*wrong.error),
        (Some(2), "hugewalk: hugewalk has no command `chekc`, did you mean check?\n")
    );
    let nowhere = hugewalk(&["man", "--to", "/no/such/place"]);
    assert_eq!(nowhere.code, Some(2));
    assert!(
        nowhere.error.starts_with("hugewalk: /no/such/place/hugewalk.1: cannot be written: No such file")
    );
}

#[test]
fn shells_complete_commands_options_and_names() {
    for shell in ["bash", "zsh", "fish"] {
        let script = hugewalk(&["completions", shell]);
        assert_eq!((script.code, &*script.error), (Some(0), ""));
        let names = [
            "check",
            "replay",
            "--color",
            "--pct",
            "S9/gup-fast",
            "S10:no-broadcast",
            "vma-lock",
            "revalidate",
        ];
        for name in names {
            let as_written = match shell {
                "zsh" => name.replace(':', "\\:"),
                "fish" => name.replace("--", "-l "),
                _ => name.to_owned(),
            };
            assert!(script.text.contains(&as_written), "{shell} knows no {name}");
        }
        // Read by the shell itself, where it is installed.
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("script");
        fs::write(&file, &script.text).expect("written");
        match Command::new(shell).arg("-n").arg(&file).output() {
            Ok(read) => assert!(read.status.success(), "{shell}: {}", String::from_utf8_lossy(&read.stderr)),
            Err(_) => eprintln!("skipped: {shell} is not installed"),
        }
    }
}

/// What bash offers after these words.
fn offered(words: &[&str]) -> Option<Vec<String>> {
    let script = hugewalk(&["completions", "bash"]).text;
    let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let ask = format!(
        "{script}\nCOMP_WORDS=({}); COMP_CWORD={}; _hugewalk hugewalk \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        quoted.join(" "),
        words.len() - 1
    );
    let output = Command::new("bash").args(["-c", &ask]).output().ok()?;
    Some(String::from_utf8(output.stdout).expect("text").lines().map(ToOwned::to_owned).collect())
}

#[test]
fn bash_offers_scenarios_and_protocols() {
    let Some(scenarios) = offered(&["hugewalk", "check", "S9"]) else {
        return eprintln!("skipped: bash is not installed");
    };
    assert!(scenarios.contains(&"S9/gup-fast".to_owned()), "{scenarios:?}");
    assert!(scenarios.iter().all(|name| name.starts_with("S9")), "{scenarios:?}");
    let protocols = offered(&["hugewalk", "check", "--protocol", "rfc"]).expect("bash");
    assert!(protocols.contains(&"rfc-ptl".to_owned()), "{protocols:?}");
}

#[test]
fn colour_is_printed_where_it_is_asked_for() {
    let coloured = |arguments: &[&str]| hugewalk(arguments).text.contains('\u{1b}');
    let check = ["check", "--list", "S9"];
    assert!(!coloured(&check), "this is no terminal");
    assert!(coloured(&[&check[..], &["--color", "always"]].concat()));
    assert!(coloured(&[&["--color=ALWAYS"], &check[..]].concat()));
    assert!(!coloured(&[&check[..], &["--color=never"]].concat()));
    assert!(coloured(&["check", "--help", "--color", "always"]), "help, too");
    assert!(
        hugewalk(&["check", "--wrong", "--color", "always"])
            .error
            .starts_with("hugewalk: unexpected argument")
    );
}

#[test]
fn quiet_leaves_errors() {
    let wrong = hugewalk(&["--quiet", "check", "S99"]);
    assert!(wrong.error.starts_with("hugewalk: no scenario is called `S99`"), "{}", wrong.error);
    let right = hugewalk(&["check", "-q", "S9", "--protocol", "legacy"]);
    assert_eq!((right.code, &*right.error), (Some(0), ""));
    assert!(right.text.contains("S9 under legacy"));
}

/// Notes are what is left out: a stripped copy says that it has no line tables, unless it is told to be quiet.
#[test]
fn quiet_leaves_notes_out() {
    let directory = TempDir::new().expect("a directory");
    let copy = directory.path().join("hugewalk");
    let stripped = Command::new("strip")
        .args(["--strip-debug", "-o"])
        .arg(&copy)
        .arg(env!("CARGO_BIN_EXE_hugewalk"))
        .status();
    if !stripped.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: strip is not installed");
    }
    let error = |arguments: &[&str]| Command::new(&copy).args(arguments).output().expect("it ran").stderr;
    assert!(!error(&["check", "S9", "--protocol", "legacy"]).is_empty());
    assert!(error(&["check", "S9", "--protocol", "legacy", "-q"]).is_empty());
}

#[test]
fn a_full_disk_is_an_error_of_help_too() {
    let full = File::options().write(true).open("/dev/full").expect("a device");
    let output =
        Command::new(env!("CARGO_BIN_EXE_hugewalk")).arg("--help").stdout(full).output().expect("it ran");
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stderr.starts_with(b"hugewalk: the help cannot be written: No space left"));
}

#[test]
fn a_page_goes_to_standard_output_and_through_links() {
    let directory = TempDir::new().expect("a directory");
    let page = hugewalk(&["check", "S9", "--protocol", "legacy", "--html", "-"]);
    assert_eq!((page.code, &*page.error), (Some(0), ""));
    assert!(
        page.text.starts_with("<!doctype html>") || page.text.starts_with("<!DOCTYPE html>"),
        "{}",
        &page.text[..80]
    );
    assert!(!fs::exists("-").expect("a directory"));
    let [file, link] = ["page.html", "link.html"].map(|name| directory.path().join(name));
    symlink("page.html", &link).expect("a link");
    let name = link.to_str().expect("a name");
    assert_eq!(hugewalk(&["check", "S9", "--protocol", "legacy", "--html", name]).code, Some(0));
    assert!(file.is_file() && fs::symlink_metadata(&link).expect("a link").is_symlink());
}

#[test]
fn values_are_read_in_capital_letters_too() {
    let json = hugewalk(&["check", "s9", "--protocol", "Legacy", "--format", "JSON"]);
    assert!(json.text.starts_with('{'), "{}", json.error);
}

#[test]
fn patterns_of_scenarios_are_taken_as_a_shell_would() {
    let listed = |pattern: &str| hugewalk(&["check", "--list", pattern]).text.matches("/gup-fast ").count();
    assert!(listed("*/gup-fast") > 1);
    assert_eq!(listed("S9/gup-f?st"), 1);
}
