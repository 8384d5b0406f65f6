//! The engine's tracepoints: dropped, counted, or kept.

use core::sync::atomic::{AtomicU64, Ordering};

use hugewalk::platform::Event;
use lock_api::Mutex;

use crate::SpinLock;
use crate::config::Tracing;

/// How often each tracepoint was passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounts {
    /// Tables of other address spaces that were shared.
    pub shared: u64,
    /// Times that an address space stopped sharing a table.
    pub unshared: u64,
    /// TLB flushes of gathers.
    pub flushes: u64,
    /// Tables handed to RCU to be freed.
    pub tables_retired: u64,
    /// Events that [`Tracing::Record`] or [`Tracing::RecordAll`] could not keep for want of memory.
    pub lost: u64,
}

#[derive(Debug)]
pub(crate) struct Tracer {
    tracing: Tracing,
    shared: AtomicU64,
    unshared: AtomicU64,
    flushes: AtomicU64,
    tables_retired: AtomicU64,
    lost: AtomicU64,
    kept: Mutex<SpinLock, Vec<Event>>,
}

impl Tracer {
    pub(crate) fn new(tracing: Tracing) -> Self {
        Self {
            tracing,
            shared: AtomicU64::new(0),
            unshared: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            tables_retired: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            kept: Mutex::new(Vec::new()),
        }
    }

    #[inline(always)]
    pub(crate) fn trace(&self, event: Event) {
        if self.tracing != Tracing::Off {
            self.note(event);
        }
    }

    #[cold]
    fn note(&self, event: Event) {
        let count = match event {
            Event::Shared { .. } => Some(&self.shared),
            Event::Unshared { .. } => Some(&self.unshared),
            Event::Flushed { .. } => Some(&self.flushes),
            Event::TableRetired { .. } => Some(&self.tables_retired),
            // The others are kept, if events are, and not counted.
            _ => None,
        };
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let keeps = match self.tracing {
            Tracing::Off | Tracing::Count => false,
            Tracing::Record => event.is_of_tables(),
            Tracing::RecordAll => true,
        };
        if keeps {
            let mut kept = self.kept.lock();
            if kept.try_reserve(1).is_ok() {
                kept.push(event);
            } else {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn take(&self) -> Vec<Event> {
        core::mem::take(&mut *self.kept.lock())
    }

    pub(crate) fn counts(&self) -> EventCounts {
        // Relaxed: statistics, which may be of slightly different moments.
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        EventCounts {
            shared: read(&self.shared),
            unshared: read(&self.unshared),
            flushes: read(&self.flushes),
            tables_retired: read(&self.tables_retired),
            lost: read(&self.lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Tracing::{Count, Off, Record};

    #[test]
    fn events_are_dropped_counted_or_kept_as_configured() {
        for (tracing, counted, kept) in [(Off, 0, 0), (Count, 2, 0), (Record, 2, 2)] {
            let tracer = Tracer::new(tracing);
            tracer.trace(Event::TableRetired { mm: 1 });
            tracer.trace(Event::TableRetired { mm: 2 });
            assert_eq!(tracer.counts(), EventCounts { tables_retired: counted, ..EventCounts::default() });
            assert_eq!(tracer.take().len(), kept);
            assert!(tracer.take().is_empty());
        }
    }
}
