//! Numbers, sizes and sentences as people read them.

use std::io::{self, Write};

/// Columns of a report.
const WIDTH: usize = 100;

/// `1 page`, `1,234 pages`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the largest unit that leaves the number whole or over ten.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.iter().find(|(_, shift)| {
        let whole = bytes >> shift;
        whole >= 10 || whole > 0 && bytes.trailing_zeros() >= *shift
    });
    match unit {
        Some((name, shift)) if bytes.trailing_zeros() >= *shift => {
            format!("{} {name}", grouped(bytes >> shift))
        }
        Some((name, shift)) => {
            let tenths = (bytes >> (shift - 10)) % 1024 * 10 / 1024;
            format!("{}.{tenths} {name}", grouped(bytes >> shift))
        }
        None => format!("{} B", grouped(bytes)),
    }
}

/// Writes a paragraph, its first line behind `mark` and the others as far in.
pub(super) fn paragraph(out: &mut impl Write, mark: &str, text: &str) -> io::Result<()> {
    paragraph_within(out, WIDTH, mark, text)
}

/// The same in `width` columns.
pub(crate) fn paragraph_within(out: &mut impl Write, width: usize, mark: &str, text: &str) -> io::Result<()> {
    let indent = mark.chars().count();
    let mut line = mark.to_owned();
    let mut used = indent;
    for word in text.split(' ') {
        let length = word.chars().count();
        if used > indent && used + 1 + length > width {
            writeln!(out, "{}", line.trim_end())?;
            line = " ".repeat(indent);
            used = indent;
        }
        if used > indent {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += length;
    }
    writeln!(out, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes_are_written_to_be_read() {
        assert_eq!(
            ["0", "999", "1,000", "1,234,567"].map(str::to_owned),
            [0, 999, 1000, 1_234_567].map(grouped)
        );
        assert_eq!(size(2 << 20), "2 MiB");
        assert_eq!(size(1 << 40), "1 TiB");
        assert_eq!(size(2_812_280_832), "2,682 MiB");
        assert_eq!(size((10 << 30) + (512 << 20)), "10.5 GiB");
        assert_eq!(size(100), "100 B");
    }

    #[test]
    fn a_paragraph_keeps_to_its_width_and_its_indent() {
        let mut out = Vec::new();
        paragraph(&mut out, "  - ", &"word ".repeat(60)).expect("written");
        let text = String::from_utf8(out).expect("text");
        assert!(text.lines().all(|line| line.len() <= WIDTH));
        assert!(text.lines().skip(1).all(|line| line.starts_with("    word")));
    }
}
