//! What pages have in common: one file that loads nothing, with its data in it as JSON.
//!
//! A page is made of the frame beside this file, of styles and scripts (those beside this file first), and of the data. Nothing
//! is loaded from anywhere, and the page forbids its browser to.

pub(crate) mod date;
pub(crate) mod file;

use std::io::{self, Write};

use data_encoding::BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

const FRAME: &str = include_str!("frame.html");

/// Before a page's own: later rules win.
const STYLE: &str = include_str!("style/base.css");
/// After a page's own.
const PRINT: &str = include_str!("style/print.css");
/// Before a page's own.
const SCRIPT: [&str; 2] = [include_str!("script/element.js"), include_str!("script/copy.js")];

/// What one kind of page has of its own.
pub(crate) struct Kind {
    /// Its title, and the command that writes it.
    pub(crate) title: &'static str,
    /// What its body begins with.
    pub(crate) body: &'static str,
    /// Its styles, in this order.
    pub(crate) style: &'static [&'static str],
    /// Its scripts, in this order: the last one starts what the others define.
    pub(crate) script: &'static [&'static str],
}

impl Kind {
    /// The page with this data: elements that [`element`] made.
    pub(crate) fn page(&self, data: &str) -> String {
        // The data comes last: nothing is looked for in it.
        self.without_data().replacen("<!--DATA-->", data, 1)
    }

    fn without_data(&self) -> String {
        let style = [STYLE, &self.style.concat(), PRINT].concat();
        let script = [SCRIPT.concat(), self.script.concat()].concat();
        let text = FRAME.replace("<!--TITLE-->", self.title).replace("<!--BODY-->\n", self.body);
        text.replace("/*STYLE*/", &style).replace("/*SCRIPT*/", &script)
    }

    /// Fails a test if the page names anything outside of it.
    #[cfg(test)]
    pub(crate) fn assert_takes_nothing_from_anywhere(&self) {
        let html = self.without_data();
        for way_out in
            ["src=", "@import", "url(h", "fetch(", "XMLHttpRequest", "WebSocket", "<link rel=\"style"]
        {
            assert!(!html.contains(way_out), "{way_out}");
        }
        let addresses: Vec<&str> = html.match_indices("http").map(|(at, _)| &html[at..at + 30]).collect();
        let allowed =
            |text: &&str| text.starts_with("http-equiv=") || text.starts_with("http://www.w3.org/2000/svg");
        assert!(addresses.iter().all(allowed), "{addresses:?}");
        for placeholder in ["/*STYLE*/", "/*SCRIPT*/", "<!--DATA-->", "<!--BODY-->", "<!--TITLE-->"] {
            assert!(FRAME.contains(placeholder), "{placeholder}");
        }
        assert_eq!(html.matches("<!--").count(), 2, "a note, and the place of the data");
    }
}

/// An element that carries data as JSON.
///
/// # Errors
///
/// None that the data of this program could cause: a map with keys that are no text.
pub(crate) fn json(id: &str, data: &impl Serialize) -> io::Result<String> {
    Ok(element(id, "application/json", &escaped(&serde_json::to_string(data)?)))
}

/// An element that carries data.
pub(crate) fn element(id: &str, kind: &str, text: &str) -> String {
    format!("<script type=\"{kind}\" id=\"{id}\">{text}</script>\n")
}

/// JSON, packed, in base 64.
pub(crate) fn packed(value: &impl Serialize) -> io::Result<String> {
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
}
