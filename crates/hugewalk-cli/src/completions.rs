//! `hugewalk completions`: what shells need to complete the command.

use std::io::Write;

use clap::builder::PossibleValuesParser;
use clap::{Args, Command, CommandFactory};
use clap_complete::{Shell, generate};
use hugewalk_lab::lab::Settings;
use hugewalk_lab::scenario;

use crate::args::Cli;

/// What stands behind the options in the help.
const COMPLETING: &str = "\
Examples:
  hugewalk completions bash > /usr/share/bash-completion/completions/hugewalk
  hugewalk completions zsh > /usr/share/zsh/site-functions/_hugewalk
  hugewalk completions fish > /usr/share/fish/vendor_completions.d/hugewalk.fish";

/// `hugewalk completions`
#[derive(Debug, Args)]
#[command(after_help = COMPLETING)]
pub struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum, ignore_case = true)]
    pub shell: Shell,
}

/// The script for a shell.
#[must_use]
pub fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    let mut command = command();
    generate(shell, &mut command, "hugewalk", &mut script);
    if shell == Shell::Fish {
        for (name, values) in positional(&command) {
            // A vector takes all that is written to it.
            let _ = writeln!(
                script,
                "complete -c hugewalk -n \"__fish_hugewalk_using_subcommand {name}\" -f -a \"{values}\""
            );
        }
    }
    script
}

/// What the generator for fish leaves out: the names that arguments without an option can have, by command.
fn positional(command: &Command) -> Vec<(&str, String)> {
    let mut all = Vec::new();
    for below in command.get_subcommands() {
        let names = below.get_positionals().flat_map(|arg| arg.get_possible_values());
        let names: Vec<String> = names.map(|value| value.get_name().to_owned()).collect();
        if !names.is_empty() {
            all.push((below.get_name(), names.join(" ")));
        }
    }
    all
}

/// The command with all names that its arguments can have. When it runs, other names can be given too: globs, and protocols of
/// one's own.
fn command() -> Command {
    let scenarios = || scenario::all().map(|scenario| scenario.id);
    let protocols = || Settings::ALL.iter().map(|settings| settings.name);
    let steps = || Settings::steps();
    let check = |check: Command| {
        check
            .mut_arg("scenarios", |arg| arg.value_parser(PossibleValuesParser::new(scenarios())))
            .mut_arg("protocol", |arg| arg.value_parser(PossibleValuesParser::new(protocols())))
            .mut_arg("without", |arg| arg.value_parser(PossibleValuesParser::new(steps())))
            .mut_arg("with", |arg| arg.value_parser(PossibleValuesParser::new(steps())))
    };
    let explained = || scenarios().chain(protocols()).chain(steps());
    let explain = |explain: Command| {
        explain.mut_arg("names", |arg| arg.value_parser(PossibleValuesParser::new(explained())))
    };
    Cli::command().mut_subcommand("check", check).mut_subcommand("explain", explain)
}
