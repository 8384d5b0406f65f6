//! What the proof asks of a machine, and of its processor.

use core::num::NonZero;
use core::ops::Range;
use core::ptr::NonNull;

use hugewalk::arch::{Barrier, Paging};

/// Where the proof runs: a process, or a machine with nothing on it.
pub trait Machine: 'static {
    /// The processor's tables.
    type Paging: Paging;

    /// What is added to a physical address to reach the memory there. The program is linked for such addresses, too.
    const LINEAR: u64;

    /// The formats that the processor can be made to use, and their names.
    fn formats() -> &'static [(&'static str, Self::Paging)];

    /// The format for a processor that does not know its groups.
    #[must_use]
    fn without_groups(format: &Self::Paging) -> Self::Paging {
        *format
    }

    /// The physical memory that huge pages are taken from. It is zero at start.
    fn memory() -> [Range<u64>; 2];

    /// The processor's translation; `None` where there is no processor to be had for that, as in a process.
    fn mmu() -> Option<&'static dyn Mmu<Self::Paging>> {
        None
    }

    /// Prints `bytes` where the person who runs the proof sees them.
    fn print(bytes: &[u8]);

    /// Ends the program.
    fn exit(outcome: Outcome) -> !;

    /// Where memory of this physical address is mapped.
    #[must_use]
    fn mapped(physical: u64) -> NonNull<u8> {
        let address = NonZero::new((physical + Self::LINEAR) as usize);
        NonNull::with_exposed_provenance(address.expect("nobody was given address 0"))
    }

    /// The physical address of memory of the program's own. Its owner gives the right to reach it by number.
    #[must_use]
    fn physical(memory: NonNull<u8>) -> u64 {
        memory.expose_provenance().get() as u64 - Self::LINEAR
    }
}

/// A processor's translation of the lower half of its addresses.
pub trait Mmu<F> {
    /// Translates by these tables from now on. Nothing of what was translated before is used.
    ///
    /// # Safety
    ///
    /// `root` is the physical address of a root that [`init_root`](Self::init_root) has seen, of format `format`. Until
    /// [`leave`](Self::leave), it and the tables below it are what that format says.
    unsafe fn enter(&self, format: &F, root: u64);

    /// Translates by the program's own tables again.
    fn leave(&self);

    /// Puts the program's own half of addresses into a new root, if it has that half.
    ///
    /// # Safety
    ///
    /// `root` is the physical address of a zeroed root of format `format`, and nothing reaches it yet.
    unsafe fn init_root(&self, format: &F, root: u64);

    /// Loads from an address of the lower half, as a program does.
    ///
    /// # Errors
    ///
    /// [`Trap`], if that raises an exception.
    fn load(&self, address: u64) -> Result<u64, Trap>;

    /// Stores to an address of the lower half, as a program does.
    ///
    /// # Safety
    ///
    /// What is mapped there, if anything, is a huge page, and nothing but raw memory to the program.
    ///
    /// # Errors
    ///
    /// [`Trap`], if that raises an exception.
    unsafe fn store(&self, address: u64, value: u64) -> Result<(), Trap>;

    /// Carries out what is due after a store to an entry of this address.
    fn barrier(&self, barrier: Barrier, address: u64);

    /// Flushes all that is cached of the lower half.
    fn flush_all(&self);

    /// Flushes what is cached of `range`, one address in each `stride` bytes.
    fn flush(&self, range: Range<u64>, stride: u64, what: Flush);
}

/// How a program accesses memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Load,
    /// A store.
    Store,
}

/// What a flush is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Leaves have changed, and the tables that lead to them have not.
    Leaves,
    /// Tables have gone, too.
    LeavesAndTables,
}

/// Why an access raised an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// Nothing is mapped there.
    Missing,
    /// The page allows no such access.
    Denied,
    /// The page was not accessed before, and the processor does not note that.
    NotAccessed,
    /// One of these: the processor does not say which.
    Unsaid,
}

/// How the proof ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every step did what it should.
    Proved,
    /// A step failed, and said so in a panic.
    Failed,
}
