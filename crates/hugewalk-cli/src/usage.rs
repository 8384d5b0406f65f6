//! What is wrong with a command line, in plain words.

/// What is wrong with a command line, and what would be right, in one line and without the usage.
#[must_use]
pub fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let ends = |line: &&str| line.starts_with("Usage:") || line.starts_with("For more");
    let said = text.lines().map(str::trim).take_while(|line| !ends(line)).filter(|line| !line.is_empty());
    let without_label = said.map(|line| {
        let line = line.strip_prefix("error: ").unwrap_or(line);
        line.strip_prefix("tip: ").unwrap_or(line)
    });
    plain(&without_label.collect::<Vec<_>>().join("; ").replace(":; ", ": "))
}

/// What the parser says of numbers and missing options, as a person would.
fn plain(line: &str) -> String {
    // Both ways to leave it to chance belong to one group, which the parser prints as a whole.
    if line.contains("<--random <N>|--pct <N>>") {
        return "--seed goes with --random N or --pct N".to_owned();
    }
    let line = line.replace("the following required arguments were not provided:", "this is missing:");
    let line = line.replace("; [possible values: ", "; there are ");
    let line = if line.contains("; there are ") { line.replacen(']', "", 1) } else { line };
    for (said, meant) in [
        ("invalid digit found in string", "a whole number is wanted"),
        ("cannot parse integer from empty string", "a whole number is wanted"),
        ("number too large to fit in target type", "the number is too large"),
        ("invalid float literal", "a number is wanted"),
    ] {
        if line.ends_with(said) {
            return line.replace(said, meant);
        }
    }
    out_of_range(&line).unwrap_or(line)
}

/// `...: 0 is not in 1..=1024` with the range in words.
fn out_of_range(line: &str) -> Option<String> {
    let (before, range) = line.rsplit_once(" is not in ")?;
    let (before, _) = before.rsplit_once(": ")?;
    let (least, most) = range.split_once("..")?;
    let largest = most.strip_prefix('=').unwrap_or(most);
    // What no type goes beyond is no bound that anybody has set.
    let unbounded = largest.parse::<u64>().is_ok_and(|largest| largest >= u64::from(u32::MAX));
    let wanted = match (least, unbounded) {
        ("", _) => format!("{largest} at most"),
        (least, true) => format!("{least} at least"),
        (least, false) => format!("{least} to {largest}"),
    };
    Some(format!("{before}: give {wanted}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    fn said(line: &str) -> String {
        in_one_line(&Cli::try_parse_from(line.split(' ')).expect_err("wrong"))
    }

    #[test]
    fn what_is_wrong_with_a_command_line_is_said_in_one_line() {
        assert_eq!(
            said("hugewalk check --protocl rfc"),
            "unexpected argument '--protocl' found; a similar argument exists: '--protocol'"
        );
        assert_eq!(
            said("hugewalk chek"),
            "unrecognized subcommand 'chek'; a similar subcommand exists: 'check'"
        );
    }

    #[test]
    fn numbers_are_asked_for_in_words() {
        assert_eq!(said("hugewalk check --jobs 0"), "invalid value '0' for '--jobs <N>': give 1 to 1024");
        assert_eq!(
            said("hugewalk check --executions 0"),
            "invalid value '0' for '--executions <N>': give 1 at least"
        );
        assert_eq!(
            said("hugewalk check --preemptions -1"),
            "invalid value '-1' for '--preemptions <N>': give 0 to 1000"
        );
        assert_eq!(
            said("hugewalk bench walk --samples 0"),
            "invalid value '0' for '--samples <N>': give 1 at least"
        );
        assert_eq!(
            said("hugewalk check --preemptions x"),
            "invalid value 'x' for '--preemptions <N>': a whole number is wanted"
        );
        assert_eq!(said("hugewalk check --seed 3 S1"), "--seed goes with --random N or --pct N");
        assert_eq!(said("hugewalk check merge"), "this is missing: <FILE>...");
        assert_eq!(
            said("hugewalk check --format yaml"),
            "invalid value 'yaml' for '--format <FORMAT>'; there are text, json, md, svg"
        );
    }
}
