//! Programs as text: steps separated by semicolons, words separated by blanks.
//!
//! ```text
//! pool 8; open f0 memory; truncate f0 4p; p0 map f0+0 at=1g length=4p rights=rw shared fixed; p0 store 1g+2p 7
//! ```

mod read;
mod write;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use self::read::parse_step;
use super::{Advice, Bytes, GIB, MapFlags, PAGE, Program, Rights};

/// What is wrong with the text of a program.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("step {step}: {what}")]
pub struct SyntaxError {
    /// The number of the step, from 1 on.
    pub step: usize,
    /// What is wrong with it.
    pub what: String,
}

impl FromStr for Program {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Self, SyntaxError> {
        let steps = text.split(';').enumerate().filter(|(_, step)| !step.trim().is_empty());
        let parsed = steps
            .map(|(number, step)| parse_step(step).map_err(|what| SyntaxError { step: number + 1, what }));
        Ok(Self { steps: parsed.collect::<Result<_, _>>()? })
    }
}

const ADVICE: [(&str, Advice); 17] = [
    ("dontneed", Advice::DontNeed),
    ("remove", Advice::Remove),
    ("populate-read", Advice::PopulateRead),
    ("populate-write", Advice::PopulateWrite),
    ("dontdump", Advice::DontDump),
    ("dodump", Advice::DoDump),
    ("dontfork", Advice::DontFork),
    ("dofork", Advice::DoFork),
    ("normal", Advice::Normal),
    ("random", Advice::Random),
    ("sequential", Advice::Sequential),
    ("willneed", Advice::WillNeed),
    ("cold", Advice::Cold),
    ("pageout", Advice::PageOut),
    ("free", Advice::Free),
    ("wipeonfork", Advice::WipeOnFork),
    ("keeponfork", Advice::KeepOnFork),
];

const MAP_FLAGS: [(&str, MapFlags); 6] = [
    ("shared", MapFlags::SHARED),
    ("fixed", MapFlags::FIXED),
    ("noreplace", MapFlags::NO_REPLACE),
    ("noreserve", MapFlags::NO_RESERVE),
    ("populate", MapFlags::POPULATE),
    ("locked", MapFlags::LOCKED),
];

const RIGHTS: [(char, Rights); 3] = [('r', Rights::READ), ('w', Rights::WRITE), ('x', Rights::EXECUTE)];

impl FromStr for Bytes {
    type Err = String;

    /// A sum of GiB, huge pages and bytes: `1g+3p+4096`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: a number of bytes is expected, such as 1g+3p+4096");
        let term = |term: &str| {
            let (digits, unit) = match term.strip_suffix('g') {
                Some(digits) => (digits, GIB),
                None => term.strip_suffix('p').map_or((term, 1), |digits| (digits, PAGE)),
            };
            digits.parse::<u64>().ok()?.checked_mul(unit)
        };
        let add = |sum: u64, text| sum.checked_add(term(text)?);
        text.split('+').try_fold(0, add).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [(self.0 / GIB, "g"), (self.0 % GIB / PAGE, "p"), (self.0 % PAGE, "")];
        let mut plus = "";
        for (number, unit) in parts.into_iter().filter(|(number, _)| *number > 0) {
            write!(f, "{plus}{number}{unit}")?;
            plus = "+";
        }
        if plus.is_empty() { f.write_str("0") } else { Ok(()) }
    }
}

impl FromStr for Rights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::empty());
        }
        let right = |letter| RIGHTS.into_iter().find(|(name, _)| *name == letter).map(|(_, right)| right);
        text.chars()
            .map(right)
            .collect::<Option<Self>>()
            .ok_or_else(|| format!("{text}: rights are letters of rwx, or `none`"))
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("none");
        }
        RIGHTS.iter().filter(|(_, right)| self.contains(*right)).try_for_each(|(name, _)| write!(f, "{name}"))
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ADVICE.iter().find(|(_, advice)| advice == self).map_or("", |(name, _)| name);
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::generate::Generator;

    #[test]
    fn what_is_printed_is_read_again() {
        for seed in 0..300 {
            let program = Generator::new(seed).program();
            assert_eq!(program.to_string().parse(), Ok(program));
        }
    }

    #[test]
    fn a_mistake_is_named_with_its_step() {
        let wrong = |text: &str| text.parse::<Program>().unwrap_err().to_string();
        assert_eq!(wrong("pool 3; open f7 memory"), "step 2: f7: one of f0 to f2 is expected");
        assert_eq!(wrong("p0 protect 1g 2p rq"), "step 1: rq: rights are letters of rwx, or `none`");
        assert_eq!(wrong("pool 3 4"), "step 1: 4: nothing more is expected here");
    }
}
