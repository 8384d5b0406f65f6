//! What `hugewalk --version` says: the version, and the revision of the sources in a release build.
//!
//! A debug build does not name the revision: it would be linked anew after every commit.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=HUGEWALK_REVISION");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let revision = given().or_else(packaged).or_else(checked_out);
    let named = revision.map_or(version.clone(), |revision| format!("{version} ({revision})"));
    println!("cargo::rustc-env=HUGEWALK_VERSION={named}");
}

/// By whoever builds without the history, such as a container's build.
fn given() -> Option<String> {
    env::var("HUGEWALK_REVISION").ok().filter(|revision| !revision.is_empty())
}

/// A package has the revision that it was made of.
fn packaged() -> Option<String> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let revision = text.split("\"sha1\": \"").nth(1)?;
    Some(revision.chars().take_while(char::is_ascii_hexdigit).take(12).collect())
}

fn checked_out() -> Option<String> {
    if env::var("PROFILE").ok()? != "release" {
        return None;
    }
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // Changes with each commit and each switch.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}
