//! Channels: many threads send, one receives.

use std::collections::VecDeque;
use std::fmt;
pub use std::sync::mpsc::{RecvError, SendError, TryRecvError, TrySendError};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use crate::explorer::{Op, Wait, access};
use crate::state::{self, Id};

struct Channel<T> {
    id: Id,
    /// Nobody is kept out of it for longer than a look takes: no step is taken meanwhile.
    state: StdMutex<State<T>>,
}

struct State<T> {
    queue: VecDeque<T>,
    /// Messages that may be in the queue; none may stay in it if this is zero.
    room: usize,
    senders: usize,
    is_received: bool,
    /// The receiver waits for a message: known if there is no room.
    waits: bool,
    sent: u64,
    taken: u64,
}

/// A channel in which as many messages may be as there are.
#[must_use]
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let channel = new(usize::MAX);
    (Sender(channel.clone()), Receiver(channel))
}

/// A channel in which so many messages may be. Without room a sender waits until its message is received.
#[must_use]
pub fn sync_channel<T>(room: usize) -> (SyncSender<T>, Receiver<T>) {
    let channel = new(room);
    (SyncSender(channel.clone()), Receiver(channel))
}

fn new<T>(room: usize) -> Arc<Channel<T>> {
    let (queue, senders, is_received) = (VecDeque::new(), 1, true);
    let state = State { queue, room, senders, is_received, waits: false, sent: 0, taken: 0 };
    Arc::new(Channel { id: Id::new(), state: StdMutex::new(state) })
}

impl<T> Channel<T> {
    fn with<R>(&self, work: impl FnOnce(&mut State<T>) -> R) -> R {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wait(&self, until: fn(*const ()) -> bool) -> Op {
        Op::write(self.id.object()).waits(Wait::until(until, std::ptr::from_ref(self).cast()))
    }

    fn can_send(this: *const ()) -> bool {
        // SAFETY: asked while a sender waits, which keeps the channel.
        let this = unsafe { &*this.cast::<Self>() };
        this.with(|state| state.queue.len() < state.room.max(1) || !state.is_received)
    }

    fn can_receive(this: *const ()) -> bool {
        // SAFETY: asked while the receiver waits, which keeps the channel.
        let this = unsafe { &*this.cast::<Self>() };
        this.with(|state| !state.queue.is_empty() || state.senders == 0)
    }

    fn is_taken(of: *const ()) -> bool {
        // SAFETY: asked while a sender waits in `send`, on whose stack it lies.
        let &(this, sent) = unsafe { &*of.cast::<(&Self, u64)>() };
        this.with(|state| state.taken >= sent || !state.is_received)
    }

    /// After a step of its own.
    #[track_caller]
    fn push(&self, message: T) -> Result<u64, T> {
        let object = self.id.object();
        let result = self.with(|state| {
            if !state.is_received {
                return Err(message);
            }
            state.queue.push_back(message);
            state.sent += 1;
            Ok(state.sent)
        });
        state::changed(object);
        state::tell(object, || if result.is_ok() { "send to #" } else { "# is closed" }.to_owned());
        result
    }

    /// After a step of its own.
    #[track_caller]
    fn pop(&self) -> Result<T, TryRecvError> {
        let object = self.id.object();
        let result = self.with(|state| {
            let message = state.queue.pop_front();
            state.taken += u64::from(message.is_some());
            let closed = state.senders == 0;
            message.ok_or(if closed { TryRecvError::Disconnected } else { TryRecvError::Empty })
        });
        state::seen(object);
        if result.is_ok() {
            state::changed(object);
        }
        state::tell(object, || {
            let text = match result {
                Ok(_) => "receive from #",
                Err(TryRecvError::Empty) => "# is empty",
                Err(TryRecvError::Disconnected) => "# is closed",
            };
            text.to_owned()
        });
        result
    }

    fn add_sender(&self) {
        // No step: the sender that is cloned keeps the channel open before and after.
        self.with(|state| state.senders += 1);
    }

    fn remove_sender(&self) {
        let object = self.id.object();
        access(&Op::write(object));
        let last = self.with(|state| {
            state.senders -= 1;
            state.senders == 0
        });
        if last {
            state::changed(object);
        }
        state::tell_of_drop(object, || if last { "close #" } else { "done sending to #" }.to_owned());
    }
}

/// Sends to a [`channel`].
pub struct Sender<T>(Arc<Channel<T>>);

/// Sends to a [`sync_channel`].
pub struct SyncSender<T>(Arc<Channel<T>>);

/// Receives from a channel.
pub struct Receiver<T>(Arc<Channel<T>>);

impl<T> Sender<T> {
    /// Sends a message.
    ///
    /// # Errors
    ///
    /// The message, if the receiver is gone.
    #[track_caller]
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        access(&Op::write(self.0.id.object()));
        self.0.push(message).map(drop).map_err(SendError)
    }
}

impl<T> SyncSender<T> {
    /// Waits for room, and sends a message; without room, waits until it is received.
    ///
    /// # Errors
    ///
    /// The message, if the receiver is gone before it was sent.
    #[track_caller]
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        access(&self.0.wait(Channel::<T>::can_send));
        let sent = self.0.push(message).map_err(SendError)?;
        if self.0.with(|state| state.room == 0) {
            let of = (&*self.0, sent);
            let wait = Wait::until(Channel::<T>::is_taken, std::ptr::from_ref(&of).cast());
            access(&Op::write(self.0.id.object()).waits(wait));
        }
        Ok(())
    }

    /// Sends a message if there is room; without room, if the receiver waits for one.
    ///
    /// # Errors
    ///
    /// The message, if there is no room or the receiver is gone.
    #[track_caller]
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        access(&Op::write(self.0.id.object()));
        let is_full = self.0.with(|state| {
            let waits = state.room > 0 || state.waits;
            state.is_received && (state.queue.len() >= state.room.max(1) || !waits)
        });
        state::seen(self.0.id.object());
        if is_full {
            state::tell(self.0.id.object(), || "# is full".to_owned());
            return Err(TrySendError::Full(message));
        }
        self.0.push(message).map(drop).map_err(TrySendError::Disconnected)
    }
}

impl<T> Receiver<T> {
    /// Waits for a message.
    ///
    /// # Errors
    ///
    /// If there is none, and all senders are gone.
    #[track_caller]
    pub fn recv(&self) -> Result<T, RecvError> {
        if self.0.with(|state| state.room == 0) {
            access(&Op::write(self.0.id.object()));
            self.0.with(|state| state.waits = true);
        }
        access(&self.0.wait(Channel::<T>::can_receive));
        self.0.with(|state| state.waits = false);
        self.0.pop().map_err(|_| RecvError)
    }

    /// Takes a message if there is one.
    ///
    /// # Errors
    ///
    /// If there is none.
    #[track_caller]
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        access(&Op::write(self.0.id.object()));
        self.0.pop()
    }

    /// All messages, until the senders are gone.
    pub fn iter(&self) -> impl Iterator<Item = T> {
        std::iter::from_fn(|| self.recv().ok())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.add_sender();
        Self(self.0.clone())
    }
}

impl<T> Clone for SyncSender<T> {
    fn clone(&self) -> Self {
        self.0.add_sender();
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.remove_sender();
    }
}

impl<T> Drop for SyncSender<T> {
    fn drop(&mut self) {
        self.0.remove_sender();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let object = self.0.id.object();
        access(&Op::write(object));
        let left = self.0.with(|state| {
            state.is_received = false;
            std::mem::take(&mut state.queue)
        });
        state::changed(object);
        state::tell_of_drop(object, || "close #".to_owned());
        drop(left);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for SyncSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyncSender").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}
