//! The words of a step, one after the other.

use winnow::ascii::{dec_uint, multispace0};
use winnow::combinator::{opt, preceded};
use winnow::prelude::*;
use winnow::token::take_till;

use super::values::index;
use crate::program::Bytes;

/// The words of a step that are left.
pub(super) struct Words<'t>(&'t str);

impl<'t> Words<'t> {
    pub(super) fn new(step: &'t str) -> Self {
        Self(step)
    }

    /// The next word, if there is one.
    pub(super) fn optional(&mut self) -> Option<&'t str> {
        let word = take_till(1.., char::is_whitespace);
        let next: winnow::Result<Option<&'t str>> = opt(preceded(multispace0, word)).parse_next(&mut self.0);
        next.ok().flatten()
    }

    /// The next word. `what` names it if there is none.
    pub(super) fn next(&mut self, what: &str) -> Result<&'t str, String> {
        self.optional().ok_or_else(|| format!("{what} is missing"))
    }

    pub(super) fn number(&mut self, what: &str) -> Result<u64, String> {
        number(self.next(what)?, what)
    }

    pub(super) fn byte(&mut self) -> Result<u8, String> {
        let value = self.number("the byte")?;
        u8::try_from(value).map_err(|_| format!("{value} is more than a byte: 255 is the largest"))
    }

    pub(super) fn bytes(&mut self, what: &str) -> Result<Bytes, String> {
        self.next(what)?.parse()
    }

    /// A place and a length.
    pub(super) fn range(&mut self) -> Result<(Bytes, Bytes), String> {
        Ok((self.bytes("where")?, self.bytes("the length")?))
    }

    /// The last word, if there is one: only this one is known.
    pub(super) fn flag(&mut self, known: &str) -> Result<bool, String> {
        match self.optional() {
            None => Ok(false),
            Some(word) if word == known => Ok(true),
            Some(word) => Err(format!("{word}: only `{known}` is known here")),
        }
    }

    /// The words that are left, each of which is one of these, in any order. Which of them are there.
    pub(super) fn flags<const N: usize>(&mut self, known: [&str; N]) -> Result<[bool; N], String> {
        let mut set = [false; N];
        while let Some(word) = self.optional() {
            match known.iter().position(|name| *name == word) {
                Some(which) => set[which] = true,
                None => return Err(format!("{word}: only {} are known here", known.join(", "))),
            }
        }
        Ok(set)
    }

    pub(super) fn index(&mut self, letter: char, most: usize) -> Result<usize, String> {
        named(self.next("a name")?, letter, most)
    }

    pub(super) fn end(mut self) -> Result<(), String> {
        self.optional().map_or(Ok(()), |word| Err(format!("{word}: nothing more is expected here")))
    }
}

pub(super) fn number(text: &str, what: &str) -> Result<u64, String> {
    let number: Result<u64, _> = dec_uint::<_, _, winnow::error::ContextError>.parse(text);
    number.map_err(|_| format!("{text}: {what} has to be a number"))
}

pub(super) fn named(text: &str, letter: char, most: usize) -> Result<usize, String> {
    let wrong = |_| format!("{text}: one of {letter}0 to {letter}{} is expected", most - 1);
    index(letter, most).parse(text).map_err(wrong)
}
