//! One report after the other: on a terminal in the same place, as `top` does.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use super::report::Report;
use super::{InspectError, look, text};
use crate::args::Format;
use crate::costs::Costs;
use crate::proc::Root;
use crate::report::text::grouped;
use crate::width;

/// Reports every so many seconds, until the named processes have all ended, or nobody reads any more.
pub(super) fn watch(
    root: &Root,
    mut asked: Option<Vec<u32>>,
    seconds: f64,
    format: Format,
    costs: &Costs,
) -> Result<(), InspectError> {
    let on_terminal = io::stdout().is_terminal() && format == Format::Text;
    let mut first = true;
    loop {
        let report = look(root, &mut asked, first, costs)?;
        if asked.as_ref().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        let mut page = Vec::new();
        match format {
            Format::Text => text::write(&report, width::columns(), &mut page)?,
            Format::Json => on_one_line(&report, &mut page)?,
        }
        if on_terminal {
            page = fitted(&page, rows());
        } else if format == Format::Text && !first {
            page.insert(0, b'\n');
        }
        let mut out = anstream::stdout().lock();
        match out.write_all(&page).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        drop(out);
        first = false;
        thread::sleep(Duration::from_secs_f64(seconds));
    }
}

fn on_one_line(report: &Report, out: &mut Vec<u8>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, report)?;
    out.write_all(b"\n")
}

fn rows() -> usize {
    terminal_size::terminal_size_of(io::stdout()).map_or(24, |(_, rows)| usize::from(rows.0))
}

/// As much of a page as fits into so many rows, drawn over what was there before.
fn fitted(page: &[u8], rows: usize) -> Vec<u8> {
    /// Moves to the upper left corner.
    const HOME: &[u8] = b"\x1b[H";
    /// Clears what is left of the line, and of the screen.
    const REST_OF_LINE: &[u8] = b"\x1b[K";
    const REST_OF_SCREEN: &[u8] = b"\x1b[J";
    let lines: Vec<&[u8]> = page.split(|byte| *byte == b'\n').collect();
    // The last piece is what stands behind the last line: nothing.
    let lines = &lines[..lines.len().saturating_sub(1)];
    let last = rows.saturating_sub(1).max(1);
    let (shown, more) = if lines.len() <= last {
        (lines, None)
    } else {
        (&lines[..last - 1], Some(lines.len() - (last - 1)))
    };
    let mut drawn = HOME.to_vec();
    for line in shown {
        drawn.extend([line, REST_OF_LINE, b"\n"].concat());
    }
    if let Some(more) = more {
        let text = format!("({} more lines: enlarge the window)", grouped(more as u64));
        drawn.extend([text.as_bytes(), REST_OF_LINE, b"\n"].concat());
    }
    drawn.extend(REST_OF_SCREEN);
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_to_the_window_and_says_so() {
        let text = |page: &str, rows| String::from_utf8(fitted(page.as_bytes(), rows)).expect("text");
        let (home, end, rest) = ("\x1b[H", "\x1b[K\n", "\x1b[J");
        assert_eq!(text("a\nb\n", 3), format!("{home}a{end}b{end}{rest}"));
        assert_eq!(
            text("a\nb\nc\n", 3),
            format!("{home}a{end}(2 more lines: enlarge the window){end}{rest}")
        );
    }
}
