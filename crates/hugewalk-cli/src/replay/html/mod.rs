//! A replay as one page to look at: its course in time, a map of addresses, the processes by their tables, and what other places
//! and page sizes would give.
//!
//! The page is made of the files beside this one, of what all pages have in common ([`crate::html`]), and of the data as JSON. All
//! that it lets one choose was performed beforehand: it calculates nothing.

use std::io;

use serde::Serialize;

use super::picture::Picture;
use crate::html::{Kind, date, json};
use crate::replay::args::ReplayArgs;
use crate::report::Report;

const KIND: Kind = Kind {
    title: "hugewalk replay",
    body: "<main id=\"replay\" class=\"replay\"></main>\n",
    style: &[include_str!("style/replay.css")],
    script: &[
        include_str!("script/figures.js"),
        include_str!("script/course.js"),
        include_str!("script/addresses.js"),
        include_str!("script/holders.js"),
        include_str!("script/choice.js"),
        include_str!("script/main.js"),
    ],
};

#[derive(Serialize)]
struct Page<'a> {
    version: &'static str,
    /// When it was written.
    date: String,
    /// The command line that asks for the same.
    command: String,
    report: &'a Report,
    picture: &'a Picture,
}

/// The page that shows a replay.
///
/// # Errors
///
/// None that the data of this program could cause: a map with keys that are no text.
pub fn page(args: &ReplayArgs, report: &Report, picture: &Picture) -> io::Result<String> {
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        date: date::now(),
        command: command(args),
        report,
        picture,
    };
    Ok(KIND.page(&json("data", &page)?))
}

fn command(args: &ReplayArgs) -> String {
    let mut command = format!("hugewalk replay {}", args.strace.display());
    if let Some(faults) = &args.faults {
        command += &format!(" --faults {}", faults.display());
    }
    if args.clones != 1 {
        command += &format!(" --clones {}", args.clones);
    }
    command + &format!(" --cpus {}", args.cpus)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_takes_nothing_from_anywhere() {
        super::KIND.assert_takes_nothing_from_anywhere();
    }
}
