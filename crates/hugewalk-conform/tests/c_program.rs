//! A program in C, compiled and run, prints what the kernel's side of the comparison has seen.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use hugewalk_conform::c_program::{of_program, printed};
use hugewalk_conform::kernel::{Kernel, KernelError, only_run};
use hugewalk_conform::program::{Places, Program, Step};

/// One of each kind of step, results and errors and signals.
const PROGRAMS: &[&str] = &[
    "pool 6; open f0 segment=4p; p0 attach f0 1g; p0 store 1g 7; p0 fork p1; p1 load 1g; p1 attach f0 1g; \
     p1 attach f0 1g+1p replace; p1 detach 1g; p1 detach 1g; open f1 segment=4p; open f1 segment=4p noreserve; \
     close f0; close f1; p1 load 1g+1p; p1 exit; p0 detach 1g; p0 exit",
    "pool 12; open f0 memory; truncate f0 4p; p0 map f0 at=1g length=4p rights=rw shared fixed; p0 store 1g 7; \
     p0 fork p1; p1 load 1g; p1 store 1g+1p+5 9; read f0 2097152 8; p0 peek p1 1g 8; p1 poke p0 1g+4 4 8; \
     p0 peek p3 1g 8; p0 peek p1 1g+2097150+3p 8; p0 poke p1 9g 1 1; p0 sweep 1g 4p; p0 mincore 1g 4p; \
     p0 nodes 1g+3p+4096 3p; p0 nodes 1g 6p moved; \
     punch f0 0 1p; p1 sweep 1g 4p; p0 protect 1g 1p none; p0 load 1g; p0 remap 1g+1p 2p 2p to=3g+5p; p0 load 1g+1p; \
     truncate f0 1p; p1 load 1g+2p; p1 advise 1g 1p dontneed; p1 exit; close f0; p0 unmap 1g+4096 1p; p0 exit",
    "pool 8; overcommit 1; mount m0 size=8; open f1 m0; allocate f1 0 1p; p0 map f1 at=1p length=3p rights=rw fixed; \
     p0 store 1p 1; p0 store 2p 2; p0 map fresh at=2g length=1p rights=rw noreplace; \
     p0 map fresh at=2g length=12p rights=rw fixed shared; p0 fork p2; p2 fork p3; p3 store 1p 3; p2 load 1p; p3 exit; \
     p2 exit; p0 exit; close f1; unmount m0; overcommit 0; pool 2",
    "pool 8; open f0 memory; truncate f0 6p; allocate f0 0 1p; p0 map f0 at=1g length=6p rights=rw shared fixed; \
     p0 uffd open; p0 uffd register 1g 6p missing+wp+minor; p0 load 1g; p0 uffd continue 1g 2p; p0 uffd continue 1g 1p; \
     p0 store 1g+1p 3; p0 uffd copy 1g+1p 2p 7; p0 load 1g+2p; p0 uffd copy 1g+3p 1p 8 wp; p0 store 1g+3p 4; \
     p0 uffd protect 1g 2p; p0 store 1g 5; p0 uffd unprotect 1g 4p; p0 store 1g 5; p0 uffd zero 1g+4p 1p; \
     p0 uffd wake 1g 1p; p0 uffd wake 1g 0; p0 uffd unregister 1g 2p; p0 uffd register 1g+4096 1p wp; p0 uffd2 open; \
     p0 uffd2 register 1g+3p 1p missing; p0 uffd2 unregister 1g+3p 1p; p0 uffd2 copy 1g+4p 1p 2; p0 uffd close; \
     p0 load 1g+4p; p0 exit; close f0",
    "pool 6; open f0 memory; truncate f0 4p; allocate f0 3p 1p; p0 map f0 at=1g length=4p rights=rw shared fixed; \
     p0 uffd open async; p0 uffd register 1g 4p wp+minor; p0 scan 1g 4p; p0 store 1g 1; p0 store 1g+1p 1; \
     p0 scan 1g 4p written protect; p0 store 1g 2; p0 scan 1g 4p written; p0 uffd poison 1g+2p 1p; p0 load 1g+2p; \
     p0 uffd poison 1g+1p 2p; p0 uffd continue-wp 1g+3p 1p; p0 scan 1g 4p; p0 uffd close; p0 scan 1g 4p check; p0 exit; close f0",
    "pool 6; open f0 memory; truncate f0 4p; p0 map f0 at=1g length=4p rights=rw shared fixed; p0 mlock 1g+4095 1p; \
     p0 mlock 1g+2p 1p onfault; p0 munlock 1g 4p; p0 mlock 1g+3p 2p; p0 mbind 1g+1p 2p bind:0; p0 mbind 1g 8p bind:0; \
     p0 mbind 1g 1p preferred:1; p0 mbind 1g 4p local; p0 mlockall; p0 map f0 at=3g length=4p rights=rw fixed; \
     p0 munlockall; p0 mlockall onfault; p0 fork p1; p1 map fresh at=5g length=1p rights=rw fixed; p1 exit; p0 exit; close f0",
];

fn on_the_kernel(program: &Program) -> Result<String, KernelError> {
    let mut kernel = Kernel::take(Duration::from_secs(60))?;
    kernel.step(&Step::Overcommit { pages: 0 })?;
    kernel.step(&Step::Pool { pages: 0 })?;
    kernel.begin()?;
    let mut text = String::new();
    for step in &program.steps {
        let (outcome, faults) = kernel.step(step)?;
        let seen = kernel.observe(&Places::default(), outcome, faults)?;
        text += &format!("{}\n", printed(&seen.outcome, seen.faults, seen.pool));
    }
    kernel.end()?;
    Ok(text)
}

fn compiled(program: &Program, name: &str) -> std::path::PathBuf {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, binary) = (folder.join(format!("{name}.c")), folder.join(name));
    std::fs::write(&source, of_program(program)).unwrap();
    let cc = Command::new("cc")
        .args(["-O1", "-Wall", "-Werror", "-o"])
        .arg(&binary)
        .arg(&source)
        .output()
        .unwrap();
    assert!(cc.status.success(), "{}", String::from_utf8_lossy(&cc.stderr));
    binary
}

#[test]
fn it_compiles_without_a_warning_and_prints_what_the_kernels_side_has_seen() {
    for (number, text) in PROGRAMS.iter().enumerate() {
        let program: Program = text.parse().unwrap();
        let binary = compiled(&program, &format!("program{number}"));
        // What a fault costs, and when pages of a process that has ended come back, is also up to what else the machine does.
        let mut differing = Vec::new();
        while differing.len() < 3 {
            let expected = match on_the_kernel(&program) {
                Ok(expected) => expected,
                Err(error) => {
                    let _ = writeln!(std::io::stderr(), "compiled, but not run on the kernel: {error}");
                    break;
                }
            };
            // The program in C asks nobody whether it may.
            let Ok(_only) = only_run() else { break };
            let ran = Command::new(&binary).output().unwrap();
            let printed = String::from_utf8(ran.stdout).unwrap();
            // After the last step it shows all there is; that is more than is asked for here.
            let lines: Vec<_> = printed.lines().take(expected.lines().count()).map(str::to_owned).collect();
            let expected: Vec<_> = expected.lines().map(str::to_owned).collect();
            if lines == expected {
                differing.clear();
                break;
            }
            differing.push((lines, expected));
        }
        assert!(differing.is_empty(), "{text}: {differing:#?}");
    }
}
