//! What docs/uffd-hugetlb.md says of the kernel is what the running kernel does.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use hugewalk_conform::run::{RunError, Sides};
use hugewalk_conform::table::giant::{self, GIANT};
use hugewalk_conform::table::{Held, UFFD, uffd_page};

#[test]
fn the_page_has_the_rows_as_they_are() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/uffd-hugetlb.md");
    let page = fs::read_to_string(page).unwrap();
    assert!(
        page == uffd_page(&[], None),
        "make it anew: hugewalk conform --table uffd > docs/uffd-hugetlb.md"
    );
}

fn assert_giant_rows_hold(answers: &[Vec<String>]) {
    for (row, answers) in GIANT.iter().zip(answers) {
        let expected: Vec<&str> = row.acts.iter().map(|(_, answer)| *answer).collect();
        assert_eq!(*answers, expected, "{}", row.says);
    }
}

#[test]
fn what_is_said_of_pages_of_1_gib_holds_on_the_engine() {
    assert_giant_rows_hold(&giant::on_engine().unwrap());
}

#[test]
fn what_is_said_of_pages_of_1_gib_holds_on_the_running_kernel() {
    match giant::on_kernel() {
        Ok(Some(answers)) => assert_giant_rows_hold(&answers),
        // Not on a terminal that is captured: who runs the tests shall see that this one did nothing.
        nothing => {
            let _ = writeln!(
                std::io::stderr(),
                "not run on the kernel, which has no page of 1 GiB to spare: {nothing:?}"
            );
        }
    }
}

#[test]
fn every_row_holds_on_the_running_kernel() {
    let mut sides = match Sides::new(Duration::from_secs(60)) {
        Ok(sides) => sides,
        Err(RunError::Kernel(error)) => {
            // Not on a terminal that is captured: who runs the tests shall see that this one did nothing.
            let _ = writeln!(std::io::stderr(), "not run on the kernel: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut failed = Vec::new();
    for row in UFFD.iter().flat_map(|part| part.rows) {
        match row.run(&mut sides).unwrap() {
            Held::Yes | Held::NotAsked => {}
            Held::NoPages => {
                let _ = writeln!(std::io::stderr(), "no huge pages to spare for: {}", row.says);
            }
            Held::NotAgain => {
                let _ = writeln!(std::io::stderr(), "differed once, and not again: {}", row.says);
            }
            other => failed.push(format!("{}: {other:?}", row.says)),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
