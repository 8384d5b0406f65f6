//! `hugewalk inspect`: what running processes have in huge pages, and what their page tables cost.
//!
//! All of it is read from `/proc` and `/sys`; no process is stopped, and nothing is written there. Different files are read at
//! different moments: figures of a busy machine need not add up.

pub mod args;
mod notes;
mod prometheus;
pub mod report;
mod survey;
mod tables;
mod text;
mod watch;

use std::io::{self, Write};

use crate::proc::{self, Look, ProcError, Root};
use args::InspectArgs;
use report::{Report, Unseen};
use survey::{Seen, survey};

use crate::args::Format;
use crate::costs::{Costs, CostsError};
use crate::width;

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// `/proc` does not say.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// A process that was named is not there.
    #[error("there is no process {0}; hugewalk inspect without numbers looks at all there are")]
    NoProcess(u32),
    /// A process that was named may not be looked at.
    #[error("process {pid} ({command}) may not be looked at; run as root if it is another user's")]
    Forbidden {
        /// Its number.
        pid: u32,
        /// Its name.
        command: String,
    },
    /// The costs cannot be read.
    #[error(transparent)]
    Costs(#[from] CostsError),
    /// The report cannot be written.
    #[error("the report cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// Looks once, or again and again, and writes the report on standard output.
///
/// # Errors
///
/// [`InspectError`].
pub fn run(args: &InspectArgs) -> Result<(), InspectError> {
    let costs = Costs::load(args.costs.as_deref())?;
    let root = Root::new(&args.root)?;
    let mut asked = asked(&root, &args.pids)?;
    match args.watch {
        Some(seconds) => watch::watch(&root, asked, seconds, args.format, &costs),
        None => {
            let report = look(&root, &mut asked, true, &costs)?;
            let mut text = Vec::new();
            if args.prometheus {
                prometheus::write(&report, &mut text)?;
            } else {
                write(&report, args.format, &mut text)?;
            }
            match anstream::stdout().write_all(&text) {
                // Whoever reads has seen enough.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                written => Ok(written?),
            }
        }
    }
}

/// The processes that are asked for by number; none if all are.
fn asked(root: &Root, pids: &[u32]) -> Result<Option<Vec<u32>>, InspectError> {
    if pids.is_empty() {
        return Ok(None);
    }
    let process = |pid: &u32| root.process_of(*pid).ok_or(InspectError::NoProcess(*pid));
    let mut asked: Vec<u32> = pids.iter().map(process).collect::<Result<_, _>>()?;
    asked.sort_unstable();
    asked.dedup();
    Ok(Some(asked))
}

/// Looks at the processes that are asked for. Takes those that have ended off the list, unless this is the `first` look: then
/// they are an error, because nobody will see them.
fn look(
    root: &Root,
    asked: &mut Option<Vec<u32>>,
    first: bool,
    costs: &Costs,
) -> Result<Report, InspectError> {
    let pids = match asked {
        Some(pids) => pids.clone(),
        None => root.pids()?,
    };
    let (mut processes, mut unseen) = (
        Vec::new(),
        Unseen { by_root: proc::is_root(), hidden: root.hides_processes(), ..Unseen::default() },
    );
    for pid in pids {
        match root.look(pid)? {
            Look::Seen(process) => processes.push(process),
            Look::Gone => {
                if let Some(asked) = asked {
                    asked.retain(|other| *other != pid);
                    if first && asked.is_empty() {
                        return Err(InspectError::NoProcess(pid));
                    }
                }
            }
            Look::Forbidden { command, .. } if asked.is_some() => {
                return Err(InspectError::Forbidden { pid, command });
            }
            Look::Forbidden { hugetlb_kb, .. } => {
                unseen.processes += 1;
                unseen.with_huge_pages += u64::from(hugetlb_kb > 0);
                unseen.hugetlb_kb += hugetlb_kb;
            }
        }
    }
    Ok(survey(&Seen { asked: asked.clone(), processes, unseen, machine: root.machine()? }, costs))
}

fn write(report: &Report, format: Format, out: &mut Vec<u8>) -> io::Result<()> {
    match format {
        Format::Text => text::write(report, width::columns(), out),
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, report)?;
            out.write_all(b"\n")
        }
    }
}
