//! `/proc/PID`.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::str;
use core::sync::atomic::Ordering;

use super::super::file::Opened;
use super::super::folder::{Folder, Listing};
use super::super::inode::{Inode, Kind, Link};
use super::super::mounts::{self, Filesystem};
use super::super::text::Text;
use super::{maps, pages};
use crate::errno::{Errno, Result};
use crate::process::credentials::{self, Ids};
use crate::process::{self, INIT, Process};
use crate::task::{Thread, current};

/// The processes, by their numbers; and the one that looks, as `self`.
pub(super) struct Processes {
    filesystem: Arc<Filesystem>,
}

impl Processes {
    pub(super) fn new(filesystem: &Arc<Filesystem>) -> Arc<Self> {
        Arc::new(Self { filesystem: filesystem.clone() })
    }
}

fn number(name: &[u8]) -> Option<u32> {
    str::from_utf8(name).ok()?.parse().ok()
}

impl Listing for Processes {
    fn find(&self, name: &[u8]) -> Option<Arc<Inode>> {
        match name {
            b"self" => {
                let own = || Ok(current().process().pid.to_string());
                Some(link(&self.filesystem, own))
            }
            b"thread-self" => {
                let own = || Ok(format!("{}/task/{}", current().process().pid, current().tid));
                Some(link(&self.filesystem, own))
            }
            _ => {
                let process = process::find(number(name)?)?;
                Some(folder(&self.filesystem, &process, None))
            }
        }
    }

    fn names(&self) -> Vec<Vec<u8>> {
        let mut names: Vec<Vec<u8>> =
            process::all().iter().map(|process| process.pid.to_string().into_bytes()).collect();
        names.push(b"self".to_vec());
        names
    }
}

struct TextLink<F>(F);

impl<F: Fn() -> Result<String> + Send + Sync> Link for TextLink<F> {
    fn target(&self) -> Result<Vec<u8>> {
        Ok((self.0)()?.into_bytes())
    }
}

fn link(
    filesystem: &Arc<Filesystem>,
    target: impl Fn() -> Result<String> + Send + Sync + 'static,
) -> Arc<Inode> {
    Inode::new(filesystem, Kind::Link(Arc::new(TextLink(target))), 0o777)
}

/// The folder of a process, or of one of its threads. It is made anew whenever it is looked up.
fn folder(filesystem: &Arc<Filesystem>, process: &Arc<Process>, thread: Option<Arc<Thread>>) -> Arc<Inode> {
    let root = Folder::create(filesystem, 0o555);
    let place = |name: &str, text: fn(&Arc<Process>) -> Result<String>| {
        let process = process.clone();
        Text::new(move || text(&process)).place(&root, name);
    };
    place("maps", maps::maps);
    place("smaps", maps::smaps);
    place("numa_maps", maps::numa_maps);
    place("statm", statm);
    place("mounts", |_| Ok(mounts::text()));
    place("limits", |process| Ok(limits(&process.limits.lock())));
    place("cmdline", |process| Ok(String::from_utf8_lossy(&process.program.lock().1).into_owned()));
    place("oom_score", |_| Ok("0\n".into()));
    let seen = |text: fn(&Arc<Process>, Option<&Arc<Thread>>) -> Result<String>| {
        let (process, thread) = (process.clone(), thread.clone());
        Text::new(move || text(&process, thread.as_ref()))
    };
    seen(status).place(&root, "status");
    seen(stat).place(&root, "stat");
    let comm = {
        let (process, thread) = (process.clone(), thread.clone());
        move || Ok(format!("{}\n", name(&process, thread.as_ref())))
    };
    Text::new(comm).place(&root, "comm");
    let (shown, changed) = (process.clone(), process.clone());
    Text::new(move || Ok(format!("{}\n", shown.oom_score_adj.load(Ordering::Relaxed))))
        .writable(move |text| set_oom_score_adj(&changed, text))
        .place(&root, "oom_score_adj");
    let cleared = process.clone();
    Text::new(|| Err(Errno::EINVAL)).settable(move |what| clear(&cleared, what)).place(&root, "clear_refs");
    pages::place(&root, process);

    let insert = |name: &str, inode: &Arc<Inode>| {
        if let Ok(names) = root.folder() {
            let _ = names.insert(&root, name.as_bytes(), inode);
        }
    };
    let exe = process.clone();
    insert("exe", &link(filesystem, move || Ok(exe.program.lock().0.clone())));
    let cwd = process.clone();
    insert("cwd", &link(filesystem, move || Ok(String::from_utf8_lossy(&cwd.place().whole()).into_owned())));
    insert("root", &link(filesystem, || Ok("/".to_string())));
    let listed =
        |listing: Arc<dyn Listing>| Inode::new(filesystem, Kind::Folder(Folder::listed(listing)), 0o500);
    insert("fd", &listed(Arc::new(OpenFiles { filesystem: filesystem.clone(), process: process.clone() })));
    if thread.is_none() {
        insert(
            "task",
            &listed(Arc::new(Threads { filesystem: filesystem.clone(), process: process.clone() })),
        );
    }
    root
}

/// Only root may have a process killed later than it would be. Linux: `oom_score_adj_write()` in fs/proc/base.c.
fn set_oom_score_adj(process: &Process, text: &str) -> Result<()> {
    let value = text.trim().parse::<i32>().map_err(|_| Errno::EINVAL)?;
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    if value < process.oom_score_adj.load(Ordering::Relaxed) && !credentials::own().is_root() {
        return Err(Errno::EACCES);
    }
    process.oom_score_adj.store(value, Ordering::Relaxed);
    Ok(())
}

/// `clear_refs`: 4 clears soft-dirty, of huge pages; what 1 to 3 clear is looked at nowhere. Linux: `clear_refs_write()` in
/// fs/proc/task_mmu.c.
fn clear(process: &Process, what: u64) -> Result<()> {
    match what {
        1..=3 | 5 => Ok(()),
        4 => {
            let space = process.space()?;
            let me = current();
            space.engine().clear_soft_dirty(&mut *me.task()?).map_err(|_| Errno::EINVAL)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `/proc/PID/fd`.
struct OpenFiles {
    filesystem: Arc<Filesystem>,
    process: Arc<Process>,
}

/// A link to what a descriptor leads to, which need not have a name.
struct OpenFile(Arc<Opened>);

impl Link for OpenFile {
    fn target(&self) -> Result<Vec<u8>> {
        // A file that has moved, or lost its name, since it was opened.
        let identity = self.0.inode.kind.identity();
        Ok(identity.map_or_else(|| self.0.path.clone(), |identity| identity.shown().into_bytes()))
    }

    fn jump(&self) -> Option<Arc<Inode>> {
        Some(self.0.inode.clone())
    }
}

impl Listing for OpenFiles {
    fn find(&self, name: &[u8]) -> Option<Arc<Inode>> {
        let descriptor = i32::try_from(number(name)?).ok()?;
        let opened = self.process.files().get(descriptor).ok()?;
        Some(Inode::new(&self.filesystem, Kind::Link(Arc::new(OpenFile(opened))), 0o700))
    }

    fn names(&self) -> Vec<Vec<u8>> {
        self.process.files().in_use().iter().map(|descriptor| descriptor.to_string().into_bytes()).collect()
    }
}

/// `/proc/PID/task`.
struct Threads {
    filesystem: Arc<Filesystem>,
    process: Arc<Process>,
}

impl Listing for Threads {
    fn find(&self, name: &[u8]) -> Option<Arc<Inode>> {
        let tid = number(name)?;
        let thread = self.process.threads().into_iter().find(|thread| thread.tid == tid)?;
        Some(folder(&self.filesystem, &self.process, Some(thread)))
    }

    fn names(&self) -> Vec<Vec<u8>> {
        self.process.threads().iter().map(|thread| thread.tid.to_string().into_bytes()).collect()
    }
}

/// What a thread is called: as `PR_SET_NAME` has it, else the program's name.
fn name(process: &Process, thread: Option<&Arc<Thread>>) -> String {
    let threads = process.threads();
    let thread = thread.or_else(|| threads.iter().find(|thread| thread.tid == process.pid));
    let given = thread.map(|thread| *thread.name.lock()).unwrap_or_default();
    let end = given.iter().position(|&byte| byte == 0).unwrap_or(given.len());
    if end > 0 {
        return String::from_utf8_lossy(&given[..end]).into_owned();
    }
    let path = process.program.lock().0.clone();
    path.rsplit('/').next().unwrap_or("").chars().take(15).collect()
}

/// How a thread is doing, in a letter and a word; without one, how the first thread of its process is.
fn state(process: &Process, thread: Option<&Arc<Thread>>) -> (char, &'static str) {
    let threads = process.threads();
    let thread = thread.or_else(|| threads.iter().find(|thread| thread.tid == process.pid));
    if process.state.lock().status.is_some() {
        ('Z', "zombie")
    } else if thread.is_some_and(|thread| thread.tracee.is_stopped()) {
        ('t', "tracing stop")
    } else if process.state.lock().stopped.is_some() {
        ('T', "stopped")
    } else if thread.is_some_and(|thread| !thread.sleeps()) {
        ('R', "running")
    } else if thread.is_none() && process.pid != INIT {
        // Its first thread has ended before the others.
        ('Z', "zombie")
    } else {
        ('S', "sleeping")
    }
}

/// `/proc/PID/status`. Linux: `proc_pid_status()` in fs/proc/array.c.
fn status(process: &Arc<Process>, thread: Option<&Arc<Thread>>) -> Result<String> {
    let (letter, word) = state(process, thread);
    let (group, parent) = (process.pid, process.parent_pid());
    let own = thread.map_or(group, |thread| thread.tid);
    let who = process.credentials.lock().clone();
    let ids = |ids: Ids| format!("{}\t{}\t{}\t{}", ids.real, ids.effective, ids.saved, ids.effective);
    let tracer = process.tracer.lock().upgrade().map_or(0, |tracer| tracer.pid);
    let mut text = format!(
        "Name:\t{}\nUmask:\t{:04o}\nState:\t{letter} ({word})\nTgid:\t{group}\nNgid:\t0\nPid:\t{own}\nPPid:\t{parent}\nTracerPid:\t{tracer}\n\
         Uid:\t{}\nGid:\t{}\nFDSize:\t{}\nGroups:\t{}\n",
        name(process, thread),
        process.umask.load(Ordering::Relaxed),
        ids(who.user),
        ids(who.group),
        process.files().in_use().len().max(64),
        who.groups.iter().map(|group| format!("{group} ")).collect::<String>(),
    );
    if let Ok(space) = process.space() {
        let sizes = maps::Sizes::of(&space)?;
        for (name, bytes) in [
            ("VmPeak", sizes.mapped),
            ("VmSize", sizes.mapped),
            ("VmLck", 0),
            ("VmPin", 0),
            ("VmRSS", sizes.resident),
            ("RssAnon", sizes.resident),
            ("VmPTE", sizes.tables),
            ("VmSwap", 0),
            ("HugetlbPages", space.engine().mm().resident_bytes()),
        ] {
            text += &format!("{name}:\t{:>8} kB\n", bytes >> 10);
        }
    }
    text += &format!("Threads:\t{}\n", process.threads().len());
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd"] {
        let has = set == "CapBnd" || set != "CapInh" && who.is_root();
        text += &format!("{set}:\t{}\n", if has { "000001ffffffffff" } else { "0000000000000000" });
    }
    Ok(text)
}

/// `/proc/PID/stat`, with zeroes for what is not counted. Linux: `do_task_stat()` in fs/proc/array.c.
fn stat(process: &Arc<Process>, thread: Option<&Arc<Thread>>) -> Result<String> {
    let (group, session) = {
        let state = process.state.lock();
        (state.group, state.session)
    };
    let sizes = process.space().ok().map_or(Ok(maps::Sizes::default()), |space| maps::Sizes::of(&space))?;
    let started = process.started.load(Ordering::Relaxed) / 10_000_000;
    let zeroes = " 0".repeat(28);
    Ok(format!(
        "{} ({}) {} {} {group} {session} 0 -1 0 0 0 0 0 0 0 0 0 20 0 {} 0 {started} {} {}{zeroes}\n",
        thread.map_or(process.pid, |thread| thread.tid),
        name(process, thread),
        state(process, thread).0,
        process.parent_pid(),
        process.threads().len(),
        sizes.mapped,
        sizes.resident / crate::memory::PAGE,
    ))
}

/// `/proc/PID/limits`. Linux: `proc_pid_limits()` in fs/proc/base.c.
fn limits(limits: &[[u64; 2]; 16]) -> String {
    let names = [
        ("Max cpu time", "seconds"),
        ("Max file size", "bytes"),
        ("Max data size", "bytes"),
        ("Max stack size", "bytes"),
        ("Max core file size", "bytes"),
        ("Max resident set", "bytes"),
        ("Max processes", "processes"),
        ("Max open files", "files"),
        ("Max locked memory", "bytes"),
        ("Max address space", "bytes"),
        ("Max file locks", "locks"),
        ("Max pending signals", "signals"),
        ("Max msgqueue size", "bytes"),
        ("Max nice priority", ""),
        ("Max realtime priority", ""),
        ("Max realtime timeout", "us"),
    ];
    let number = |limit| if limit == u64::MAX { "unlimited".into() } else { format!("{limit}") };
    let mut text = format!("{:<25} {:<20} {:<20} {:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    for ([soft, hard], (name, unit)) in limits.iter().zip(names) {
        text += &format!("{name:<25} {:<20} {:<20} ", number(*soft), number(*hard));
        text += &if unit.is_empty() { "\n".into() } else { format!("{unit:<10}\n") };
    }
    text
}

/// `/proc/PID/statm`, in base pages.
fn statm(process: &Arc<Process>) -> Result<String> {
    let space = process.space().map_err(|_| Errno::ESRCH)?;
    let sizes = maps::Sizes::of(&space)?;
    let page = crate::memory::PAGE;
    Ok(format!("{} {} 0 0 0 0 0\n", sizes.mapped / page, sizes.resident / page))
}
