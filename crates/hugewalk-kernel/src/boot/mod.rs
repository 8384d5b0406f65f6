//! The start and the end of a run: from the boot loader's words to the first program, and from its end to the report.

mod acpi;
pub mod archive;
pub mod info;
pub mod settings;
mod smp;

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::arch::global_asm;
use core::fmt;

use hugewalk::addr::HugeSize;
use spin::{Mutex, Once};

use self::info::{Info, Range};
use self::settings::Settings;
use crate::console::report;
use crate::cpu::{self, apic, clock, port};
use crate::fs::{self, Descriptors, Place};
use crate::memory::{direct, frames, stack};
use crate::process::exec::{self, Start};
use crate::process::exit::{Status, end_group};
use crate::process::{self, Process};
use crate::report::{COUNTERS, End};
use crate::task::wait::WaitQueue;
use crate::{platform, task};

global_asm!(include_str!("pvh.s"), options(att_syntax));

unsafe extern "C" {
    static kernel_end: u8;
    static boot_pdpt: u8;
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

/// Where the start code comes to, with the physical address of the start info.
#[unsafe(no_mangle)]
extern "C" fn start(info: u64) -> ! {
    report(format_args!("hugewalk-kernel 1"));
    mask_old_interrupts();
    cpu::set_up(0);
    // SAFETY: what the PVH entry found in EBX.
    let Some(info) = (unsafe { Info::new(info) }) else {
        refuse(format_args!("the boot loader left no start info"))
    };
    let kernel = Range { start: 1 << 20, end: (&raw const kernel_end).addr() as u64 - 0xffff_ffff_8000_0000 };
    let archive = info.archive_range().unwrap_or(kernel);
    frames::set_up(info.memory(), &[kernel, archive]);
    map_above_4_gib();
    stack::set_up();
    if !clock::set_up() {
        refuse(format_args!("the machine has no HPET to tell the time by; use -machine q35 or pc"));
    }
    task::start_scheduling();
    apic::enable();
    cpu::note_apic_id();
    x86_64::instructions::interrupts::enable();
    let Some(archive) = info.archive() else {
        refuse(format_args!("there is no archive: give one by -initrd"))
    };
    ARCHIVE.call_once(|| archive);
    smp::start_others(&acpi::processors(info.rsdp()));
    match task::kernel_thread(first, 0) {
        Ok(thread) => task::begin(&thread),
        Err(_) => refuse(format_args!("there is no memory for the first thread")),
    }
    task::idle()
}

/// Programs the two old interrupt controllers to be silent: the timer behind them would arrive as an exception.
fn mask_old_interrupts() {
    for controller in [0x21, 0xa1] {
        // SAFETY: the controllers touch no memory.
        unsafe { port::write8(controller, 0xff) };
    }
}

/// The start code has mapped 4 GiB. The rest is mapped with leaves of 2 MiB.
fn map_above_4_gib() {
    let end = frames::end();
    for gib in 4..end.div_ceil(1 << 30) {
        let table = frames::allocate(frames::Kind::Kernel).expect("memory at the start");
        for index in 0..512 {
            let entry = direct::<u64>(table + 8 * index);
            // SAFETY: inside the frame that was just allocated. Frames below 4 GiB are handed out last, so it may lie above; then
            // it cannot be reached.
            unsafe { entry.write_volatile(gib << 30 | index << 21 | 0x83) };
        }
        let entry = direct::<u64>((&raw const boot_pdpt).addr() as u64 + 8 * gib);
        // SAFETY: an entry of the kernel's own table that is empty.
        unsafe { entry.write_volatile(table | 3) };
    }
}

/// The kernel's own thread: it starts the first program, waits for its end, and reports.
extern "C" fn first(_: u64) {
    let settings = match ARCHIVE.get().map(|archive| Settings::read(archive)) {
        Some(Ok(settings)) => settings,
        Some(Err(why)) => refuse(format_args!("{why}")),
        None => refuse(format_args!("there is no archive")),
    };
    if let Err(why) = begin(&settings) {
        refuse(format_args!("{why}"));
    }
    let status = ENDED.wait_uninterrupted(|| FIRST.lock().1);
    // What the program left running goes with it.
    for process in process::all() {
        end_group(&process, Status::Killed(9, false));
    }
    wait_for_the_rest();
    fs::end();
    settle();
    crate::report::finish(match status {
        Status::Exited(status) => End::Exit(status),
        Status::Killed(signal, _) => End::Signal(signal),
    });
}

fn begin(settings: &Settings) -> Result<(), String> {
    let no_memory = "the machine has too little memory".to_string();
    platform::set_up(settings.pool, settings.overcommit).map_err(|_| no_memory.clone())?;
    let pool = platform::hugetlb().pool(HugeSize::Size2M).counters().total;
    if pool < settings.pool {
        return Err(alloc::format!(
            "the machine has memory for {pool} huge pages, not for {}; give it more by --memory",
            settings.pool
        ));
    }
    COUNTERS.pages.add(pool);
    let archive = ARCHIVE.get().copied().unwrap_or_default();
    fs::begin(archive)
        .map_err(|error| alloc::format!("the archive cannot be unpacked: error {}", error.0))?;
    let place =
        Place::of(settings.cwd.as_bytes()).map_err(|_| alloc::format!("{}: no such folder", settings.cwd))?;
    let files = Arc::new(Descriptors::new());
    fs::open_console(&files);
    let program = settings.program.clone();
    let image =
        fs::program(program.as_bytes()).map_err(|_| alloc::format!("{program}: not in the archive"))?;
    if settings.without_flush {
        platform::left_out::leave_out_flush();
    }
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
    started.map_err(|_| alloc::format!("{}: not a static program for x86-64", settings.program))
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

/// Waits until all threads of programs are gone, 10 s at most.
fn wait_for_the_rest() {
    let deadline = clock::now() + 10_000_000_000;
    while task::tasks() > 0 && clock::now() < deadline {
        task::park_until(Some(clock::now() + 1_000_000));
        task::yield_now();
    }
}

/// Finishes what dropped values left to the engine.
fn settle() {
    if let Ok(mut task) = task::current().task() {
        task.finish_drops();
        task.rcu_barrier();
    }
}
