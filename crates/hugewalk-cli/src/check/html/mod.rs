//! The verdicts as one page to look at: a matrix as its index, and behind each race its run, with the tables beside it.
//!
//! The page is made of the files beside this one (`page.html`, `style/`, `script/`) and of the data as JSON (`page.rs`).
//! Nothing is loaded from anywhere, and the page forbids its browser to. Each run lies in an element of its own, packed, for
//! there are hundreds of them and each says much the same as the next: it is unpacked when somebody looks at it. What a run
//! does over and over is in it once (`run.rs`).

pub mod file;
mod date;
mod page;
mod run;
mod snippet;

use std::io::{self, Write};

use data_encoding::BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use self::page::Page;
use self::run::Run;
use super::outcome::Document;

const FRAME: &str = include_str!("page.html");

/// In this order: later rules win.
const STYLE: [&str; 5] = [
    include_str!("style/base.css"),
    include_str!("style/matrix.css"),
    include_str!("style/story.css"),
    include_str!("style/drawing.css"),
    include_str!("style/print.css"),
];

/// In this order: `main.js` starts what the others define.
const SCRIPT: [&str; 11] = [
    include_str!("script/document.js"),
    include_str!("script/element.js"),
    include_str!("script/signs.js"),
    include_str!("script/copy.js"),
    include_str!("script/matrix.js"),
    include_str!("script/lanes.js"),
    include_str!("script/layout.js"),
    include_str!("script/drawing.js"),
    include_str!("script/about.js"),
    include_str!("script/story.js"),
    include_str!("script/main.js"),
];

/// The page that shows a report.
///
/// # Errors
///
/// None that the data of this program could cause: a map with keys that are no text.
pub fn page(document: &Document) -> io::Result<String> {
    let page = Page::of(document, date::now());
    let mut data = element("data", "application/json", &escaped(&serde_json::to_string(&page)?));
    for (number, story) in page.stories.iter().enumerate() {
        data += &element(&format!("story-{number}"), "application/gzip", &packed(&Run::of(story))?);
    }
    // The data comes last: nothing is looked for in it.
    let page = FRAME.replace("/*STYLE*/", &STYLE.concat()).replace("/*SCRIPT*/", &SCRIPT.concat());
    Ok(page.replacen("<!--DATA-->", &data, 1))
}

/// An element that carries data.
fn element(id: &str, kind: &str, text: &str) -> String {
    format!("<script type=\"{kind}\" id=\"{id}\">{text}</script>\n")
}

/// JSON, packed, in base 64.
fn packed(value: &impl Serialize) -> io::Result<String> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    packer.write_all(&serde_json::to_vec(value)?)?;
    Ok(BASE64.encode(&packer.finish()?))
}

/// JSON in which nothing can end the element around it, or means a new line to somebody. All of these can stand in
/// strings only.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' => text.push_str("\\u003c"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_end_the_element_it_lies_in_and_reads_back() {
        let text = "</script><!--<script> \u{2028}\u{2029} \\ \" é";
        let json = serde_json::to_string(text).unwrap();
        let escaped = escaped(&json);
        assert!(!escaped.contains(['<', '\u{2028}', '\u{2029}']), "{escaped}");
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), text);
    }

    #[test]
    fn the_page_takes_nothing_from_anywhere() {
        let html = FRAME.replace("/*STYLE*/", &STYLE.concat()).replace("/*SCRIPT*/", &SCRIPT.concat());
        for way_out in
            ["src=", "@import", "url(h", "fetch(", "XMLHttpRequest", "WebSocket", "<link rel=\"style"]
        {
            assert!(!html.contains(way_out), "{way_out}");
        }
        let addresses: Vec<&str> = html.match_indices("http").map(|(at, _)| &html[at..at + 30]).collect();
        let allowed =
            |text: &&str| text.starts_with("http-equiv=") || text.starts_with("http://www.w3.org/2000/svg");
        assert!(addresses.iter().all(allowed), "{addresses:?}");
        for placeholder in ["/*STYLE*/", "/*SCRIPT*/", "<!--DATA-->"] {
            assert_eq!(FRAME.matches(placeholder).count(), 1, "{placeholder}");
        }
    }
}
