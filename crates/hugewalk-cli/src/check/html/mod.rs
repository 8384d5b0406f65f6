//! The verdicts as one page to look at: a matrix as its index, and behind each race its run, with the tables beside it.
//!
//! The page is made of the files beside this one (`style/`, `script/`), of what all pages have in
//! common (`html/`) and of the data as JSON (`page.rs`). Each run lies in an element of its own, packed, for there are
//! hundreds of them and each says much the same as the next: it is unpacked when somebody looks at it. What a run does over and
//! over is in it once (`run.rs`).

mod page;
mod run;
mod snippet;

use std::io;

use self::page::Page;
use self::run::Run;
use super::outcome::Document;
use crate::html::{Kind, date, element, json, packed};

const KIND: Kind = Kind {
    title: "hugewalk check",
    body: "<main id=\"matrix\" class=\"matrix\" hidden></main>\n<main id=\"story\" class=\"story\" hidden></main>\n",
    style: &[
        include_str!("style/matrix.css"),
        include_str!("style/story.css"),
        include_str!("style/drawing.css"),
        include_str!("style/print.css"),
    ],
    script: &[
        include_str!("script/document.js"),
        include_str!("script/signs.js"),
        include_str!("script/matrix.js"),
        include_str!("script/lanes.js"),
        include_str!("script/layout.js"),
        include_str!("script/drawing.js"),
        include_str!("script/about.js"),
        include_str!("script/story.js"),
        include_str!("script/main.js"),
    ],
};

/// The page that shows a report.
///
/// # Errors
///
/// None that the data of this program could cause: a map with keys that are no text.
pub fn page(document: &Document) -> io::Result<String> {
    let page = Page::of(document, date::now());
    let mut data = json("data", &page)?;
    for (number, story) in page.stories.iter().enumerate() {
        data += &element(&format!("story-{number}"), "application/gzip", &packed(&Run::of(story))?);
    }
    Ok(KIND.page(&data))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_takes_nothing_from_anywhere() {
        super::KIND.assert_takes_nothing_from_anywhere();
    }
}
