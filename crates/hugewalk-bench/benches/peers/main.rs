//! hugewalk beside its peers, in one run:
//!
//! ```console
//! $ cargo bench --manifest-path crates/hugewalk-bench/Cargo.toml
//! ```
//!
//! `-- --samples=N` takes another number of samples, `-- --quick` sees that all of it runs, and words select groups by their titles.

mod ground;
mod locks;
mod maps;
mod multiarch;
mod sections;
mod walks;

use std::error::Error;
use std::process::ExitCode;

use hugewalk_bench::{Effort, machine};

fn run() -> Result<(), Box<dyn Error>> {
    let effort = Effort::new(std::env::args().skip(1))?;
    let out = &mut std::io::stdout();
    println!("{}", machine());
    println!(
        "processor time; medians of {} samples taken in turn, and half of the samples lie within the spread",
        effort.samples
    );
    walks::report(&effort, out)?;
    maps::report(&effort, out)?;
    sections::report(&effort, out)?;
    locks::report(&effort, out)?;
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::from(2)
        }
    }
}
