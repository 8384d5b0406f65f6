//! What each operation of a process costs it, or another, in minor faults on memory that it has touched and shares: the
//! table that was measured on Linux 6.18, measured again on the engine and on the running kernel.

use std::io::Write;
use std::time::Duration;

use hugewalk_conform::engine::Engine;
use hugewalk_conform::kernel::{Kernel, KernelError};
use hugewalk_conform::observe::Outcome;
use hugewalk_conform::program::{Program, Step};

/// 2 GiB of a file at a 1 GiB boundary, all of it touched.
const PARENT: &str = "pool 1030; open f0 memory; truncate f0 2g; \
                      p0 map f0 at=1g length=2g rights=rw shared fixed; p0 sweep 1g 2g";
/// A child takes both tables up with a fault each.
const CHILD: &str = "p0 fork p1; p1 sweep 1g 2g";

struct Row {
    operation: &'static str,
    /// What is touched then, and the faults it takes.
    touched: &'static [(&'static str, u64)],
    /// Of the child, if it is still there.
    end: Option<&'static str>,
}

const EXIT: Option<&str> = Some("p1 exit");
const FIRST: &str = "p1 sweep 1g 1g";
const SECOND: &str = "p1 sweep 2g 1g";
const BEHIND: &str = "p1 sweep 1g+1p 511p";

const TABLE: &[Row] = &[
    Row { operation: "p1 protect 1g 1p r", touched: &[(FIRST, 512), (SECOND, 0)], end: EXIT },
    Row { operation: "p1 unmap 1g 1p", touched: &[(BEHIND, 511), (SECOND, 0)], end: EXIT },
    Row {
        operation: "p1 map fresh at=1g length=1p rights=rw shared fixed",
        touched: &[(BEHIND, 511), (SECOND, 0)],
        end: EXIT,
    },
    Row {
        operation: "p1 protect 1g 2g r; p1 protect 1g 2g rw",
        touched: &[(FIRST, 1), (SECOND, 1)],
        end: EXIT,
    },
    // A split at a boundary takes nothing away.
    Row { operation: "p1 unmap 2g 1g", touched: &[(FIRST, 0)], end: EXIT },
    // A split anywhere else takes the table away, though nothing changes but whether the pages are dumped.
    Row { operation: "p1 advise 1g 1p dontdump", touched: &[(FIRST, 512), (SECOND, 0)], end: EXIT },
    Row { operation: "p1 mbind 1g 1p bind:0", touched: &[(FIRST, 512), (SECOND, 0)], end: EXIT },
    // A policy for all of it splits nothing, and has no say in who shares.
    Row { operation: "p1 mbind 1g 2g bind:0", touched: &[(FIRST, 0), (SECOND, 0)], end: EXIT },
    // Locking marks no mapping of huge pages, and so splits none.
    Row { operation: "p1 mlock 1g 1p", touched: &[(FIRST, 0), (SECOND, 0)], end: EXIT },
    Row { operation: "p1 advise 1g 1p dontneed", touched: &[(FIRST, 1), (SECOND, 0)], end: EXIT },
    Row {
        operation: "p1 uffd open; p1 uffd register 1g 2g missing",
        touched: &[(FIRST, 0), (SECOND, 0)],
        end: EXIT,
    },
    // From now on the child's entries are its own; so they stay while it is registered.
    Row {
        operation: "p1 uffd open; p1 uffd register 1g 2g wp",
        touched: &[(FIRST, 512), (SECOND, 512)],
        end: EXIT,
    },
    Row {
        operation: "p1 uffd open; p1 uffd register 1g 2g minor; p1 uffd unregister 1g 2g",
        touched: &[(FIRST, 1), (SECOND, 1)],
        end: EXIT,
    },
    // A move to where no table can be shared: each page is taken from the file again.
    Row {
        operation: "p1 remap 1g+1p 511p 511p to=5g+1p",
        touched: &[("p1 sweep 5g+1p 511p", 511), (SECOND, 0)],
        end: EXIT,
    },
    // The parent's mapping is the first in the file's tree: it gives its table up, and the child's loses one page.
    Row { operation: "punch f0 0 1p", touched: &[(BEHIND, 0), ("p0 sweep 1g+1p 511p", 1)], end: EXIT },
    Row {
        operation: "p1 sweep 1g 1p; punch f0 0 1p; p1 exit",
        touched: &[("p0 sweep 1g+1p 511p", 511), ("p0 sweep 2g 1g", 0)],
        end: None,
    },
];

/// A move to another place where tables can be shared, of a source that is shared already. On the engine only: some kernels
/// are known to hang over such places.
const MOVES: &[Row] = &[
    Row { operation: "p1 remap 1g 1g 1g to=5g", touched: &[("p1 sweep 5g 1g", 1), (SECOND, 0)], end: EXIT },
    Row {
        operation: "p1 remap 1g 2g 2g to=5g",
        touched: &[("p1 sweep 5g 1g", 1), ("p1 sweep 6g 1g", 1)],
        end: EXIT,
    },
];

/// Why a table was not carried out.
#[derive(Debug)]
enum Failure<E> {
    /// A side says so.
    Side(E),
    /// It answers otherwise than the table.
    Otherwise(String),
}

/// Carries a table out on one side. `step` gives the faults of accesses.
fn carry_out<E>(
    table: &[Row],
    mut step: impl FnMut(&Step) -> Result<(Outcome, Option<u64>), E>,
) -> Result<(), Failure<E>> {
    let mut run = |text: &str| -> Result<Option<u64>, Failure<E>> {
        let mut faults = None;
        for one in &text.parse::<Program>().unwrap().steps {
            let (outcome, taken) = step(one).map_err(Failure::Side)?;
            if matches!(outcome, Outcome::Error(_) | Outcome::Signal { .. } | Outcome::Elsewhere) {
                return Err(Failure::Otherwise(format!("{one}: {outcome}")));
            }
            faults = taken;
        }
        Ok(faults)
    };
    let equal = |taken: Option<u64>, expected: u64, when: String| match taken {
        Some(taken) if taken == expected => Ok(()),
        _ => Err(Failure::Otherwise(format!("{taken:?} faults, not {expected}: {when}"))),
    };
    run(PARENT)?;
    for Row { operation, touched, end } in table {
        equal(run(CHILD)?, 2, format!("one for each GiB, before: {operation}"))?;
        run(operation)?;
        for (touch, expected) in *touched {
            equal(run(touch)?, *expected, format!("{touch}, after: {operation}"))?;
        }
        end.map(&mut run).transpose()?;
        // Whole again, for the next row.
        run("p0 sweep 1g 2g")?;
    }
    run("p0 exit; close f0")?;
    Ok(())
}

#[test]
fn the_engine_takes_as_many_faults_as_were_measured() {
    for table in [TABLE, MOVES] {
        let mut engine = Engine::new().unwrap();
        engine.begin().unwrap();
        carry_out(table, |step| Ok::<_, ()>(engine.step(step))).unwrap();
    }
}

/// None if the kernel finds no memory for so many pages.
fn on_the_kernel() -> Option<Result<(), Failure<KernelError>>> {
    let carried_out = || {
        let mut kernel = Kernel::take(Duration::from_secs(60)).map_err(Failure::Side)?;
        kernel.begin().map_err(Failure::Side)?;
        let done = carry_out(TABLE, |step| kernel.step(step));
        if done.is_err() && kernel.lacked_memory() {
            return Ok(false);
        }
        done?;
        kernel.end().map_err(Failure::Side)?;
        Ok(true)
    };
    match carried_out() {
        Ok(true) => Some(Ok(())),
        Ok(false) => None,
        Err(failure) => Some(Err(failure)),
    }
}

#[test]
fn the_running_kernel_takes_as_many_faults_as_were_measured() {
    // Not on a terminal that is captured: who runs the tests shall see that this one did nothing.
    let not_measured = |why: &dyn std::fmt::Display| {
        let _ = writeln!(std::io::stderr(), "not measured on the kernel: {why}");
    };
    // A fault may be the machine's: whatever it is busy with can take a page of code away that the measuring needs.
    let mut otherwise = Vec::new();
    for _ in 0..3 {
        match on_the_kernel() {
            Some(Ok(())) => return,
            None => return not_measured(&"it finds no memory for so many huge pages"),
            Some(Err(Failure::Side(error))) => return not_measured(&error),
            Some(Err(Failure::Otherwise(what))) => otherwise.push(what),
        }
    }
    panic!("{otherwise:#?}");
}
