//! The start and the end of a run: from what the start code has found to the first program, and from its end to the report.

pub mod archive;
pub mod settings;

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt;

use spin::{Mutex, Once};

use self::settings::Settings;
use crate::arch::{self, controller, interrupts};
use crate::console::report;
use crate::cpu::{self, clock};
use crate::fs::{self, Descriptors, Place};
use crate::memory::{frames, stack};
use crate::process::exec::{self, Start};
use crate::process::exit::{Status, end_group};
use crate::process::{self, Process};
use crate::report::{COUNTERS, End};
use crate::space::active;
use crate::task::wait::WaitQueue;
use crate::{platform, task};

/// A range of physical memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// First byte behind it.
    pub end: u64,
}

/// What the archive holds, for the thread that starts the first program.
static ARCHIVE: Once<&'static [u8]> = Once::new();
/// The number of the first process, and how it ended.
static FIRST: Mutex<(u32, Option<Status>)> = Mutex::new((0, None));
static ENDED: WaitQueue = WaitQueue::new();

/// Says what cannot be done, and ends the run.
pub fn refuse(why: fmt::Arguments<'_>) -> ! {
    report(format_args!("refused {why}"));
    crate::console::end()
}

/// What the start code of the architecture found.
pub struct Found<Memory, Archive, Others> {
    /// Usable memory, in no particular order.
    pub memory: Memory,
    /// What of it is taken already.
    pub taken: [Range; 2],
    /// Finds the archive. Memory can be allocated.
    pub archive: Archive,
    /// Starts the other processors.
    pub others: Others,
}

/// Says that the kernel is there: the first line of the report.
pub fn announce() {
    report(format_args!("hugewalk-kernel 1"));
}

/// Where the start code comes to on the first processor, which is set up.
pub fn begin<M, A, O>(found: Found<M, A, O>) -> !
where
    M: Iterator<Item = Range>,
    A: FnOnce() -> Option<&'static [u8]>,
    O: FnOnce(),
{
    frames::set_up(found.memory, &found.taken, arch::boot::MAPPED);
    arch::boot::map_all(frames::end());
    frames::use_all();
    stack::set_up();
    if let Err(why) = clock::set_up() {
        refuse(format_args!("{why}"));
    }
    task::start_scheduling();
    controller::enable();
    cpu::note_hardware_id();
    interrupts::enable();
    let Some(archive) = (found.archive)() else {
        refuse(format_args!("there is no archive: {}", arch::boot::ARCHIVE_HINT))
    };
    ARCHIVE.call_once(|| archive);
    (found.others)();
    match task::kernel_thread(first, 0) {
        Ok(thread) => task::begin(&thread),
        Err(_) => refuse(format_args!("there is no memory for the first thread")),
    }
    task::idle()
}

/// The kernel's own thread: it starts the first program, waits for its end, and reports.
extern "C" fn first(_: u64) {
    let settings = match ARCHIVE.get().map(|archive| Settings::read(archive)) {
        Some(Ok(settings)) => settings,
        Some(Err(why)) => refuse(format_args!("{why}")),
        None => refuse(format_args!("there is no archive")),
    };
    if let Err(why) = begin_program(&settings) {
        refuse(format_args!("{why}"));
    }
    let status = ENDED.wait_uninterrupted(|| FIRST.lock().1);
    end_the_rest();
    fs::end();
    settle();
    crate::report::finish(match status {
        Status::Exited(status) => End::Exit(status),
        Status::Killed(signal, _) => End::Signal(signal),
    });
}

fn begin_program(settings: &Settings) -> Result<(), String> {
    settings.protocol.choose()?;
    let no_memory = "the machine has too little memory".to_string();
    platform::set_up(settings.pool, settings.overcommit).map_err(|_| no_memory.clone())?;
    let pool = platform::hugetlb().pool(arch::SIZE_2M).counters().total;
    if pool < settings.pool {
        return Err(alloc::format!(
            "the machine has memory for {pool} huge pages, not for {}; give it more by --memory",
            settings.pool
        ));
    }
    COUNTERS.pages.add(pool);
    let archive = ARCHIVE.get().copied().unwrap_or_default();
    fs::begin(archive).map_err(|why| alloc::format!("the archive cannot be unpacked: {why}"))?;
    let place =
        Place::of(settings.cwd.as_bytes()).map_err(|_| alloc::format!("{}: no such folder", settings.cwd))?;
    let files = Arc::new(Descriptors::new());
    fs::open_console(&files);
    let program = settings.program.clone();
    let image =
        fs::program(program.as_bytes()).map_err(|_| alloc::format!("{program}: not in the archive"))?;
    if settings.trace {
        crate::trace::start();
    }
    let process = Process::first(files, place).map_err(|_| no_memory)?;
    FIRST.lock().0 = process.pid;
    let start = Start {
        path: program,
        arguments: settings.arguments.clone(),
        environment: settings.environment.clone(),
    };
    let started = exec::start_first(&process, &image, &start);
    started.map_err(|_| alloc::format!("{}: not a static program for {}", settings.program, arch::TITLE))
}

/// A process has ended.
pub fn ended(pid: u32, status: Status) {
    {
        let mut first = FIRST.lock();
        if first.0 != pid {
            return;
        }
        first.1 = Some(status);
    }
    ENDED.wake_all();
}

/// What the program left running goes with it. Waits until all threads are gone, and no processor has the root of one loaded, 10 s
/// at most.
fn end_the_rest() {
    let deadline = clock::now() + 10_000_000_000;
    while (task::tasks() > 0 || !active::others_have_let_go()) && clock::now() < deadline {
        // Each time: one of them may have been about to fork.
        for process in process::all() {
            end_group(&process, Status::Killed(9, false));
        }
        task::park_until(Some(clock::now() + 1_000_000));
        task::yield_now();
    }
    // What this thread runs on, which is nobody's any more.
    active::let_go();
}

/// Finishes what dropped values left to the engine.
fn settle() {
    if let Ok(mut task) = task::current().task() {
        task.finish_drops();
        task.rcu_barrier();
    }
}
