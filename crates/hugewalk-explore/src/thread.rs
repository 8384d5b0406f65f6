//! Threads of a program that is explored.

mod scope;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

pub use self::scope::{Scope, ScopedJoinHandle, scope};
use crate::explorer::{Object, Op, Wait, access, begin_thread, in_thread, join_thread, violation};
use crate::state::{self, Id};

/// What a thread has come to: its result, or what it panicked with.
pub type Result<T> = std::thread::Result<T>;

/// A thread of the program.
#[derive(Clone, Debug)]
pub struct Thread(Arc<Inner>);

/// Tells threads of one run apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadId(usize);

#[derive(Debug)]
pub(crate) struct Inner {
    number: usize,
    name: Option<String>,
    id: Id,
    /// It was unparked, and has not parked since.
    unparked: AtomicBool,
}

impl Thread {
    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> ThreadId {
        ThreadId(self.0.number)
    }

    /// Its name, if it was given one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// Lets it go on from [`park`], now or when it comes there.
    #[track_caller]
    pub fn unpark(&self) {
        let object = self.0.id.object();
        access(&Op::write(object));
        self.0.unparked.store(true, Relaxed);
        state::changed(object);
        state::tell(object, || format!("unpark {}", letter(self.0.number)));
    }
}

/// As schedules name it.
pub(crate) fn letter(thread: usize) -> char {
    char::from(b'A' + thread as u8)
}

/// The calling thread.
///
/// # Panics
///
/// Outside of an exploration.
#[must_use]
pub fn current() -> Thread {
    let inner = state::current();
    assert!(!inner.is_null(), "a thread is asked for outside of an exploration");
    // SAFETY: by the invariant of the state it points into an `Arc` that is kept meanwhile.
    unsafe { Arc::increment_strong_count(inner) };
    // SAFETY: counted just now.
    Thread(unsafe { Arc::from_raw(inner) })
}

/// Waits until this thread is [unparked](Thread::unpark), unless it was since it last waited. It is never woken for nothing.
///
/// # Panics
///
/// Outside of an exploration.
#[track_caller]
pub fn park() {
    fn is_unparked(inner: *const ()) -> bool {
        // SAFETY: asked while the thread waits, which keeps it.
        unsafe { (*inner.cast::<Inner>()).unparked.load(Relaxed) }
    }
    let thread = current();
    let object = thread.0.id.object();
    access(&Op::write(object).waits(Wait::until(is_unparked, Arc::as_ptr(&thread.0).cast())));
    thread.0.unparked.store(false, Relaxed);
    state::tell(object, || "park".to_owned());
}

/// As [`hint::spin_loop`](crate::hint::spin_loop): says that this loop waits for another thread.
#[track_caller]
pub fn yield_now() {
    crate::hint::spin_loop();
}

/// What a thread leaves to whoever waits for it.
struct Packet<T> {
    id: Id,
    thread: Thread,
    result: StdMutex<Option<Result<T>>>,
    has_ended: AtomicBool,
}

impl<T> Packet<T> {
    fn has_ended(this: *const ()) -> bool {
        // SAFETY: asked while a thread waits in `join`, which keeps it.
        unsafe { (*this.cast::<Self>()).has_ended.load(Acquire) }
    }

    #[track_caller]
    fn wait(&self) {
        let number = self.thread.0.number;
        let object: Object = self.id.object();
        join_thread(number, object, Wait::until(Self::has_ended, std::ptr::from_ref(self).cast()));
        state::tell(object, || format!("join {}", letter(number)));
    }

    fn take(&self) -> Result<T> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.unwrap_or_else(|| Err(Box::new("the thread has not ended")))
    }
}

/// Runs the body of a thread, which says who it is meanwhile.
pub(crate) fn run<T>(thread: &Thread, body: impl FnOnce() -> T) -> Result<T> {
    let number = thread.0.number;
    state::set_thread(number, Arc::as_ptr(&thread.0));
    let result = catch_unwind(AssertUnwindSafe(body));
    state::set_thread(number, std::ptr::null());
    if let Err(panic) = &result {
        // The hook has told it when it happened, unless somebody has replaced the hook.
        violation(format!("a panic: {}", text_of(&**panic)), crate::run::Panicked);
    }
    result
}

/// What a panic says.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

/// The thread that is first.
pub(crate) fn first() -> Thread {
    new(0, Some("main".to_owned()))
}

fn new(number: usize, name: Option<String>) -> Thread {
    Thread(Arc::new(Inner { number, name, id: Id::new(), unparked: AtomicBool::new(false) }))
}

/// Begins a thread. The caller waits for its end before anything is gone that the thread uses, and never goes on if the thread
/// does not end.
#[track_caller]
fn begin<'u, T: 'u>(name: Option<String>, body: impl FnOnce() -> T + 'u) -> Arc<Packet<T>> {
    assert!(in_thread().is_some(), "a thread is begun outside of an exploration");
    // Numbers are given in the order of the beginnings, so this one's is known when it has begun.
    let given = Arc::new(StdMutex::new(None::<Arc<Packet<T>>>));
    let (shown, received) = (name.clone().unwrap_or_default(), given.clone());
    let run_it: Box<dyn FnOnce() + 'u> = {
        Box::new(move || {
            let number = in_thread().expect("a thread");
            let packet = Arc::new(Packet {
                id: Id::new(),
                thread: new(number, name),
                result: StdMutex::new(None),
                has_ended: AtomicBool::new(false),
            });
            *received.lock().unwrap_or_else(PoisonError::into_inner) = Some(packet.clone());
            drop(received);
            let result = run(&packet.thread, body);
            *packet.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            packet.has_ended.store(true, Release);
        })
    };
    // SAFETY: what the thread uses outlives it, by this function's contract; and a thread that was abandoned never runs again.
    let run_it = unsafe { std::mem::transmute::<Box<dyn FnOnce() + 'u>, Box<dyn FnOnce()>>(run_it) };
    let number = begin_thread(&shown, run_it);
    let packet = given.lock().unwrap_or_else(PoisonError::into_inner).take().expect("it has begun");
    state::tell(packet.id.object(), || format!("spawn {}", letter(number)));
    packet
}

/// Begins a thread. There may be eight in a run, the first included.
///
/// # Panics
///
/// Outside of an exploration, and if there are eight already.
#[track_caller]
pub fn spawn<F, T>(body: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    JoinHandle(begin(None, body))
}

/// A thread in the making.
#[derive(Debug, Default)]
pub struct Builder {
    name: Option<String>,
}

impl Builder {
    /// A thread without a name.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives it a name, which drawings show.
    #[must_use]
    pub fn name(mut self, name: String) -> Self {
        self.name = Some(name);
        self
    }

    /// Begins it.
    ///
    /// # Errors
    ///
    /// None.
    ///
    /// # Panics
    ///
    /// As [`spawn`].
    #[track_caller]
    pub fn spawn<F, T>(self, body: F) -> std::io::Result<JoinHandle<T>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(JoinHandle(begin(self.name, body)))
    }
}

/// A thread that can be waited for.
pub struct JoinHandle<T>(Arc<Packet<T>>);

impl<T> JoinHandle<T> {
    /// Waits until the thread has ended.
    ///
    /// # Errors
    ///
    /// What it panicked with: then the run is decided.
    #[track_caller]
    pub fn join(self) -> Result<T> {
        self.0.wait();
        self.0.take()
    }

    /// The thread.
    #[must_use]
    pub fn thread(&self) -> &Thread {
        &self.0.thread
    }
}

impl<T> std::fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("JoinHandle").field(&self.0.thread).finish()
    }
}
