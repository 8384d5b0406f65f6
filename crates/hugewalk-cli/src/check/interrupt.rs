//! Being told to stop: by Ctrl-C, by the scheduler of a cluster, or by whoever runs the container.

use std::fs;
use std::io;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use signal_hook::{flag, low_level};

/// A second Ctrl-C ends the process, but not one so soon: some send a signal to a process and to its group at once.
const SOON: Duration = Duration::from_secs(1);

/// While it lives, a first signal is told instead of ending the process. What comes after it changes nothing, since what is done
/// is being kept; only a second Ctrl-C that comes a while after the first ends the process at once.
pub(super) struct Interrupts {
    handle: Handle,
    /// Signals end the process again.
    deadly: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

impl Interrupts {
    /// From now on, `told` is called with the first signal, on a thread of its own.
    pub(super) fn listen(told: impl Fn(i32) + Send + 'static) -> io::Result<Self> {
        let (deadly, stopped) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        // Whoever started us in the background has had Ctrl-C ignored: it stays ignored.
        let wanted: Vec<i32> = [SIGINT, SIGTERM].into_iter().filter(|&signal| !is_ignored(signal)).collect();
        for &signal in &wanted {
            flag::register_conditional_default(signal, Arc::clone(&deadly))?;
        }
        let mut signals = Signals::new(&wanted)?;
        let (handle, is_stopped) = (signals.handle(), Arc::clone(&stopped));
        thread::spawn(move || {
            let mut interrupted: Option<Instant> = None;
            for signal in signals.forever() {
                if !is_stopped.swap(true, Ordering::SeqCst) {
                    told(signal);
                }
                if signal == SIGINT {
                    if interrupted.is_some_and(|first| first.elapsed() >= SOON) {
                        let _ = low_level::emulate_default_handler(SIGINT);
                    }
                    interrupted.get_or_insert_with(Instant::now);
                }
            }
        });
        Ok(Self { handle, deadly, stopped })
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        // Who was told to stop has something to say yet, and ends by the signal.
        if !self.stopped.load(Ordering::SeqCst) {
            self.deadly.store(true, Ordering::SeqCst);
            self.handle.close();
        }
    }
}

fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0) >> (signal - 1) & 1 != 0
}

/// `SIGTERM`
pub(super) fn name(signal: i32) -> &'static str {
    low_level::signal_name(signal).unwrap_or("a signal")
}

/// Ends the process as the signal would have: whoever waits for it must see what ended it.
#[must_use]
pub fn die(signal: i32) -> ExitCode {
    // The first process of a container is spared by its signals.
    if process::id() != 1 {
        let _ = low_level::emulate_default_handler(signal);
    }
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}
