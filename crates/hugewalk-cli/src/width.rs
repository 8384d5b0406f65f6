//! How wide a report may be.

use std::{env, io};

/// As wide as the mail or the file that a report without a terminal goes into.
const USUAL: usize = 100;
/// Below this a drawing cannot be read; above, the lines of the source are too far from their steps.
const BOUNDS: (usize, usize) = (80, 120);

/// Columns to fill: as many as `COLUMNS` says, or else the terminal has.
pub(crate) fn columns() -> usize {
    let said = env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|&columns| columns > 0);
    let has = || terminal_size::terminal_size_of(io::stdout()).map(|(columns, _)| usize::from(columns.0));
    within(said.or_else(has))
}

fn within(columns: Option<usize>) -> usize {
    columns.unwrap_or(USUAL).clamp(BOUNDS.0, BOUNDS.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_as_wide_as_the_terminal_within_reason() {
        assert_eq!([None, Some(10), Some(93), Some(400)].map(within), [100, 80, 93, 120]);
    }
}
