//! Pairs of sockets that keep messages whole: `SOCK_SEQPACKET` and `SOCK_DGRAM`. And sockets with an abstract name, which nobody here
//! connects to: programs take such a name so that there is one of them.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use linux_raw_sys::general::{O_NONBLOCK, O_RDWR};
use spin::Mutex;

use super::file::{Events, File, Opened};
use crate::errno::{Errno, Result};
use crate::task::wait::WaitQueue;

/// Messages that wait at most.
const MOST: usize = 64;

#[derive(Default)]
struct State {
    messages: VecDeque<Vec<u8>>,
    /// One of the two ends is closed.
    closed: bool,
}

/// What goes one way.
#[derive(Default)]
struct Channel {
    state: Mutex<State>,
    queue: WaitQueue,
}

struct End {
    incoming: Arc<Channel>,
    outgoing: Arc<Channel>,
}

/// Both ends of a pair: `socketpair`, with the flags of its type.
pub fn pair(flags: u32) -> [Arc<Opened>; 2] {
    let [one, other] = [Arc::new(Channel::default()), Arc::new(Channel::default())];
    let open = |incoming: &Arc<Channel>, outgoing: &Arc<Channel>| {
        let end: Arc<dyn File> = Arc::new(End { incoming: incoming.clone(), outgoing: outgoing.clone() });
        Opened::anonymous(end, "socket:[1]", O_RDWR | flags & O_NONBLOCK)
    };
    [open(&one, &other), open(&other, &one)]
}

/// Waits for `look`, unless the file is open without waiting.
fn wait<R>(channel: &Channel, flags: u32, mut look: impl FnMut(&mut State) -> Option<R>) -> Result<R> {
    if flags & O_NONBLOCK != 0 {
        return look(&mut channel.state.lock()).ok_or(Errno::EAGAIN);
    }
    channel.queue.wait(None, || look(&mut channel.state.lock()))
}

impl File for End {
    fn read(&self, _: u64, into: &mut [u8], flags: u32) -> Result<usize> {
        let message = wait(&self.incoming, flags, |state| match state.messages.pop_front() {
            None => state.closed.then_some(None),
            message => Some(message),
        })?;
        self.incoming.queue.wake_all();
        let Some(message) = message else { return Ok(0) };
        // What does not fit is lost, as in Linux.
        let count = message.len().min(into.len());
        into[..count].copy_from_slice(&message[..count]);
        Ok(count)
    }

    fn write(&self, _: u64, from: &[u8], flags: u32) -> Result<usize> {
        let mut message = Vec::new();
        message.try_reserve_exact(from.len()).map_err(|_| Errno::ENOMEM)?;
        message.extend_from_slice(from);
        let mut message = Some(message);
        wait(&self.outgoing, flags, |state| {
            if state.closed {
                return Some(Err(Errno::EPIPE));
            }
            (state.messages.len() < MOST).then(|| {
                state.messages.extend(message.take());
                Ok(())
            })
        })??;
        self.outgoing.queue.wake_all();
        Ok(from.len())
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn events(&self) -> Events {
        let mut events = Events::empty();
        {
            let state = self.incoming.state.lock();
            if !state.messages.is_empty() || state.closed {
                events |= Events::IN | Events::RDNORM;
            }
            if state.closed {
                events |= Events::HUP;
            }
        }
        if self.outgoing.state.lock().messages.len() < MOST {
            events |= Events::OUT | Events::WRNORM;
        }
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.incoming.queue)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        for channel in [&self.incoming, &self.outgoing] {
            channel.state.lock().closed = true;
            channel.queue.wake_all();
        }
    }
}

/// A socket that has a name at most.
struct Named;

impl File for Named {
    fn is_stream(&self) -> bool {
        true
    }

    fn events(&self) -> Events {
        Events::empty()
    }
}

/// `socket`.
pub fn named(flags: u32) -> Arc<Opened> {
    Opened::anonymous(Arc::new(Named), "socket:[2]", O_RDWR | flags & O_NONBLOCK)
}
