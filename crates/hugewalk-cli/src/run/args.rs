//! The command line of `hugewalk run`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::arch::Arch;
use crate::args::seconds;

/// What stands behind the options in the help.
const RUNNING: &str = "\
Examples:
  hugewalk run ./map_hugetlb
  hugewalk run --cpus 4 --pool 600 ./hugepage-mremap 1024
  hugewalk run --file /bin/busybox=/bin/sh ./hugetlb-soft-offline
  hugewalk run --trace --report none ./thuge-gen 2> thuge-gen.strace

Exit status:
  the program's own, or 128 and the number of the signal that ended it; else
  2    the command line is wrong
  124  the program was still running at the end of --timeout
  125  it could not be run: no QEMU, no static program for the processors, something the kernel refuses, a fault in the kernel; one line
       on standard error says which";

/// `hugewalk run`
#[derive(Debug, Args)]
#[command(after_help = RUNNING, after_long_help = RUNNING)]
#[command(override_usage = "hugewalk run [OPTIONS] PROGRAM [ARGS]...")]
pub struct RunArgs {
    /// The program, a static executable of Linux, and its arguments; all that follows it is the program's
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM [ARGS]")]
    pub command: Vec<OsString>,

    /// Processors
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: u32,

    /// Memory, as in 512M or 2G [default: 1G, or as much more as the pool needs]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,

    /// Huge pages of 2 MiB in the pool
    #[arg(long, value_name = "PAGES", default_value_t = 256, value_parser = clap::value_parser!(u64).range(..=1 << 20))]
    pub pool: u64,

    /// Surplus pages that the pool may take beyond that
    #[arg(long, value_name = "PAGES", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1 << 20))]
    pub overcommit: u64,

    /// A variable of the program's environment, which is empty otherwise; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    pub env: Vec<String>,

    /// A file or a folder for the program to find, at GUEST or else at the same path; may be repeated
    #[arg(long, value_name = "HOST[=GUEST]")]
    pub file: Vec<OsString>,

    /// The program's working directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub cwd: PathBuf,

    /// End the run after so long
    #[arg(long, value_name = "SECONDS", default_value_t = 300.0, value_parser = seconds)]
    pub timeout: f64,

    /// The locking protocol to follow, by its name in `hugewalk check --list` [default: the engine's own, hugewalk]
    #[arg(long, value_name = "NAME")]
    pub protocol: Option<String>,

    /// A step of the protocol to leave out, as in `hugewalk check`; may be repeated
    #[arg(long, value_name = "STEP")]
    pub without: Vec<String>,

    /// Print each system call on standard error, in strace's form
    #[arg(long)]
    pub trace: bool,

    /// How to print the report, on standard error
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub report: ReportFormat,

    /// What carries the processors: tcg shows stale TLB entries and runs anywhere; icount is tcg with processors that take
    /// turns and a clock that counts instructions; kvm is faster where it is real
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub accel: Accel,

    /// The processors that the program is for
    #[arg(long, value_enum, ignore_case = true, default_value_t)]
    pub arch: Arch,

    /// The QEMU to boot [default: qemu-system-x86_64, or qemu-system-aarch64 for arm64]
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,

    /// The kernel's image [default: the one beside this command, or of the checkout, which is built when it has to be]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
}

/// How the report of a run is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReportFormat {
    /// For people
    #[default]
    Text,
    /// For programs, in one line; the schema is named in the field `schema`
    Json,
    /// Not at all
    None,
}

/// What carries the guest's processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// QEMU's translator
    #[default]
    Tcg,
    /// The same, one processor at a time: a nanosecond of the guest is an instruction
    Icount,
    /// The host's own processors
    Kvm,
}

/// Bytes, from `512M` or `2G`.
fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.strip_suffix(['G', 'g']) {
        Some(digits) => (digits, 30),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(""), 20),
    };
    match digits.parse::<u64>() {
        Ok(number) if number > 0 && number < 1 << 20 => Ok(number << shift),
        _ => Err("give a size, as in 512M or 2G".to_owned()),
    }
}

fn variable(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("give a name and a value, as in TERM=dumb".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(line: &str) -> Result<RunArgs, clap::Error> {
        match Cli::try_parse_from(line.split(' '))?.command {
            Command::Run(args) => Ok(args),
            _ => unreachable!("it is run"),
        }
    }

    #[test]
    fn what_follows_the_program_is_its_own() {
        let args = parsed("hugewalk run --cpus 4 ./gup_test -H --cpus 2 -- x").expect("right");
        assert_eq!(args.cpus, 4);
        assert_eq!(args.command, ["./gup_test", "-H", "--cpus", "2", "--", "x"]);
        assert!(parsed("hugewalk run --cpu 4 ./gup_test").is_err());
        assert!(parsed("hugewalk run --cpus 4").is_err());
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!((size("512M"), size("2G")), (Ok(512 << 20), Ok(2 << 30)));
        assert!(
            size("512").is_err() && size("0G").is_err() && size("1T").is_err() && size("99999999G").is_err()
        );
    }
}
