//! Real threads on the whole engine: processors load and store, while others fork, map, unmap, protect, move, truncate,
//! punch holes, resize the pool and exit. Each word says whose it is, where it belongs and when it was written, so that a
//! load tells what went wrong.
//!
//! `STRESS_SEED`, `STRESS_SECONDS` and `STRESS_THREADS` (at most 8) choose the run. The seed decides what each thread
//! does; in which order they get at it is up to the machine.

#[path = "stress/access.rs"]
mod access;
#[path = "stress/filing.rs"]
mod filing;
#[path = "stress/layout.rs"]
mod layout;
#[path = "stress/ledger.rs"]
mod ledger;
#[path = "stress/process.rs"]
mod process;
#[path = "stress/tag.rs"]
mod tag;
#[path = "stress/watchdog.rs"]
mod watchdog;
#[path = "stress/world.rs"]
mod world;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use hugewalk::Task;
use hugewalk::arch::{Aarch64, AnyPaging, Granule, Riscv64, Sv, X86_64};
use hugewalk::mm::TableUse;
use hugewalk_host::Cpu;

use crate::access::{Place, Writer};
use crate::process::{Process, Processes, REGIONS};
use crate::tag::{Random, WRITERS};
use crate::watchdog::Progress;
use crate::world::{Host, World};

/// Threads run so long before all of them stop and the tables are looked at.
const ROUND: Duration = Duration::from_millis(1500);
/// A thread that takes longer for one step waits for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// Live processes, at most.
const PROCESSES: usize = 6;
/// Accesses by a thread before it looks for another process.
const ACCESSES: usize = 60;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

#[test]
fn every_load_finds_what_the_stores_before_it_left() {
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let seed = setting("STRESS_SEED").unwrap_or_else(clock);
    let seconds = setting("STRESS_SECONDS").unwrap_or(4);
    let threads = setting("STRESS_THREADS").map_or(5, |threads| threads as usize).clamp(1, WRITERS);
    println!("STRESS_SEED={seed} STRESS_SECONDS={seconds} STRESS_THREADS={threads}");
    let world = World::new(X86_64::FOUR_LEVELS.into(), !seed.is_multiple_of(4), true);
    run(world, seed, Duration::from_secs(seconds), threads, ROUND);
}

/// The same on the tables of the other processors, some of which leave it to software to note what was used.
#[test]
fn every_load_finds_what_the_stores_before_it_left_on_tables_of_each_format() {
    let arm = |granule, bits| AnyPaging::from(Aarch64::new(granule, bits).unwrap().with_memory_type(1));
    let formats = [
        (X86_64::FIVE_LEVELS.encrypted(47).unwrap().into(), true),
        (arm(Granule::K4, 48), true),
        (arm(Granule::K16, 36), false),
        (arm(Granule::K64, 48), true),
        (Riscv64::new(Sv::Sv39).into(), false),
        (Riscv64::new(Sv::Sv48).with_svnapot().into(), true),
    ];
    let seed = setting("STRESS_SEED").unwrap_or(7);
    for (paging, notes_use) in formats {
        println!("STRESS_SEED={seed} {paging:?}");
        run(World::new(paging, true, notes_use), seed, Duration::ZERO, 4, Duration::from_millis(700));
    }
}

fn run(world: World, seed: u64, length: Duration, threads: usize, lasts: Duration) {
    let end = Instant::now() + length;
    let mut writers: Vec<_> = (0..threads).map(|number| Writer { number, sequence: 0 }).collect();
    let (mut round, mut steps) = (0, 0);
    while round == 0 || Instant::now() < end {
        let progress: Vec<_> = writers.iter().map(|_| Progress::default()).collect();
        world.stop.store(false, SeqCst);
        thread::scope(|scope| {
            for (writer, progress) in writers.iter_mut().zip(&progress) {
                let stream = (round << 8) + writer.number as u64;
                let (world, random) = (&world, Random::new(seed, stream));
                scope.spawn(move || Worker::new(world, random, progress, writer).run());
            }
            scope.spawn(|| {
                thread::sleep(lasts);
                world.stop.store(true, SeqCst);
            });
            watchdog::watch(&progress, PATIENCE);
        });
        look_at_tables(&world);
        round += 1;
        steps += progress.iter().map(Progress::steps).sum::<u64>();
    }
    println!("{round} rounds, {steps} steps, {} processes", world.fresh_process());
    world.end();
}

/// While everybody is at rest: a table that says it has so many users has them.
fn look_at_tables(world: &World) {
    let mut task = hugewalk_host::task(&world.hugetlb).unwrap();
    // The next operation unmaps a process that was dropped by its last thread. There may have been none since.
    task.finish_drops();
    let mut users: HashMap<u64, (u64, Vec<TableUse>)> = HashMap::new();
    for process in world.processes.lock().unwrap().iter() {
        for table in process.space.tables(&mut task).unwrap() {
            let (counted, uses) = users.entry(table.identity).or_default();
            *counted = table.users;
            uses.push(table);
        }
    }
    for (counted, uses) in users.values() {
        assert_eq!(*counted, uses.len() as u64, "a table has other users than it counts: {uses:?}");
    }
    task.rcu_barrier();
    assert_eq!(world::pending(&world.hugetlb), 0);
}

/// One thread.
struct Worker<'w> {
    world: &'w World,
    random: Random,
    progress: &'w Progress,
    writer: &'w mut Writer,
    task: Task<Host>,
}

/// Stops everybody when a thread fails, and tells the watchdog that it has left.
struct Leaving<'w>(&'w World, &'w Progress);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop.store(true, SeqCst);
        }
        self.1.leave();
    }
}

impl<'w> Worker<'w> {
    fn new(world: &'w World, random: Random, progress: &'w Progress, writer: &'w mut Writer) -> Self {
        let task = hugewalk_host::task(&world.hugetlb).unwrap();
        Self { world, random, progress, writer, task }
    }

    fn run(&mut self) {
        let _leaving = Leaving(self.world, self.progress);
        while !self.world.stopped() {
            if self.random.one_in(12) {
                self.progress.begin(15, 0, 0);
                self.populate_or_depopulate();
                self.progress.end();
            }
            let process = {
                let processes = self.world.processes.lock().unwrap();
                if processes.is_empty() {
                    None
                } else {
                    processes.get(self.random.below(processes.len())).cloned()
                }
            };
            if let Some(process) = process {
                self.use_process(&process);
            } else {
                self.begin_process();
            }
        }
    }

    /// Forks, begins or ends a process.
    fn populate_or_depopulate(&mut self) {
        let processes: Processes = self.world.processes.lock().unwrap().clone();
        if processes.is_empty() || self.random.one_in(12) {
            self.begin_process();
        } else if processes.len() < PROCESSES {
            let parent = &processes[self.random.below(processes.len())];
            let child = Arc::new(parent.fork(self.world, &mut self.task));
            self.world.processes.lock().unwrap().push(child);
        } else {
            let gone = {
                let mut processes = self.world.processes.lock().unwrap();
                if processes.is_empty() {
                    return;
                }
                let number = self.random.below(processes.len());
                processes.swap_remove(number)
            };
            // Or it ends with the last thread that uses it.
            if !self.random.one_in(4) {
                gone.exit(&mut self.task);
            }
        }
    }

    fn begin_process(&mut self) {
        let process = Process::new(self.world);
        for region in 0..REGIONS {
            layout::map(self.world, &process, region, &mut self.task, &mut self.random);
        }
        self.world.processes.lock().unwrap().push(Arc::new(process));
    }

    /// Accesses a process's memory on a processor of its own, and disturbs it now and then.
    fn use_process(&mut self, process: &Process) {
        let Self { world, random, progress, writer, task } = self;
        let mut cpu = Cpu::new(&process.space).unwrap();
        for _ in 0..ACCESSES {
            if world.stopped() {
                return;
            }
            let place = Place::random(world, process, random);
            let (region, store) = (place.region(), random.one_in(2));
            progress.begin(1 + usize::from(store), process.id, region);
            if store {
                place.store(&mut cpu, task, writer);
            } else {
                place.load(&mut cpu, task, random);
            }
            progress.end();
            if random.one_in(12) {
                disturb(world, process, task, random, writer, progress);
                progress.end();
            }
        }
    }
}

fn disturb(
    world: &World,
    process: &Process,
    task: &mut Task<Host>,
    random: &mut Random,
    writer: &mut Writer,
    progress: &Progress,
) {
    let region = random.below(REGIONS);
    let number = random.below(world.files.len());
    let file = &world.files[number];
    let step = [3, 3, 4, 5, 5, 6, 7, 7, 7, 8, 9, 10, 11, 12, 13, 14][random.below(16)];
    let place = if step > 8 { number } else { region };
    progress.begin(step, process.id, place);
    match step {
        3 => layout::map(world, process, region, task, random),
        4 => layout::unmap(world, process, region, task),
        5 => layout::protect(world, process, region, task, random),
        6 => layout::relocate(process, region, task),
        7 => layout::advise(world, process, region, task, random),
        8 => filing::remove(world, process, region, task, random),
        9 => filing::truncate(world, file, task, random),
        10 => filing::punch(world, file, task, random),
        11 => filing::allocate(file, task, random),
        12 => filing::write(file, task, writer, random),
        13 => filing::read(file, random),
        _ => filing::resize(world, random),
    }
}
