//! What a thread announces before it does it.

/// Do two of these on the same object commute?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It commutes with other reads.
    Read,
    /// It commutes with nothing.
    Write,
}

/// Can the operation be refused, or let others go on?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Neither.
    Plain,
    /// It waits until a condition holds.
    Acquire,
    /// It makes conditions come true for those who wait at the same object. Who comes to wait there afterwards would have had
    /// to wait if it had come before.
    Release,
    /// It begins a thread.
    Begin,
    /// It waits until the thread of this number has ended, and has seen all that it did.
    Join(u8),
}

/// A condition to wait for: a question and what it is asked of.
///
/// The explorer asks it while the thread that waits stands at its scheduling point.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    pub(crate) holds: fn(*const ()) -> bool,
    pub(crate) of: *const (),
}

impl Wait {
    /// Waits until `holds(of)`. The question is asked only while the thread is waiting, so `of` may point to what the
    /// thread keeps alive.
    #[inline]
    #[must_use]
    pub fn until(holds: fn(*const ()) -> bool, of: *const ()) -> Self {
        Self { holds, of }
    }

    pub(crate) fn is_over(&self) -> bool {
        (self.holds)(self.of)
    }
}

/// Something that threads share.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    /// Where it lies: no two objects that exist at the same time have the same.
    pub address: usize,
    /// A name that is the same in every run, if there is one. Without it the object goes by who touched it first.
    pub name: Option<u32>,
}

impl Object {
    /// The object at this address.
    #[inline]
    #[must_use]
    pub fn at<T: ?Sized>(place: *const T) -> Self {
        Self { address: place.cast::<u8>().addr(), name: None }
    }
}

/// One operation of a thread on something shared.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub(crate) object: Object,
    pub(crate) kind: Kind,
    pub(crate) also: Option<(Object, Kind)>,
    pub(crate) class: Class,
    pub(crate) wait: Option<Wait>,
}

impl Op {
    /// An operation that commutes with others of its sort on this object.
    #[inline]
    #[must_use]
    pub fn read(object: Object) -> Self {
        Self { object, kind: Kind::Read, also: None, class: Class::Plain, wait: None }
    }

    /// An operation that commutes with nothing on this object.
    #[inline]
    #[must_use]
    pub fn write(object: Object) -> Self {
        Self { kind: Kind::Write, ..Self::read(object) }
    }

    /// It concerns a second object too: the one that the first is part of.
    #[inline]
    #[must_use]
    pub fn and(mut self, object: Object, kind: Kind) -> Self {
        self.also = Some((object, kind));
        self
    }

    /// It begins a thread.
    pub(crate) fn begins(mut self) -> Self {
        self.class = Class::Begin;
        self
    }

    /// It waits for the end of a thread, which `wait` asks for.
    pub(crate) fn joins(mut self, thread: u8, wait: Wait) -> Self {
        (self.wait, self.class) = (Some(wait), Class::Join(thread));
        self
    }

    /// The object.
    #[inline]
    #[must_use]
    pub fn object(&self) -> Object {
        self.object
    }

    /// The second object, if there is one.
    #[inline]
    #[must_use]
    pub fn second(&self) -> Option<(Object, Kind)> {
        self.also
    }

    /// It waits until a condition holds.
    #[inline]
    #[must_use]
    pub fn waits(mut self, wait: Wait) -> Self {
        (self.wait, self.class) = (Some(wait), Class::Acquire);
        self
    }

    /// It waits until a condition holds that any operation on the object may make true or false: unlike one that
    /// [`waits`](Self::waits), it might have gone on before one that [`releases`](Self::releases).
    #[inline]
    #[must_use]
    pub fn awaits(mut self, wait: Wait) -> Self {
        self.wait = Some(wait);
        self
    }

    /// It lets those go on who wait at this object.
    #[inline]
    #[must_use]
    pub fn releases(mut self) -> Self {
        self.class = Class::Release;
        self
    }
}

/// The objects an operation touches, by their number in the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footprint {
    pub(crate) object: u32,
    pub(crate) kind: Kind,
    pub(crate) also: u32,
    pub(crate) also_kind: Kind,
    pub(crate) class: Class,
}

/// No second object.
pub(crate) const NOTHING: u32 = u32::MAX;

impl Footprint {
    /// Does it matter which of the two comes first?
    pub(crate) fn depends_on(&self, other: &Self) -> bool {
        let clash = |one: u32, kind: Kind, two: u32, other_kind: Kind| {
            one == two && one != NOTHING && (kind == Kind::Write || other_kind == Kind::Write)
        };
        clash(self.object, self.kind, other.object, other.kind)
            || clash(self.also, self.also_kind, other.object, other.kind)
            || clash(self.object, self.kind, other.also, other.also_kind)
            || clash(self.also, self.also_kind, other.also, other.also_kind)
    }

    /// Is `self` a release, and `other` an acquisition that has to wait for it, unless it is known to be possible without?
    pub(crate) fn excludes(&self, other: &Self) -> bool {
        self.class == Class::Release && other.class == Class::Acquire && self.object == other.object
    }
}
