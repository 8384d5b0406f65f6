//! The values in a step: what a single word says.

use std::str::FromStr;

use winnow::ascii::dec_uint;
use winnow::combinator::{alt, fail, opt, preceded, repeat, separated};
use winnow::prelude::*;
use winnow::token::one_of;

use super::RIGHTS;
use crate::program::userfault::MODES;
use crate::program::{Bytes, GIB, Modes, PAGE, Policy, PolicyMode, Rights};

/// A sum of GiB, huge pages and bytes: `1g+3p+4096`.
pub(super) fn bytes(input: &mut &str) -> winnow::Result<Bytes> {
    let unit = || alt(('g'.value(GIB), 'p'.value(PAGE)));
    let term =
        (dec_uint, opt(unit())).verify_map(|(count, unit): (u64, _)| count.checked_mul(unit.unwrap_or(1)));
    let terms: Vec<u64> = separated(1.., term, '+').parse_next(input)?;
    let sum = terms.into_iter().try_fold(0, u64::checked_add);
    sum.map_or_else(|| fail(input), |sum| Ok(Bytes(sum)))
}

/// The number of a process, file or mount: `p0`, `f2`, `m1`.
pub(super) fn index<'t>(
    letter: char,
    most: usize,
) -> impl Parser<&'t str, usize, winnow::error::ContextError> {
    preceded(letter, dec_uint).verify(move |number: &usize| *number < most)
}

fn rights(input: &mut &str) -> winnow::Result<Rights> {
    let letter = one_of(RIGHTS.map(|(letter, _)| letter));
    let right = letter
        .verify_map(|letter| RIGHTS.into_iter().find(|(name, _)| *name == letter))
        .map(|(_, right)| right);
    let some = repeat(1.., right).fold(Rights::empty, |all, right| all | right);
    alt(("none".value(Rights::empty()), some)).parse_next(input)
}

fn modes(input: &mut &str) -> winnow::Result<Modes> {
    let mode = |input: &mut &str| {
        let [one, two, three] = MODES.map(|(name, mode)| name.value(mode));
        alt((one, two, three)).parse_next(input)
    };
    let some = separated(1.., mode, '+').map(|modes: Vec<Modes>| modes.into_iter().collect());
    alt(("none".value(Modes::empty()), some)).parse_next(input)
}

/// A mode, and nodes where it has some: `default`, `bind:0`, `preferred:0+1`, `interleave:none`.
fn policy(input: &mut &str) -> winnow::Result<Policy> {
    let name = winnow::token::take_while(1.., |c: char| c.is_ascii_lowercase() || c == '-');
    let mode = name.verify_map(|name| PolicyMode::ALL.into_iter().find(|mode| mode.name() == name));
    let node = dec_uint.verify_map(|node: u32| 1u8.checked_shl(node));
    let nodes =
        separated(1.., node, '+').map(|nodes: Vec<u8>| nodes.into_iter().fold(0, |all, node| all | node));
    let nodes = opt(preceded(':', alt(("none".value(0), nodes))));
    let both = (mode, nodes).verify(|(mode, nodes)| mode.is_without_nodes() == nodes.is_none());
    both.map(|(mode, nodes)| Policy { mode, nodes: nodes.unwrap_or(0) }).parse_next(input)
}

/// What a word says, or what is expected in its place.
macro_rules! from_str {
    ($($value:ty, $parser:ident, $expected:literal;)*) => {
        $(impl FromStr for $value {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                $parser.parse(text).map_err(|_| format!(concat!("{}: ", $expected), text))
            }
        })*
    };
}

from_str! {
    Bytes, bytes, "a number of bytes is expected, such as 1g+3p+4096";
    Rights, rights, "rights are letters of rwx, or `none`";
    Modes, modes, "modes are missing, wp and minor with + between, or `none`";
    Policy, policy, "a policy is expected, such as default, local, bind:0 or preferred:0+1";
}
