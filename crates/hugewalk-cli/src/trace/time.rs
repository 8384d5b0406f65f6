//! Moments of a recording, as whole nanoseconds: a float would lose the digits by which events are ordered.

use std::fmt;

use serde::{Serialize, Serializer};
use winnow::ascii::{dec_uint, digit1};
use winnow::combinator::{opt, preceded};
use winnow::prelude::*;

/// A moment, in nanoseconds since the epoch of the real-time clock (or a span between two).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The end of all time: nothing is later.
    pub const MAX: Self = Self(u64::MAX);

    /// Reads `1795335358.853649`, consuming it; the fraction may have up to nine digits or be absent.
    pub(crate) fn parser(input: &mut &str) -> winnow::Result<Self> {
        (dec_uint::<_, u64, _>, opt(preceded('.', digit1.verify(|digits: &str| digits.len() <= 9))))
            .verify_map(|(seconds, fraction)| Self::from_parts(seconds, fraction.unwrap_or("")))
            .parse_next(input)
    }

    /// Reads a whole string such as `1795335358.853649`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::parser.parse(text).ok()
    }

    fn from_parts(seconds: u64, fraction: &str) -> Option<Self> {
        let mut nanos: u64 = 0;
        for place in 0..9 {
            let digit = fraction.as_bytes().get(place).map_or(0, |byte| u64::from(byte - b'0'));
            nanos = nanos * 10 + digit;
        }
        seconds.checked_mul(1_000_000_000)?.checked_add(nanos).map(Self)
    }
}

impl std::ops::Sub for Time {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

impl std::ops::Add for Time {
    type Output = Self;

    fn add(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// As a string: JSON numbers are floats to many readers.
impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Time;

    #[test]
    fn micro_and_nanoseconds_of_one_moment_compare_as_they_should() {
        let strace = Time::parse("1795335358.956016").expect("six digits");
        let perf = Time::parse("1795335358.956016968").expect("nine digits");
        assert_eq!(strace.0, 1_795_335_358_956_016_000);
        assert_eq!((perf - strace).0, 968);
        assert_eq!(perf.to_string(), "1795335358.956016968");
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in
            ["", ".5", "1.", "1.0000000001", "12:30:01.5", "-1", "99999999999999999999", "20000000000.0"]
        {
            assert_eq!(Time::parse(text), None, "{text}");
        }
    }
}
