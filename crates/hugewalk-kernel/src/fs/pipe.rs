//! Pipes, with and without a name.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use linux_raw_sys::general::{O_ACCMODE, O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY};
use spin::Mutex;

use super::file::{Events, File, Opened};
use super::inode::{Inode, Kind};
use crate::errno::{Errno, Result};
use crate::task::wait::WaitQueue;

/// Bytes in a pipe at most.
const CAPACITY: usize = 64 << 10;
/// Bytes that one write puts in without others' between them.
const ATOMIC: usize = 4096;

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    readers: usize,
    writers: usize,
}

/// A pipe.
pub struct Pipe {
    state: Mutex<State>,
    queue: WaitQueue,
    /// Ends that were ever opened for reading, and for writing: a named pipe's opener waits for one.
    opened: [AtomicU64; 2],
}

/// One end, or both in one.
struct End {
    pipe: Arc<Pipe>,
    reads: bool,
    writes: bool,
}

impl Pipe {
    /// A pipe without ends.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            queue: WaitQueue::new(),
            opened: [const { AtomicU64::new(0) }; 2],
        })
    }

    /// The two ends of a new pipe, to read and to write: `pipe2`, with its flags.
    pub fn pair(flags: u32) -> [Arc<Opened>; 2] {
        let pipe = Self::new();
        let inode = Inode::anonymous(Kind::Pipe(pipe.clone()));
        let path = alloc::format!("pipe:[{}]", inode.number).into_bytes();
        [O_RDONLY, O_WRONLY].map(|access| {
            let end: Arc<dyn File> = Arc::new(Self::end(&pipe, access));
            Opened::new(end, inode.clone(), path.clone(), access | flags & O_NONBLOCK)
        })
    }

    fn end(pipe: &Arc<Self>, flags: u32) -> End {
        let access = flags & O_ACCMODE;
        let end = End { pipe: pipe.clone(), reads: access != O_WRONLY, writes: access != O_RDONLY };
        let mut state = pipe.state.lock();
        state.readers += usize::from(end.reads);
        state.writers += usize::from(end.writes);
        drop(state);
        for (opened, counts) in pipe.opened.iter().zip([end.reads, end.writes]) {
            opened.fetch_add(u64::from(counts), Ordering::Relaxed);
        }
        pipe.queue.wake_all();
        end
    }

    /// An end of a pipe that has a name. Waits for the other end, unless opened for both.
    ///
    /// # Errors
    ///
    /// `ENXIO` for writing without waiting while nobody reads, `EINTR`.
    pub fn open(pipe: &Arc<Self>, flags: u32) -> Result<Arc<dyn File>> {
        let access = flags & O_ACCMODE;
        let other = |access| usize::from(access == O_RDONLY);
        let before = pipe.opened[other(access)].load(Ordering::Relaxed);
        if access == O_WRONLY && flags & O_NONBLOCK != 0 && pipe.state.lock().readers == 0 {
            return Err(Errno::ENXIO);
        }
        let end = Self::end(pipe, flags);
        if access != O_RDWR && flags & O_NONBLOCK == 0 {
            pipe.queue.wait(None, || {
                let state = pipe.state.lock();
                let there = if end.reads { state.writers } else { state.readers };
                // It may have come and gone meanwhile.
                let came = pipe.opened[other(access)].load(Ordering::Relaxed) != before;
                (there > 0 || came).then_some(())
            })?;
        }
        Ok(Arc::new(end))
    }
}

impl End {
    /// Does `look`, and waits until it finds something unless the end is open without waiting.
    fn wait<R>(&self, flags: u32, mut look: impl FnMut(&mut State) -> Option<R>) -> Result<R> {
        if flags & O_NONBLOCK != 0 {
            return look(&mut self.pipe.state.lock()).ok_or(Errno::EAGAIN);
        }
        self.pipe.queue.wait(None, || look(&mut self.pipe.state.lock()))
    }
}

impl File for End {
    fn read(&self, _: u64, into: &mut [u8], flags: u32) -> Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let count = self.wait(flags, |state| {
            if state.bytes.is_empty() {
                return (state.writers == 0).then_some(0);
            }
            let count = into.len().min(state.bytes.len());
            for (to, from) in into.iter_mut().zip(state.bytes.drain(..count)) {
                *to = from;
            }
            Some(count)
        })?;
        self.pipe.queue.wake_all();
        Ok(count)
    }

    fn write(&self, _: u64, from: &[u8], flags: u32) -> Result<usize> {
        let mut done = 0;
        while done < from.len() {
            let left = &from[done..];
            let wanted = if left.len() <= ATOMIC { left.len() } else { 1 };
            let put = self.wait(flags, |state| {
                if state.readers == 0 {
                    return Some(Err(Errno::EPIPE));
                }
                let room = CAPACITY - state.bytes.len();
                (room >= wanted).then(|| {
                    let count = left.len().min(room);
                    state.bytes.extend(&left[..count]);
                    Ok(count)
                })
            });
            match put.and_then(|put| put) {
                Ok(count) => done += count,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
            self.pipe.queue.wake_all();
        }
        Ok(done)
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn events(&self) -> Events {
        let state = self.pipe.state.lock();
        let mut events = Events::empty();
        if self.reads && !state.bytes.is_empty() {
            events |= Events::IN | Events::RDNORM;
        }
        if self.reads && state.writers == 0 {
            events |= Events::HUP;
        }
        if self.writes && CAPACITY - state.bytes.len() >= ATOMIC {
            events |= Events::OUT | Events::WRNORM;
        }
        if self.writes && state.readers == 0 {
            events |= Events::ERR;
        }
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.pipe.queue)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.pipe.state.lock();
        state.readers -= usize::from(self.reads);
        state.writers -= usize::from(self.writes);
        drop(state);
        self.pipe.queue.wake_all();
    }
}
