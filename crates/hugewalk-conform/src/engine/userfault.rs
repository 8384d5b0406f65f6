//! A process of the engine as the handler of its own faults.

use hugewalk::Task;
use hugewalk::addr::VirtAddr;
use hugewalk::uffd::{
    ContinueMode, CopyMode, Features, Modes, PoisonMode, ProtectMode, Stopped, Userfault, UserfaultError,
};
use hugewalk_host::Host;

use super::{Process, done};
use crate::observe::Outcome;
use crate::program::{Bytes, Handling, OnRange};

/// An access that would wait for the handler, which is the same process, gets a signal.
const FEATURES: Features = Features::SIGBUS
    .union(Features::MISSING_HUGETLBFS)
    .union(Features::MINOR_HUGETLBFS)
    .union(Features::WP_HUGETLBFS_SHMEM);

pub(super) fn handle(
    process: &mut Process,
    number: usize,
    handling: &Handling,
    task: &mut Task<Host>,
) -> Outcome {
    if let Handling::Open { asynchronous } = *handling {
        let features = if asynchronous { FEATURES | Features::WP_ASYNC } else { FEATURES };
        return match Userfault::new(&process.space, features) {
            Ok(handler) => {
                process.handlers[number] = Some(handler);
                Outcome::Done
            }
            Err(error) => refused(&error),
        };
    }
    let Some(handler) = &process.handlers[number] else { return Outcome::Done };
    let address = |at: Bytes| VirtAddr::new(at.address());
    match *handling {
        Handling::Open { .. } => Outcome::Done,
        Handling::Close => {
            if let Some(handler) = process.handlers[number].take() {
                handler.close(task).expect("its own task");
            }
            Outcome::Done
        }
        Handling::Register { at, length, modes } => {
            let modes = Modes::from_bits_retain(u64::from(modes.bits()));
            let registered = handler.register(task, address(at), length.0, modes);
            registered.map_or_else(|error| refused(&error), |can| Outcome::Number(can.bits()))
        }
        Handling::Copy { at, length, value, protected } => {
            let mode = if protected { CopyMode::WP } else { CopyMode::empty() };
            let bytes = vec![value; length.0 as usize];
            filled(handler.copy(task, address(at), &bytes, mode), length)
        }
        Handling::On { at, length, what } => {
            let (start, bytes) = (address(at), length.0);
            match what {
                OnRange::Unregister => done(handler.unregister(task, start, bytes), refused),
                OnRange::Continue => {
                    filled(handler.continue_range(task, start, bytes, ContinueMode::empty()), length)
                }
                OnRange::ContinueProtected => {
                    filled(handler.continue_range(task, start, bytes, ContinueMode::WP), length)
                }
                OnRange::Poison => filled(handler.poison(task, start, bytes, PoisonMode::empty()), length),
                OnRange::Protect => done(handler.write_protect(task, start, bytes, ProtectMode::WP), refused),
                OnRange::Unprotect => {
                    done(handler.write_protect(task, start, bytes, ProtectMode::empty()), refused)
                }
                OnRange::Zero => filled(handler.zero(task, start, bytes), length),
                OnRange::Wake => done(handler.wake(start, bytes), refused),
            }
        }
    }
}

fn refused(error: &UserfaultError) -> Outcome {
    // A process of the kernel has its stack above all that a program maps.
    if matches!(error, UserfaultError::NothingAbove { .. }) {
        return Outcome::Error("EINVAL");
    }
    Outcome::Error(error.errno().name())
}

/// How many bytes were filled.
fn filled(result: Result<(), Stopped>, length: Bytes) -> Outcome {
    match result {
        Ok(()) => Outcome::Number(length.0),
        Err(stopped) if stopped.done == 0 => refused(&stopped.error),
        Err(stopped) => Outcome::Stopped { error: stopped.errno().name(), after: Bytes(stopped.done) },
    }
}
