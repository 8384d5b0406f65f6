//! Programs as text: steps separated by semicolons, words separated by blanks.
//!
//! ```text
//! pool 8; open f0 memory; truncate f0 4p; p0 map f0+0 at=1g length=4p rights=rw shared fixed; p0 store 1g+2p 7
//! ```

mod forms;
mod read;
mod values;
mod words;
mod write;

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use winnow::combinator::separated;
use winnow::error::ContextError;
use winnow::prelude::*;
use winnow::token::take_till;

pub use self::forms::{FORMS, Form};
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
        let step = take_till::<_, _, ContextError>(0.., ';');
        let steps: Vec<&str> = separated(1.., step, ';').parse(text).unwrap_or_default();
        let steps = steps.into_iter().enumerate().filter(|(_, step)| !step.trim().is_empty());
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
        assert_eq!(wrong("p0 lod 1g"), "step 1: unknown step of a process `lod`, did you mean `load`?");
        assert_eq!(wrong("; store 1g 7"), "step 2: `store` is what a process does: write `p0 store ...`");
        assert_eq!(wrong("pol 3"), "step 1: unknown step `pol`, did you mean `pool`?");
        assert!(wrong("jump").starts_with("step 1: unknown step `jump`; there are pool, overcommit, mount,"));
        assert_eq!(
            wrong("p0 uffd regster 1g 1p wp"),
            "step 1: unknown operation of a handler `regster`, did you mean `register`?"
        );
        assert_eq!(
            wrong("p0 advise 1g 1p dontned"),
            "step 1: unknown advice `dontned`, did you mean `dontneed`?"
        );
        assert_eq!(
            wrong("p0 scan 1g 1p wrote"),
            "step 1: wrote: only written, protect, check are known here"
        );
        assert_eq!(
            wrong("p0 load 99999999999999999999"),
            "step 1: 99999999999999999999: a number of bytes is expected, such as 1g+3p+4096"
        );
        assert_eq!(wrong("p9 exit"), "step 1: p9: one of p0 to p3 is expected");
    }

    /// With all that may be left out, and without.
    #[test]
    fn every_form_is_read_and_every_step_has_one() {
        let read = |text: &str| text.parse::<Program>().map(|program| program.steps[0].operation());
        let mut operations = std::collections::BTreeSet::new();
        for form in FORMS {
            let short: String = form
                .form
                .split(" [")
                .map(|part| part.split_once("] ").map_or("", |(_, rest)| rest))
                .collect();
            let first = form.form.split(" [").next().unwrap_or_default();
            assert!(short.is_empty(), "{}: what may be left out stands at the end", form.form);
            let full = form.form.replace(['[', ']'], "").replace("anywhere|", "");
            assert!(read(first).is_ok(), "{first}: {:?}", read(first));
            operations.extend(read(&full).map_err(|error| panic!("{full}: {error}")));
        }
        for seed in 0..300 {
            for step in Generator::new(seed).program().steps {
                assert!(operations.contains(step.operation()), "{step} has no form");
            }
        }
    }
}
