//! A program as a program in C, to be compiled anywhere: it does on the kernel what the steps say, with processes of its
//! own, and prints what came of each.

use std::fmt::Write;

use crate::observe::{Outcome, Pool, Residency, nodes_line};
use crate::program::{Advice, Call, FileKind, Handling, Map, MapFlags, OnRange, Program, Rights, Step, To};
use crate::run::{Ran, Report};

/// What every such program has.
const FRAME: &str = include_str!("c_program/frame.c");

/// The steps of a run that were carried out, as a program in C; what the engine answered stands beside each.
#[must_use]
pub fn of_report(report: &Report) -> String {
    let done = report.steps.iter().filter_map(|(step, ran)| match ran {
        Ran::Done { engine, .. } => Some((step, format!("the engine: {engine}"))),
        Ran::Idle | Ran::Guarded(_) => None,
    });
    source(done)
}

/// A program as one in C. All its steps have to name what is there.
#[must_use]
pub fn of_program(program: &Program) -> String {
    source(program.steps.iter().map(|step| (step, String::new())))
}

/// What the program in C prints for a step that came to this.
#[must_use]
pub fn printed(outcome: &Outcome, faults: Option<u64>, pool: Pool) -> String {
    let mut line = match outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Number(number) => number.to_string(),
        Outcome::Bytes(bytes) => {
            bytes.iter().fold("bytes".to_owned(), |all, byte| format!("{all} {byte:02x}"))
        }
        Outcome::Elsewhere => "elsewhere".to_owned(),
        Outcome::Resident(pages) => pages.iter().fold("resident".to_owned(), |all, page| {
            let word = match page {
                Residency::Unmapped | Residency::Absent => "no",
                Residency::Resident => "yes",
                Residency::Mixed => "mixed",
            };
            format!("{all} {word}")
        }),
        Outcome::Nodes(nodes) => nodes_line(nodes),
        Outcome::Scanned { regions, end } => {
            let line = regions.iter().fold("scanned".to_owned(), |all, region| {
                format!("{all} +{:#x} +{:#x} {:#x}", region.start.0, region.end.0, region.categories)
            });
            end.map_or(line.clone(), |end| format!("{line} ended +{:#x}", end.0))
        }
        Outcome::Error(name) => (*name).to_owned(),
        Outcome::Stopped { error, after } => format!("{error} after {}", after.0),
        Outcome::Signal { signal, code, at, after } => {
            let at = at.map_or(0, |at| at.0);
            format!("{signal} {code} at +{at:#x} after {after}")
        }
    };
    if let (Outcome::Done | Outcome::Number(_), Some(faults)) = (outcome, faults) {
        // What is written cannot fail: it is a string.
        let _ = write!(line, ", {faults} faults");
    }
    format!("{line}\n    pool {pool}")
}

fn source<'s>(steps: impl Iterator<Item = (&'s Step, String)>) -> String {
    let mut text = FRAME.to_owned();
    let (mut who, mut calls) = (String::new(), String::new());
    for (number, (step, note)) in steps.enumerate() {
        let process = match step {
            Step::In { process, .. } => process.to_string(),
            _ => "KEEPER".to_owned(),
        };
        let comment = if note.is_empty() { String::new() } else { format!(" // {note}") };
        // What is written cannot fail: it is a string.
        let _ = write!(who, "{process}, ");
        let _ = writeln!(
            calls,
            "    case {number}: // {step}\n        {}\n        break;{comment}",
            statement(step)
        );
    }
    let _ = write!(
        text,
        "\nstatic const int who[] = {{{who}-1}};\n\nstatic void step(int number) {{\n    switch (number) {{\n{calls}    }}\n}}\n{MAIN}"
    );
    text
}

/// The end of every such program.
const MAIN: &str = "
int main(void) {
    const int steps = sizeof who / sizeof *who - 1;
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    signal(SIGCHLD, SIG_IGN);
    alarm(60);
    all = mmap(NULL, sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    long pages = pool(\"nr_hugepages\", -1), more = pool(\"nr_overcommit_hugepages\", -1);
    pool(\"nr_overcommit_hugepages\", 0);
    pool(\"nr_hugepages\", 0);
    // Segments go with the last process that has this namespace.
    if (unshare(CLONE_NEWIPC) == -1) perror(\"unshare\"), exit(1);
    child(0);
    for (int number = 0; number < steps; number++) {
        if (who[number] == me) {
            await(2 * number);
            step(number);
            fflush(stdout);
            // A child that was forked just now goes on with the next step.
            if (who[number] == me) all->turn++;
        }
        if (me == KEEPER) {
            await(2 * number + 1);
            look(number == steps - 1);
            all->turn++;
        }
    }
    if (me != KEEPER) for (;;) pause();
    for (int process = PROCESSES - 1; process >= 0; process--) {
        pid_t pid = all->pid[process];
        if (pid != 0) kill(pid, SIGKILL);
        while (pid != 0 && kill(pid, 0) == 0) usleep(50);
    }
    for (int number = 0; number < 3; number++) if (all->segment[number] != 0) closed(number);
    for (int fd = MOUNT; fd < FILE_ + 3; fd++) close(fd);
    pool(\"nr_overcommit_hugepages\", more);
    pool(\"nr_hugepages\", pages);
}
";

fn file(number: usize) -> String {
    format!("FILE_ + {number}")
}

fn limit(pages: Option<u64>) -> String {
    pages.map_or("-1".to_owned(), |pages| pages.to_string())
}

fn statement(step: &Step) -> String {
    match *step {
        Step::Pool { pages } => format!(
            "pool(\"nr_hugepages\", {pages});\n        \
             printf(\"%ld\\n\", pool(\"nr_hugepages\", -1) - pool(\"surplus_hugepages\", -1));"
        ),
        Step::Overcommit { pages } => format!("pool(\"nr_overcommit_hugepages\", {pages}), done(0);"),
        Step::Mount { mount, size, min } => {
            format!("done(limited(MOUNT + {mount}, {}, {}));", limit(size), limit(min))
        }
        Step::Unmount { mount } => format!("done(close(MOUNT + {mount}));"),
        Step::Open { file: number, kind: FileKind::Memory } => {
            format!("done(moved(memfd_create(\"file\", MFD_2MB), {}));", file(number))
        }
        Step::Open { file: number, kind: FileKind::On { mount } } => {
            format!(
                "done(moved(openat(MOUNT + {mount}, \".\", O_TMPFILE | O_RDWR, 0600), {}));",
                file(number)
            )
        }
        Step::Open { file: number, kind: FileKind::Segment { length, reserve } } => {
            let flags = if reserve { "" } else { " | SHM_NORESERVE" };
            format!(
                "done((all->segment[{number}] = shmget(IPC_PRIVATE, {:#x}, SHM_2MB{flags}) + 1) == 0 ? -1 : 0);",
                length.0
            )
        }
        Step::Close { file: number } => format!("done(closed({number}));"),
        Step::Truncate { file: number, size } => format!("done(ftruncate({}, {:#x}));", file(number), size.0),
        Step::Allocate { file: number, from, length, keep } => {
            let mode = if keep { "FALLOC_FL_KEEP_SIZE" } else { "0" };
            format!("done(fallocate({}, {mode}, {:#x}, {:#x}));", file(number), from.0, length.0)
        }
        Step::Punch { file: number, from, length } => {
            let mode = "FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE";
            format!("done(fallocate({}, {mode}, {:#x}, {:#x}));", file(number), from.0, length.0)
        }
        Step::Read { file: number, from, length } => {
            format!("shown({}, {:#x}, {length});", file(number), from.0)
        }
        Step::Write { file: number, at, value } => {
            format!("done(pwrite({}, &(char){{{value}}}, 1, {:#x}) == 1 ? 0 : -1);", file(number), at.0)
        }
        Step::In { ref call, .. } => in_process(call),
    }
}

fn in_process(call: &Call) -> String {
    match *call {
        Call::Map(ref map) => mapping(map),
        Call::Attach { file, at, replace } => {
            let flags = if replace { "SHM_REMAP" } else { "0" };
            let at = at.0;
            format!("done(shmat(all->segment[{file}] - 1, AT({at:#x}), {flags}) == (void *)-1 ? -1 : 0);")
        }
        Call::Detach { at } => format!("done(shmdt(AT({:#x})));", at.0),
        Call::Unmap { at, length } => format!("done(munmap(AT({:#x}), {:#x}));", at.0, length.0),
        Call::Protect { at, length, rights } => {
            format!("done(mprotect(AT({:#x}), {:#x}, {}));", at.0, length.0, protection(rights))
        }
        Call::Remap { at, length, kept, to } => {
            let to = match to {
                To::InPlace => "0".to_owned(),
                To::Anywhere => "MREMAP_MAYMOVE".to_owned(),
                To::Fixed(to) => format!("MREMAP_MAYMOVE | MREMAP_FIXED, AT({:#x})", to.0),
            };
            let (at, length, kept) = (at.0, length.0, kept.0);
            format!("done(mremap(AT({at:#x}), {length:#x}, {kept:#x}, {to}) == MAP_FAILED ? -1 : 0);")
        }
        Call::Advise { at, length, advice } => {
            let advice = match advice {
                Advice::DontNeed => "MADV_DONTNEED",
                Advice::Remove => "MADV_REMOVE",
                Advice::PopulateRead => "MADV_POPULATE_READ",
                Advice::PopulateWrite => "MADV_POPULATE_WRITE",
                Advice::DontDump => "MADV_DONTDUMP",
                Advice::DoDump => "MADV_DODUMP",
                Advice::DontFork => "MADV_DONTFORK",
                Advice::DoFork => "MADV_DOFORK",
                Advice::Normal => "MADV_NORMAL",
                Advice::Random => "MADV_RANDOM",
                Advice::Sequential => "MADV_SEQUENTIAL",
                Advice::WillNeed => "MADV_WILLNEED",
                Advice::Cold => "MADV_COLD",
                Advice::PageOut => "MADV_PAGEOUT",
                Advice::Free => "MADV_FREE",
                Advice::WipeOnFork => "MADV_WIPEONFORK",
                Advice::KeepOnFork => "MADV_KEEPONFORK",
            };
            format!("done(madvise(AT({:#x}), {:#x}, {advice}));", at.0, length.0)
        }
        Call::Fork { child } => format!("child({child});"),
        Call::Exit => "leave();".to_owned(),
        Call::Load { at } => format!("touch({:#x}, 1, -1, 0);", at.0),
        Call::Store { at, value } => format!("touch({:#x}, 1, {value}, 0);", at.0),
        Call::Sweep { at, length } => format!("touch({:#x}, {:#x}, -1, 1);", at.0, length.0),
        Call::Peek { of, at, length } => format!("peek({of}, {:#x}, {length});", at.0),
        Call::Poke { of, at, length, value } => format!("poke({of}, {:#x}, {length}, {value});", at.0),
        Call::Mincore { at, length } => format!("resident({:#x}, {:#x});", at.0, length.0),
        Call::Nodes { at, length, moved } => {
            format!("nodes({:#x}, {:#x}, {});", at.0, length.0, u8::from(moved))
        }
        Call::Scan { at, length, written, protect, check } => {
            let flags = u8::from(protect) | u8::from(check) << 1;
            format!("scan({:#x}, {:#x}, {}, {flags});", at.0, length.0, u8::from(written) << 1)
        }
        Call::Lock { at, length, on_fault: false } => {
            format!("done(mlock(AT({:#x}), {:#x}));", at.0, length.0)
        }
        Call::Lock { at, length, on_fault: true } => {
            format!("done(mlock2(AT({:#x}), {:#x}, MLOCK_ONFAULT));", at.0, length.0)
        }
        Call::Unlock { at, length } => format!("done(munlock(AT({:#x}), {:#x}));", at.0, length.0),
        Call::LockNew { on_fault } => {
            format!("done(mlockall(MCL_FUTURE{}));", if on_fault { " | MCL_ONFAULT" } else { "" })
        }
        Call::UnlockAll => "done(munlockall());".to_owned(),
        Call::Bind { at, length, policy } => {
            let (at, length, mode, nodes) = (at.0, length.0, policy.mode as u8, policy.nodes);
            format!(
                "done(syscall(SYS_mbind, AT({at:#x}), {length:#x}, {mode}, &(long){{{nodes}}}, 65, 0)); // {policy}"
            )
        }
        Call::Userfault { handler, ref handling } => handled(handler, handling),
    }
}

fn handled(handler: usize, handling: &Handling) -> String {
    let fd = format!("HANDLER({handler})");
    match *handling {
        Handling::Open { asynchronous } => {
            format!("done(moved(handler({}), {fd}));", if asynchronous { "1 << 15" } else { "0" })
        }
        Handling::Close => format!("done(close({fd}));"),
        Handling::Register { at, length, modes } => {
            format!("registered({fd}, {:#x}, {:#x}, {:#x});", at.0, length.0, modes.bits())
        }
        Handling::Copy { at, length, value, protected } => {
            let mode = if protected { "UFFDIO_COPY_MODE_WP" } else { "0" };
            format!("copied({fd}, {:#x}, {:#x}, {value}, {mode});", at.0, length.0)
        }
        Handling::On { at, length, what } => {
            let (at, length) = (at.0, length.0);
            let range = format!("{{WINDOW + {at:#x}, {length:#x}}}");
            match what {
                OnRange::Unregister => {
                    format!("done(ioctl({fd}, UFFDIO_UNREGISTER, &(struct uffdio_range){range}));")
                }
                OnRange::Wake => {
                    format!("done(ioctl({fd}, UFFDIO_WAKE, &(struct uffdio_range){range}));")
                }
                OnRange::Protect | OnRange::Unprotect => {
                    let mode = if what == OnRange::Protect { "UFFDIO_WRITEPROTECT_MODE_WP" } else { "0" };
                    format!(
                        "done(ioctl({fd}, UFFDIO_WRITEPROTECT, &(struct uffdio_writeprotect){{{range}, {mode}}}));"
                    )
                }
                OnRange::Continue => format!("continued({fd}, {at:#x}, {length:#x}, 0);"),
                OnRange::ContinueProtected => format!("continued({fd}, {at:#x}, {length:#x}, 2);"),
                OnRange::Poison => format!("poisoned({fd}, {at:#x}, {length:#x});"),
                OnRange::Zero => format!("zeroed({fd}, {at:#x}, {length:#x});"),
            }
        }
    }
}

fn mapping(map: &Map) -> String {
    let has = |flag| map.flags.contains(flag);
    let mut flags = "MAP_HUGETLB".to_owned();
    for (set, name) in [
        (has(MapFlags::SHARED), " | MAP_SHARED"),
        (!has(MapFlags::SHARED), " | MAP_PRIVATE"),
        (has(MapFlags::FIXED), " | MAP_FIXED"),
        (has(MapFlags::NO_REPLACE), " | MAP_FIXED_NOREPLACE"),
        (has(MapFlags::NO_RESERVE), " | MAP_NORESERVE"),
        (has(MapFlags::POPULATE), " | MAP_POPULATE"),
        (has(MapFlags::LOCKED), " | MAP_LOCKED"),
        (map.file.is_none(), " | MAP_ANONYMOUS | MAP_2MB"),
    ] {
        if set {
            flags.push_str(name);
        }
    }
    let (fd, offset) = map.file.map_or(("-1".to_owned(), 0), |(number, offset)| (file(number), offset.0));
    let rights = protection(map.rights);
    format!("map({:#x}, {:#x}, {rights}, {flags}, {fd}, {offset:#x});", map.at.0, map.length.0)
}

fn protection(rights: Rights) -> String {
    let names = [(Rights::READ, "PROT_READ"), (Rights::WRITE, "PROT_WRITE"), (Rights::EXECUTE, "PROT_EXEC")];
    let set: Vec<_> =
        names.into_iter().filter(|(right, _)| rights.contains(*right)).map(|(_, name)| name).collect();
    if set.is_empty() { "PROT_NONE".to_owned() } else { set.join(" | ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::PAGE;

    #[test]
    fn the_frame_is_written_for_the_places_that_programs_have() {
        assert_eq!((crate::program::PROCESSES, crate::program::FILES, crate::program::MOUNTS), (4, 3, 2));
        assert_eq!((PAGE, crate::program::WINDOW), (2 << 20, 1 << 45));
        assert_eq!(crate::program::WINDOW_SIZE, 16 << 30);
        assert!(FRAME.contains("#define PROCESSES 4\n") && FRAME.contains("file < 3"));
    }

    #[test]
    fn what_the_engine_answered_stands_beside_its_step() {
        let step: Program = "pool 3".parse().unwrap();
        let ran = Ran::Done { kernel: Outcome::Number(3), engine: Outcome::Number(2) };
        let steps = vec![(step.steps[0].clone(), ran), (step.steps[0].clone(), Ran::Idle)];
        let text = of_report(&Report { steps, differences: Vec::new(), known: None, unsure: None });
        assert!(text.contains("case 0: // pool 3") && text.contains("// the engine: 2"));
        assert!(!text.contains("case 1:"));
    }
}
