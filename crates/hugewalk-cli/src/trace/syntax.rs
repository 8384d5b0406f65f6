//! The notation in which strace prints a call: `name(argument, ...) = result`.
//!
//! A call is first taken apart by its brackets and strings only, and an argument is looked at closer when somebody asks
//! for it. So whatever strace prints in places that do not matter here (signal masks, socket addresses, decoded
//! structures of tomorrow's kernel) cannot make a recording unreadable. Nesting is counted, not recursed into: a line of
//! a million parentheses is an error like any other.

use winnow::ascii::{dec_uint, hex_uint, multispace0};
use winnow::combinator::{alt, delimited, opt, preceded, repeat, separated};
use winnow::prelude::*;
use winnow::token::{any, literal, none_of, rest, take_until, take_while};

/// A call as it was printed, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawCall<'a> {
    /// The name of the system call.
    pub(crate) name: &'a str,
    /// Its arguments, each as printed.
    pub(crate) arguments: Vec<&'a str>,
    /// What stands after the `=`.
    pub(crate) result: &'a str,
}

impl<'a> RawCall<'a> {
    /// Takes `text` apart; none if it is no call or not a whole one.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        Self::parser.parse(text).ok()
    }

    fn parser(input: &mut &'a str) -> winnow::Result<Self> {
        let name = name(input)?;
        literal('(').parse_next(input)?;
        let arguments = arguments(input)?;
        let result = preceded((multispace0, '=', multispace0), rest).parse_next(input)?;
        Ok(Self { name, arguments, result: result.trim_end() })
    }
}

/// The name of a call; strace prints `???` for one it joined in the middle.
pub(crate) fn name<'a>(input: &mut &'a str) -> winnow::Result<&'a str> {
    take_while(1.., |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '?').parse_next(input)
}

/// Splits at the commas outside all brackets, up to and with the closing parenthesis.
fn arguments<'a>(input: &mut &'a str) -> winnow::Result<Vec<&'a str>> {
    let mut list = Vec::new();
    let mut depth = 0_usize;
    let mut start = *input;
    loop {
        let here = *input;
        let text = &start[..start.len() - here.len()];
        match token(input)? {
            "(" | "[" | "{" => depth += 1,
            ")" if depth == 0 => {
                if !(list.is_empty() && text.trim().is_empty()) {
                    list.push(text.trim());
                }
                return Ok(list);
            }
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "," if depth == 0 => {
                list.push(text.trim());
                start = *input;
            }
            _ => {}
        }
    }
}

/// One string, comment, annotation (`3</dev/hugepages/a>`), or character.
fn token<'a>(input: &mut &'a str) -> winnow::Result<&'a str> {
    alt((
        take_while(1.., |c: char| c.is_ascii_alphanumeric() || "_ =|&.-~*#'?:;%@!+".contains(c)),
        quoted,
        (literal("/*"), take_until(0.., "*/"), literal("*/")).take(),
        // A shift, which must not be taken for the beginning of an annotation.
        literal("<<"),
        annotation.take(),
        any.take(),
    ))
    .parse_next(input)
}

fn quoted<'a>(input: &mut &'a str) -> winnow::Result<&'a str> {
    let character = alt((('\\', any).void(), none_of(['"', '\\']).void()));
    ('"', repeat::<_, _, (), _, _>(0.., character), '"').take().parse_next(input)
}

/// What `strace -y` says about a descriptor: `</dev/hugepages/a>`, `<TCP:[1->2]>`; with `-yy`, `</dev/null<char 1:3>>`.
fn annotation<'a>(input: &mut &'a str) -> winnow::Result<&'a str> {
    let device = ('<', take_while(0.., |c| c != '<' && c != '>'), '>');
    let piece = alt((literal("->").void(), device.void(), none_of('>').void()));
    delimited('<', repeat::<_, _, (), _, _>(0.., piece).take(), '>').parse_next(input)
}

fn comment(input: &mut &str) -> winnow::Result<()> {
    opt((multispace0, "/*", take_until(0.., "*/"), "*/")).void().parse_next(input)
}

/// The value of an expression such as `MAP_PRIVATE|21<<MAP_HUGE_SHIFT`, `0x1000`, `0600`, `-1` or `NULL`.
///
/// `names` gives the values of names; a name it does not know makes the whole none.
pub(crate) fn number(text: &str, names: impl Fn(&str) -> Option<u64> + Copy) -> Option<u64> {
    let mut atom = |input: &mut &str| -> winnow::Result<u64> {
        alt((
            literal("NULL").value(0),
            preceded("0x", hex_uint),
            preceded(('0', winnow::combinator::peek(winnow::token::one_of('0'..='7'))), octal),
            preceded('-', dec_uint).map(u64::wrapping_neg),
            dec_uint,
            name.verify_map(names),
        ))
        .parse_next(input)
    };
    let term = |input: &mut &str| -> winnow::Result<u64> {
        let value = atom.parse_next(input)?;
        let shift = opt(preceded("<<", atom.by_ref())).parse_next(input)?.unwrap_or(0);
        // With -X verbose the comment comes first.
        comment.parse_next(input)?;
        opt((annotation, opt("(deleted)"))).parse_next(input)?;
        comment.parse_next(input)?;
        u32::try_from(shift).ok().and_then(|shift| value.checked_shl(shift)).ok_or_else(Default::default)
    };
    let terms: Vec<u64> = separated(1.., term, '|').parse(text).ok()?;
    Some(terms.into_iter().fold(0, |all, one| all | one))
}

fn octal(input: &mut &str) -> winnow::Result<u64> {
    take_while(1.., '0'..='7').verify_map(|digits| u64::from_str_radix(digits, 8).ok()).parse_next(input)
}

/// The path with which `strace -y` annotates a descriptor, if it does, and whether the file has been deleted.
pub(crate) fn descriptor_path(text: &str) -> Option<(&str, bool)> {
    let number = preceded(opt('-'), take_while(1.., |c: char| c.is_ascii_alphanumeric() || c == '_'));
    // What follows is not ours: a result may be followed by an explanation.
    let number = (number, comment);
    let (_, path, behind): (_, &str, &str) = (number, annotation, rest).parse(text).ok()?;
    let path = path.split('<').next().unwrap_or(path);
    // Some versions say so inside, some outside, as the kernel's link does or without the space.
    let inside = path.strip_suffix(" (deleted)");
    let deleted = inside.is_some() || behind.trim_start().starts_with("(deleted)");
    let path = inside.unwrap_or(path);
    path.starts_with('/').then_some((path, deleted))
}

/// The text of a quoted string, its escapes resolved; none for `NULL` or an address.
pub(crate) fn string(text: &str) -> Option<String> {
    let inside = repeat(0.., character).fold(Vec::new, |mut bytes, character| {
        match character {
            Character::Plain(text) => bytes.extend_from_slice(text.as_bytes()),
            Character::Escaped(byte) => bytes.push(byte),
        }
        bytes
    });
    let bytes = delimited('"', inside, ('"', opt("..."))).parse(text).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A piece of a string.
enum Character<'a> {
    Plain(&'a str),
    Escaped(u8),
}

fn character<'a>(input: &mut &'a str) -> winnow::Result<Character<'a>> {
    let octal = take_while(1..=3, '0'..='7').verify_map(|digits| u8::from_str_radix(digits, 8).ok());
    let hex = preceded('x', take_while(2..=2, |c: char| c.is_ascii_hexdigit()))
        .verify_map(|digits| u8::from_str_radix(digits, 16).ok());
    alt((
        take_while(1.., |c: char| c != '"' && c != '\\').map(Character::Plain),
        preceded('\\', alt((octal, hex, any.map(control)))).map(Character::Escaped),
    ))
    .parse_next(input)
}

fn control(letter: char) -> u8 {
    match letter {
        'n' => b'\n',
        't' => b'\t',
        'r' => b'\r',
        'f' => 0x0c,
        'v' => 0x0b,
        other => u8::try_from(other).unwrap_or(b'?'),
    }
}

/// The value of field `wanted` in `{first=1, wanted={...}} => ...`; none if it is not there.
pub(crate) fn field<'a>(structure: &'a str, wanted: &str) -> Option<&'a str> {
    let mut input = structure.strip_prefix('{')?;
    let mut depth = 0_usize;
    let mut start = input;
    loop {
        let here = input;
        let text = &start[..start.len() - here.len()];
        let ended = match token(&mut input).ok()? {
            "(" | "[" | "{" => {
                depth += 1;
                false
            }
            "}" if depth == 0 => true,
            ")" | "]" | "}" => {
                depth = depth.saturating_sub(1);
                false
            }
            "," => depth == 0,
            _ => false,
        };
        if ended {
            if let Some(value) = named(text.trim(), wanted) {
                return Some(value);
            }
            start = input;
        }
    }
}

/// The elements of `[one, other]`; none if it is no array.
pub(crate) fn elements(array: &str) -> Option<Vec<&str>> {
    let inner = array.strip_prefix('[')?.strip_suffix(']')?;
    let mut list = Vec::new();
    let mut input = inner;
    let mut depth = 0_usize;
    let mut start = inner;
    while !input.is_empty() {
        let text = &start[..start.len() - input.len()];
        match token(&mut input).ok()? {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.checked_sub(1)?,
            "," if depth == 0 => {
                list.push(text.trim());
                start = input;
            }
            _ => {}
        }
    }
    if !(list.is_empty() && start.trim().is_empty()) {
        list.push(start.trim());
    }
    (depth == 0).then_some(list)
}

/// The value in `name=value`, if the name is `wanted`.
pub(crate) fn named<'a>(text: &'a str, wanted: &str) -> Option<&'a str> {
    text.strip_prefix(wanted)?.strip_prefix('=')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments_of(text: &str) -> Vec<&str> {
        RawCall::parse(text).expect("a call").arguments
    }

    #[test]
    fn a_call_is_split_at_its_outer_commas_only() {
        assert_eq!(
            arguments_of(
                r#"f("a,\")(", {x=[1, 2], y={}}, 3</dev/h,(1>, 0x5 /* 3, vars */, makedev(1, 2)) = 0"#
            ),
            [r#""a,\")(""#, "{x=[1, 2], y={}}", "3</dev/h,(1>", "0x5 /* 3, vars */", "makedev(1, 2)"]
        );
        assert_eq!(arguments_of("getpid()       = 4"), [""; 0]);
        assert_eq!(arguments_of("ioctl(3, X, {a=1} => {a=2}) = 0"), ["3", "X", "{a=1} => {a=2}"]);
    }

    #[test]
    fn a_call_that_is_cut_off_is_none() {
        let whole = r#"openat(AT_FDCWD, "/dev/hugepages/a", O_RDWR|O_CREAT, 0755) = 3"#;
        assert!(RawCall::parse(whole).is_some());
        for end in 0..whole.len() - 2 {
            let call = RawCall::parse(&whole[..end]);
            assert!(call.as_ref().is_none_or(|call| call.result.is_empty()), "{call:?}");
        }
        assert_eq!(RawCall::parse(&"f(".repeat(1_000_000)), None);
    }

    #[test]
    fn numbers_are_read_in_every_form_strace_gives_them() {
        let names = |name: &str| match name {
            "A" => Some(1),
            "SHIFT" => Some(26),
            _ => None,
        };
        let value = |text| number(text, names);
        assert_eq!(value("NULL"), Some(0));
        assert_eq!(value("0"), Some(0));
        assert_eq!(value("0x7fcea5800000"), Some(0x7fce_a580_0000));
        assert_eq!(value("A|21<<SHIFT"), Some(1 | 21 << 26));
        assert_eq!(value("A|0600"), Some(1 | 0o600));
        assert_eq!(value("-1"), Some(u64::MAX));
        assert_eq!(value("5</dev/hugepages/a>"), Some(5));
        assert_eq!(value("5</memfd:a>(deleted)"), Some(5));
        assert_eq!(value("5</dev/null<char 1:3>>"), Some(5));
        assert_eq!(value("0x20 /* A_??? */"), Some(0x20));
        assert_eq!(value("5 /* A */</tmp/f>"), Some(5));
        for bad in ["", "B", "1|", "0xg", "1<<64", "99999999999999999999", "12:30"] {
            assert_eq!(value(bad), None, "{bad}");
        }
    }

    #[test]
    fn strings_lose_their_quotes_and_escapes() {
        assert_eq!(string(r#""/dev/\"a\\\101\x42\303\244ä""#).as_deref(), Some("/dev/\"a\\ABää"));
        assert_eq!(string(r#""abc"..."#).as_deref(), Some("abc"));
        assert_eq!(string("NULL"), None);
    }

    #[test]
    fn fields_are_found_by_name_at_the_outer_level() {
        let text = "{range={start=0x1000, len=0x2000}, mode=A|B, ioctls=1<<X} => {mode=9}";
        assert_eq!(field(text, "mode"), Some("A|B"));
        assert_eq!(field(text, "range").and_then(|range| field(range, "len")), Some("0x2000"));
        assert_eq!(field(text, "start"), None);
    }

    #[test]
    fn the_path_of_an_annotated_descriptor_is_seen() {
        assert_eq!(descriptor_path("3</dev/hugepages/a>"), Some(("/dev/hugepages/a", false)));
        assert_eq!(descriptor_path("3</memfd:x> (deleted)"), Some(("/memfd:x", true)));
        assert_eq!(descriptor_path("3</memfd:x>(deleted)"), Some(("/memfd:x", true)));
        assert_eq!(descriptor_path("3</memfd:x (deleted)> <0.000012>"), Some(("/memfd:x", true)));
        assert_eq!(descriptor_path("3</dev/null<char 1:3>>"), Some(("/dev/null", false)));
        assert_eq!(descriptor_path("-100 /* AT_FDCWD */</tmp/f>"), Some(("/tmp/f", false)));
        assert_eq!(descriptor_path("3<TCP:[1->2]>"), None);
        assert_eq!(descriptor_path("3"), None);
    }
}
