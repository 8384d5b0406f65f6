//! What is wrong with a command line, in plain words.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// What is wrong with a command line, and what would be right, in one line and without the usage.
#[must_use]
pub fn in_one_line(error: &clap::Error, words: impl Iterator<Item = OsString>) -> String {
    if error.kind() == ErrorKind::InvalidUtf8
        && let Some((number, word)) = words.enumerate().find(|(_, word)| word.to_str().is_none())
    {
        return format!(
            "argument {number} (`{}`) is no text in UTF-8; name it otherwise",
            word.to_string_lossy()
        );
    }
    // A value that begins as a number below 0 is no name of a file: it belongs to the option before it.
    let unexpected = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) if error.kind() == ErrorKind::UnknownArgument => is_below_zero(word),
        _ => false,
    };
    let text = error.to_string();
    let ends = |line: &&str| line.starts_with("Usage:") || line.starts_with("For more");
    let said = text.lines().map(str::trim).take_while(|line| !ends(line)).filter(|line| !line.is_empty());
    let said = said.filter(|line| !(unexpected && line.starts_with("tip: ")));
    let without_label = said.map(|line| {
        let line = line.strip_prefix("error: ").unwrap_or(line);
        line.strip_prefix("tip: ").unwrap_or(line)
    });
    plain(&without_label.collect::<Vec<_>>().join("; ").replace(":; ", ": "))
}

/// Does it begin as a number below 0?
fn is_below_zero(word: &str) -> bool {
    word.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
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
    let is_below = line.strip_prefix("invalid value '").is_some_and(is_below_zero);
    for (said, meant) in [
        (
            "invalid digit found in string",
            if is_below { "it cannot be below 0" } else { "a whole number is wanted" },
        ),
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
    let (before, given) = before.rsplit_once(": ")?;
    let (least, most) = range.split_once("..")?;
    let largest = most.strip_prefix('=').unwrap_or(most);
    // What no type goes beyond is no bound that anybody has set.
    let unbounded = largest.parse::<u64>().is_ok_and(|largest| largest >= u64::from(u32::MAX));
    if unbounded && given.parse::<i128>().ok() > largest.parse().ok() {
        return Some(format!("{before}: the number is too large"));
    }
    let wanted = match (least, unbounded) {
        ("", _) => format!("{largest} at most"),
        (least, true) => format!("{least} at least"),
        (least, false) => format!("{least} to {largest}"),
    };
    Some(format!("{before}: give {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;

    fn said(line: &str) -> String {
        let words = || line.split(' ').map(OsString::from);
        in_one_line(&Cli::read(words()).expect_err("wrong"), words())
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
        // Whatever option it is, and whatever is said of files that begin with a dash.
        let below = [
            ("bench walk --samples -1", "'--samples <N>': give 1 at least"),
            ("run --cpus -1 x", "'--cpus <N>': give 1 to 255"),
            ("estimate --shared 1G --processes -1", "'--processes <N>': it cannot be below 0"),
            ("check --seed -1 --random 5", "'--seed <N>': it cannot be below 0"),
            ("replay x --until -1", "'--until <TIME>': give seconds, as in 1795335398.67 or +12.5"),
            ("record --truth-at -1 -- x", "'--truth-at <SECONDS>': a number of seconds above 0 is wanted"),
            (
                "compare a b --tolerance -1",
                "'--tolerance <PERCENT>': a number of per cent from 0 on is wanted",
            ),
        ];
        for (line, wanted) in below {
            assert_eq!(said(&format!("hugewalk {line}")), format!("invalid value '-1' for {wanted}"));
        }
        assert_eq!(said("hugewalk check --shard -1/4"), "unexpected argument '-1' found");
        assert_eq!(
            said("hugewalk replay x --cpus 4294967296"),
            "invalid value '4294967296' for '--cpus <N>': the number is too large"
        );
        assert_eq!(said("hugewalk check --seed 3 S1"), "--seed goes with --random N or --pct N");
        assert_eq!(said("hugewalk check merge"), "this is missing: <FILE>...");
        assert_eq!(
            said("hugewalk check --format yaml"),
            "invalid value 'yaml' for '--format <FORMAT>'; there are text, json, md, svg"
        );
    }
    #[test]
    fn an_argument_that_is_no_text_is_named() {
        use std::os::unix::ffi::OsStringExt;
        let words = || {
            ["hugewalk", "explain", "S1"]
                .map(OsString::from)
                .into_iter()
                .chain([OsString::from_vec(vec![b'S', 0xff])])
        };
        let said = in_one_line(&Cli::read(words()).expect_err("wrong"), words());
        assert_eq!(said, "argument 3 (`S\u{fffd}`) is no text in UTF-8; name it otherwise");
    }
}
