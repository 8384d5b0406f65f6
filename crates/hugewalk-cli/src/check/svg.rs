//! A report as a picture: the table of verdicts, or one run, in SVG.

use std::fmt::Write as _;
use std::io::{self, Write};

use hugewalk_lab::story::Story;
use hugewalk_lab::text::{Drawing, draw};

use super::outcome::{Document, Kind, Verdict};
use super::text::cell;

/// Pixels from one character to the next, and from one line to the next.
const CHARACTER: usize = 8;
const LINE: usize = 18;
const MARGIN: usize = 16;

const STYLE: &str = "\
text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#1f2328;white-space:pre}\
.paper{fill:#fff}.faint{fill:#6e7781}.head{font-weight:700}.race{fill:#b42318}.safe{fill:#1a7f37}.unsure{fill:#8a6100}\
.tint{fill:#fdecea}.rule{stroke:#d0d7de}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.paper{fill:#0d1117}.faint{fill:#8b949e}.race{fill:#ff7b72}\
.safe{fill:#56d364}.unsure{fill:#e3b341}.tint{fill:#3d1513}.rule{stroke:#30363d}}";

/// Prints a report.
pub(super) fn report(document: &Document, out: &mut dyn Write) -> io::Result<()> {
    match document.only_story() {
        Some((verdict, story)) => run(verdict.scenario, verdict.protocol, story, out),
        None => out.write_all(table(document).as_bytes()),
    }
}

/// Prints one run.
pub(super) fn run(scenario: &str, protocol: &str, story: &Story, out: &mut dyn Write) -> io::Result<()> {
    let drawn = draw(story, &Drawing { width: 100, ..Drawing::DIAGRAM });
    let lines: Vec<&str> = drawn.lines().collect();
    let wide = lines.iter().map(|line| line.len()).max().unwrap_or(0);
    let mut body = String::new();
    let mut told = false;
    for (number, line) in lines.iter().enumerate() {
        let next = lines.get(number + 1).unwrap_or(&"");
        let is_mark = |line: &str| line.trim_start().starts_with("^^^");
        let class = if is_mark(line) || is_mark(next) {
            "race"
        } else if line.starts_with("CPU ") && next.starts_with("---") {
            "head"
        } else if line.starts_with("-- ") || line.starts_with("at first:") || told && line.starts_with("   ")
        {
            "faint"
        } else {
            ""
        };
        // What is told of the state goes on below itself.
        told = class == "faint";
        text(&mut body, MARGIN, number + 1, class, line);
    }
    let name = format!("{scenario} under {protocol}");
    out.write_all(picture(&name, wide * CHARACTER, lines.len() * LINE, &body).as_bytes())
}

fn table(document: &Document) -> String {
    let protocols: Vec<&str> = document.options.names().collect();
    let first = document.scenarios.iter().map(|scenario| scenario.id.len()).max().unwrap_or(0) + 2;
    let cells = |protocol: &str, id: &str| -> Option<&Verdict> {
        document.verdicts.iter().find(|verdict| {
            verdict.scenario == id && verdict.protocol == protocol && verdict.left_out.is_none()
        })
    };
    let widths: Vec<usize> = protocols
        .iter()
        .map(|protocol| {
            let all = document.scenarios.iter().filter_map(|scenario| cells(protocol, scenario.id));
            all.map(|verdict| cell(verdict).len()).chain([protocol.len()]).max().unwrap_or(0) + 2
        })
        .collect();
    let mut body = String::new();
    let left = |column: usize| MARGIN + (first + widths[..column].iter().sum::<usize>()) * CHARACTER;
    for (column, protocol) in protocols.iter().enumerate() {
        text(&mut body, left(column), 1, "head", protocol);
    }
    for (row, scenario) in document.scenarios.iter().enumerate() {
        let line = row + 2;
        text(&mut body, MARGIN, line, "", scenario.id);
        for (column, protocol) in protocols.iter().enumerate() {
            let Some(verdict) = cells(protocol, scenario.id) else { continue };
            let class = match verdict.verdict {
                Kind::Race => "race",
                Kind::Safe => "safe",
                Kind::Incomplete | Kind::NotMet => "unsure",
                Kind::DoesNotApply => "faint",
            };
            if verdict.verdict == Kind::Race {
                let (x, y) = (left(column) - CHARACTER / 2, MARGIN + row * LINE + LINE + 3);
                let wide = widths[column] * CHARACTER - CHARACTER / 2;
                let _ = write!(
                    body,
                    "<rect class=\"tint\" x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{LINE}\"/>"
                );
            }
            text(&mut body, left(column), line, class, &cell(verdict));
        }
    }
    let wide = first + widths.iter().sum::<usize>();
    picture("verdicts", wide * CHARACTER, (document.scenarios.len() + 1) * LINE, &body)
}

fn text(body: &mut String, x: usize, line: usize, class: &str, what: &str) {
    if what.trim().is_empty() {
        return;
    }
    // Leading blanks are a distance: not every program keeps them.
    let blanks = what.len() - what.trim_start().len();
    let (x, y) = (x + blanks * CHARACTER, MARGIN + line * LINE - 5);
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let what = what.trim();
    let wide = what.len() * CHARACTER;
    let _ = writeln!(
        body,
        "<text{class} x=\"{x}\" y=\"{y}\" textLength=\"{wide}\" lengthAdjust=\"spacingAndGlyphs\">{}</text>",
        escaped(what)
    );
}

fn picture(name: &str, wide: usize, high: usize, body: &str) -> String {
    let (wide, high) = (wide + 2 * MARGIN, high + 2 * MARGIN);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide} {high}\" width=\"{wide}\" height=\"{high}\" role=\"img\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n<rect class=\"paper\" width=\"{wide}\" height=\"{high}\"/>\n{body}</svg>\n",
        escaped(name)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
