//! The TLB flush: how an address space takes translations back from the processors that use them.
//!
//! # Protocol
//!
//! A processor makes each access between two writes to its mark: odd means inside an access, even
//! means outside. Inside it reads the generation of the address space, and drops every translation
//! that was looked up under an older one.
//!
//! ```text
//! processor                            flush, after the entry was cleared
//! mark = odd                           generation += 1
//! light barrier                        heavy barrier
//! read generation; look up, or walk    read mark
//! access the frame                     while odd and unchanged: wait
//! mark = even (Release)                (Acquire)
//! ```
//!
//! Both sides write, pass their barrier and read, so at least one of them sees the other's write.
//! Either the flush sees the mark of the access, and waits until it is over. Or the access sees the
//! new generation, drops its translations, and finds the entry cleared when it walks.
//!
//! So when a flush has returned, no access through an old translation is under way, and none will
//! begin. On a real machine, the acknowledgement of an inter-processor interrupt says the same.
//!
//! *The wait ends.* The flushing thread may hold any lock of the engine. So a processor takes no
//! lock and does not wait inside an access. What a walk must write, it writes without a lock.
//!
//! *Processors that are not attached are skipped.* Attaching increments `attached` before the first
//! access reads the generation. A flush increments the generation before it reads `attached`. There
//! are full fences in between. So a processor that the flush did not find attached sees the new
//! generation, and the entries cleared before it.
//!
//! *Processors of the flushing thread are skipped.* A thread that flushes is not inside an access,
//! since a fault happens outside.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::thread;

use hugewalk::error::OutOfMemory;
use hugewalk::platform::Barriers;
use hugewalk::sync::Arc;
use lock_api::Mutex;

use crate::SpinLock;

/// What a host keeps for an address space: the generation of its translations, and its attached
/// processors.
///
/// Aligned so that flushing one address space does not take the cache line of another one's
/// processors.
#[derive(Debug)]
#[repr(align(64))]
pub struct MmContext {
    generation: AtomicU64,
    attached: AtomicUsize,
    marks: Mutex<SpinLock, Vec<Arc<Mark>>>,
}

/// Is a processor inside an access?
#[derive(Debug)]
#[repr(align(128))]
struct Mark {
    /// Odd while it is. Only the processor's own thread writes it.
    sequence: AtomicU64,
    /// The thread the processor runs on.
    thread: usize,
}

/// A processor's place in the list of its address space.
///
/// It stays on the thread that made it, so that a flush may skip the processors of its own thread.
#[derive(Debug)]
pub(crate) struct Attachment {
    mark: Arc<Mark>,
    stays_on_its_thread: PhantomData<*mut ()>,
}

/// A processor inside an access, until it is dropped.
#[derive(Debug)]
pub(crate) struct Access<'a> {
    mark: &'a Mark,
    inside: u64,
    generation: u64,
}

impl MmContext {
    pub(crate) fn new() -> Self {
        // Generations of different address spaces differ, as if each had an ASID of its own.
        // Generation 0 marks an empty place in a TLB.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let generation = AtomicU64::new(NEXT.fetch_add(1 << 32, Ordering::Relaxed));
        Self { generation, attached: AtomicUsize::new(0), marks: Mutex::new(Vec::new()) }
    }

    /// The generation that translations must have.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes back every translation that was looked up before the call; see the top of this file.
    /// Does not sleep.
    #[inline]
    pub(crate) fn flush<B: Barriers>(&self, barriers: &B) {
        // Release: incremented after the entries were cleared. SeqCst, with the load: see
        // "Processors that are not attached".
        self.generation.fetch_add(1, Ordering::SeqCst);
        if self.attached.load(Ordering::SeqCst) != 0 {
            self.wait_for_others(barriers);
        }
    }

    #[cold]
    fn wait_for_others<B: Barriers>(&self, barriers: &B) {
        let this_thread = this_thread();
        // The list's lock is held during the wait, which is as short as an access. A processor
        // needs that lock neither to begin an access nor to end it.
        let marks = self.marks.lock();
        let mut others = marks.iter().filter(|mark| mark.thread != this_thread).peekable();
        if others.peek().is_none() {
            return;
        }
        barriers.heavy();
        for mark in others {
            mark.wait();
        }
    }

    /// Adds a processor of the calling thread. Does not sleep.
    pub(crate) fn attach(&self) -> Result<Attachment, OutOfMemory> {
        let mark = Arc::try_new(Mark { sequence: AtomicU64::new(0), thread: this_thread() })?;
        let mut marks = self.marks.lock();
        marks.try_reserve(1)?;
        marks.push(mark.clone());
        drop(marks);
        self.attached.fetch_add(1, Ordering::SeqCst);
        // A flush that did not see the line above has incremented the generation before this fence,
        // so every access sees that.
        fence(Ordering::SeqCst);
        Ok(Attachment { mark, stays_on_its_thread: PhantomData })
    }

    /// Takes a processor out of the list. It makes no access any more. Does not sleep.
    pub(crate) fn detach(&self, attachment: &Attachment) {
        self.marks.lock().retain(|mark| !Arc::ptr_eq(mark, &attachment.mark));
        self.attached.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Attachment {
    /// Enters an access to the address space of `context`, to which this processor is attached. The
    /// caller takes no lock and does not wait until the guard is dropped.
    #[inline]
    pub(crate) fn enter<B: Barriers>(&mut self, context: &MmContext, barriers: &B) -> Access<'_> {
        let inside = self.mark.sequence.load(Ordering::Relaxed) + 1;
        self.mark.sequence.store(inside, Ordering::Relaxed);
        barriers.light();
        // Acquire: a processor that sees a generation sees the entries that were cleared before it.
        let generation = context.generation.load(Ordering::Acquire);
        Access { mark: &self.mark, inside, generation }
    }
}

impl Access<'_> {
    /// Translations of this generation may be used until the access is over.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }
}

impl Drop for Access<'_> {
    #[inline]
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `wait`. A flush that sees the access over comes after
        // it.
        self.mark.sequence.store(self.inside + 1, Ordering::Release);
    }
}

impl Mark {
    /// Waits until the access that is under way now, if any, is over.
    fn wait(&self) {
        let seen = self.sequence.load(Ordering::Acquire);
        if seen.is_multiple_of(2) {
            return;
        }
        let mut spins = 0;
        while self.sequence.load(Ordering::Acquire) == seen {
            spins += 1;
            if spins < 100 {
                core::hint::spin_loop();
            } else {
                // It may have been preempted in the middle.
                thread::yield_now();
            }
        }
    }
}

/// A number that no other running thread has.
#[inline]
fn this_thread() -> usize {
    thread_local! {
        static PLACE: u8 = const { 0 };
    }
    PLACE.with(|place| core::ptr::from_ref(place).addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Host;
    use crate::config::HostConfig;
    use core::sync::atomic::AtomicBool;
    use std::sync::Barrier;
    use std::sync::mpsc::{channel, sync_channel};
    use std::time::Duration;

    fn hosts() -> [Host; 2] {
        let config = HostConfig::new().huge_bytes(0).max_tables(1);
        [Host::new(&config).unwrap(), Host::new(&config.membarrier(false)).unwrap()]
    }

    /// Ends the loops of other threads, also when an assertion fails.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Threads store through a translation that they looked up under some generation; another takes it back, flushes,
    /// and then owns the frame. Returns how many stores landed there all the same. `work` makes an access last.
    fn late_stores<B: Barriers>(barriers: &B, processors: usize, work: usize, rounds: usize) -> usize {
        const FRAMES: usize = 64;
        let context = MmContext::new();
        let entry = AtomicUsize::new(0);
        let frames = [const { AtomicU64::new(0) }; FRAMES];
        let done = AtomicBool::new(false);
        let mut late = 0;
        thread::scope(|scope| {
            for _ in 0..processors {
                scope.spawn(|| {
                    let mut attachment = context.attach().unwrap();
                    let mut cached = (0, 0);
                    while !done.load(Ordering::Relaxed) {
                        let access = attachment.enter(&context, barriers);
                        if cached.0 != access.generation() {
                            cached = (access.generation(), entry.load(Ordering::Relaxed));
                        }
                        // An access takes its time: this is when a flush has to wait.
                        for _ in 0..work {
                            core::hint::spin_loop();
                        }
                        frames[cached.1].store(1, Ordering::Relaxed);
                    }
                    context.detach(&attachment);
                });
            }
            let _done = Done(&done);
            while context.attached.load(Ordering::Relaxed) < processors {
                thread::yield_now();
            }
            for round in 1..=rounds {
                let taken = entry.swap(round % FRAMES, Ordering::Relaxed);
                context.flush(barriers);
                frames[taken].store(0, Ordering::Relaxed);
                for _ in 0..20 {
                    core::hint::spin_loop();
                }
                late += usize::from(frames[taken].load(Ordering::Relaxed) != 0);
            }
        });
        late
    }

    #[test]
    fn no_store_lands_after_the_flush_that_took_its_translation_back() {
        for host in hosts() {
            assert_eq!(late_stores(&host, 1, 0, 20_000), 0);
            assert_eq!(late_stores(&host, 1, 20, 5_000), 0);
            // On a small machine one of these is often preempted inside an access, and a flush takes a time slice.
            assert_eq!(late_stores(&host, 2, 20, 100), 0);
        }
    }

    /// A platform that does something whenever somebody passes a barrier.
    struct Looks {
        light: Box<dyn Fn() + Send + Sync>,
        heavy: Box<dyn Fn() + Send + Sync>,
    }
    // SAFETY: these are no barriers. Where two threads are at work below, channels order them.
    unsafe impl Barriers for Looks {
        type Word = AtomicU64;
        type SpinLock = SpinLock;
        fn light(&self) {
            (self.light)();
        }
        fn heavy(&self) {
            (self.heavy)();
        }
        unsafe fn pause(&self) {}
    }

    fn kept() -> &'static MmContext {
        Box::leak(Box::new(MmContext::new()))
    }

    /// That processors exchange a store and a load, and barriers prevent it, is seen where barriers are tested. Here is what
    /// they stand between.
    #[test]
    fn an_access_is_marked_before_its_barrier_and_reads_the_generation_after_it() {
        let context = kept();
        let light = || {
            let is_inside = |mark: &Arc<Mark>| mark.sequence.load(Ordering::Relaxed) % 2 == 1;
            assert!(context.marks.lock().iter().all(is_inside), "not marked yet");
            context.generation.fetch_add(1, Ordering::Relaxed);
        };
        let looks = Looks { light: Box::new(light), heavy: Box::new(|| unreachable!("nobody flushes")) };
        let mut attachment = context.attach().unwrap();
        for _ in 0..3 {
            let before = context.generation();
            assert_eq!(attachment.enter(context, &looks).generation(), before + 1);
        }
        context.detach(&attachment);
    }

    #[test]
    fn a_flush_counts_up_before_its_barrier_and_reads_the_marks_after_it() {
        let [host, _] = hosts();
        let (context, over) = (kept(), AtomicBool::new(false));
        let (there, is_there) = channel();
        let (begin, begins) = sync_channel(0);
        let (begun, has_begun) = channel();
        let (returned, has_returned) = channel();
        thread::scope(|scope| {
            let over = &over;
            scope.spawn(move || {
                let mut attachment = context.attach().unwrap();
                there.send(()).unwrap();
                begins.recv().unwrap();
                let access = attachment.enter(context, &host);
                begun.send(()).unwrap();
                // A flush that has not seen this access returns now, and says so.
                let _ = has_returned.recv_timeout(Duration::from_millis(50));
                over.store(true, Ordering::Release);
                drop(access);
                context.detach(&attachment);
            });
            is_there.recv().unwrap();
            let (before, has_begun) = (context.generation(), std::sync::Mutex::new(has_begun));
            let heavy = move || {
                assert_eq!(context.generation(), before + 1, "not counted up yet");
                begin.send(()).unwrap();
                has_begun.lock().unwrap().recv().unwrap();
            };
            let looks = Looks { light: Box::new(|| unreachable!("no access")), heavy: Box::new(heavy) };
            context.flush(&looks);
            let waited = over.load(Ordering::Acquire);
            let _ = returned.send(());
            assert!(waited, "the flush did not wait for an access that began at its barrier");
        });
    }

    #[test]
    fn a_flush_waits_for_an_access_that_is_under_way() {
        for host in hosts() {
            let context = MmContext::new();
            let (entered, flushed) = (Barrier::new(2), AtomicBool::new(false));
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut attachment = context.attach().unwrap();
                    let access = attachment.enter(&context, &host);
                    entered.wait();
                    thread::sleep(Duration::from_millis(20));
                    assert!(!flushed.load(Ordering::Acquire));
                    drop(access);
                    context.detach(&attachment);
                });
                entered.wait();
                context.flush(&host);
                flushed.store(true, Ordering::Release);
            });
        }
    }

    #[test]
    fn processors_come_and_go_while_others_flush() {
        let [host, _] = hosts();
        let context = MmContext::new();
        let entry = AtomicUsize::new(1);
        let frames = [const { AtomicU64::new(0) }; 8];
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let ended = Done(&done);
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let mut attachment = context.attach().unwrap();
                    {
                        let _access = attachment.enter(&context, &host);
                        frames[entry.load(Ordering::Relaxed)].store(1, Ordering::Relaxed);
                    }
                    context.detach(&attachment);
                }
            });
            for round in 0..20_000 {
                let taken = entry.swap(round % 8, Ordering::Relaxed);
                context.flush(&host);
                if taken != round % 8 {
                    frames[taken].store(0, Ordering::Relaxed);
                    assert_eq!(frames[taken].load(Ordering::Relaxed), 0, "round {round}");
                }
            }
            drop(ended);
        });
        assert_eq!(context.attached.load(Ordering::Relaxed), 0);
        assert!(context.marks.lock().is_empty());
    }

    #[test]
    fn a_thread_does_not_wait_for_its_own_processor() {
        let [host, _] = hosts();
        let context = MmContext::new();
        let mut attachment = context.attach().unwrap();
        let before = attachment.enter(&context, &host).generation();
        context.flush(&host);
        assert_eq!(attachment.enter(&context, &host).generation(), before + 1);
        context.detach(&attachment);
    }
}
