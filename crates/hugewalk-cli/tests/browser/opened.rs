//! The page of a few scenarios, opened in a browser.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

use super::Browser;

const ASKED: &str = "check S1 S8 S9 S11 S11:no-flush S19:look-first S24:shared-lock-only S25:no-trylock S30/page-walk --protocol legacy --protocol vma-lock --protocol hugewalk";

/// The page of a few scenarios, and the report that it shows.
pub(crate) struct Checked {
    page: String,
    pub(crate) report: Value,
}

pub(crate) static CHECKED: LazyLock<Checked> = LazyLock::new(|| checked(ASKED));

/// What a check comes to, and its page.
pub(crate) fn checked(arguments: &str) -> Checked {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("page.html");
    let mut command = Command::cargo_bin("hugewalk").expect("the command");
    command.args(arguments.split_whitespace()).args(["--format", "json", "--html"]).arg(&file);
    let output = command.output().expect("it ran");
    assert_eq!((output.status.code(), &output.stderr[..]), (Some(0), &b""[..]));
    let report = serde_json::from_slice(&output.stdout).expect("JSON");
    Checked { page: fs::read_to_string(&file).expect("the page"), report }
}

/// The page in a browser.
pub(crate) struct Opened {
    pub(crate) browser: Browser,
    directory: TempDir,
}

impl Opened {
    /// `None`, with a line that says so, on a machine without a browser.
    pub(crate) fn at(hash: &str) -> Option<Self> {
        Self::of(&CHECKED, hash)
    }

    /// Another page than the usual one.
    pub(crate) fn of(checked: &Checked, hash: &str) -> Option<Self> {
        let browser = Browser::start_or_say()?;
        let directory = TempDir::new().expect("a directory");
        let mut opened = Self { browser, directory };
        fs::write(opened.file(), &checked.page).expect("written");
        opened.browser.look(1280, 800, "light");
        opened.open(hash);
        Some(opened)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("page.html")
    }

    /// Opens the page there, and waits until it shows what it has to.
    pub(crate) fn open(&mut self, hash: &str) {
        let file = self.file();
        self.browser.open(&file, hash);
        self.browser.wait_until("document.querySelector('[aria-current=step], .explored, .cell') !== null");
    }

    pub(crate) fn assert_quiet(&self) {
        assert_eq!(self.browser.complaints(), [""; 0]);
        assert_eq!(self.browser.requests(), [""; 0]);
    }
}
