//! Changing an entry step by step: what a processor or another thread does to the same entry between any two steps.
//!
//! A memory management unit takes no lock. It sets the accessed and dirty bits of an entry at any moment, and whoever
//! changes the entry must not lose them. The stand-in here walks from the root by loads alone and sets the bits by
//! compare-and-swap, as the hardware does.

mod stepped;

use std::sync::atomic::Ordering;

use hugewalk::addr::{HugeFrame, VirtAddr};
use hugewalk::arch::{Entry, LeafFlags, RawEntry, X86_64};
use hugewalk::fault::{Access, Fault};
use hugewalk::mm::{Advice, Backing, MapFlags, MapRequest, Placement, RemapTo};
use hugewalk::platform::Tables as _;
use hugewalk::sync::{Arc, Word};
use hugewalk::uffd::{Features, Modes, ProtectMode, Userfault};
use hugewalk::vma::Protection;
use hugewalk_host::{Contents, Host, HostConfig};

use stepped::{Stepped, SteppedWord, Steps, interrupt, steps_of};

type Hugetlb = hugewalk::Hugetlb<Stepped>;
type AddressSpace = hugewalk::AddressSpace<Stepped>;
type Task = hugewalk::Task<Stepped>;

const MIB2: u64 = X86_64::SIZE_2M.bytes();
const BASE: VirtAddr = VirtAddr::new(8 << 30);
const ELSEWHERE: VirtAddr = VirtAddr::new(32 << 30);
const RW: Protection = Protection::READ.union(Protection::WRITE);
/// Bits of the manual.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

/// One process that has written one page.
struct World {
    hugetlb: Arc<Hugetlb>,
    space: Arc<AddressSpace>,
    task: Task,
}

impl World {
    fn new(kind: MapFlags, pool: u64) -> Self {
        let mut world = Self::untouched(kind, pool);
        world.space.fault(&mut world.task, BASE, Access::Write).unwrap();
        world
    }

    fn untouched(kind: MapFlags, pool: u64) -> Self {
        let config = HostConfig::new().huge_bytes(16 * MIB2).max_tables(100).contents(Contents::Nothing);
        let hugetlb = Hugetlb::new(Stepped(Host::new(&config).unwrap())).unwrap();
        assert_eq!(hugetlb.resize_pool(X86_64::SIZE_2M, pool), pool);
        let mut task = hugewalk_host::task(&hugetlb).unwrap();
        let space = AddressSpace::new(&hugetlb).unwrap();
        let request = MapRequest {
            placement: Placement::Fixed(BASE),
            length: MIB2,
            protection: RW,
            flags: kind | MapFlags::NORESERVE,
            backing: Backing::Anonymous(X86_64::SIZE_2M),
        };
        space.mmap(&mut task, &request).unwrap();
        Self { hugetlb, space, task }
    }

    fn frame(&self) -> HugeFrame {
        match entry(&self.space, BASE) {
            Entry::Leaf(leaf) => leaf.frame,
            other => panic!("{other:?} where a page was mapped"),
        }
    }
}

// The unit.

/// The word that a walk of the hardware ends at.
fn word(space: &AddressSpace, address: VirtAddr) -> Option<&SteppedWord> {
    let platform = space.mm().hugetlb().platform();
    let mut frame = space.mm().root_frame();
    let mut entry = None;
    for shift in [39, 30, 21] {
        if let Some(above) = entry {
            let above: &SteppedWord = above;
            frame = RawEntry::from_bits(above.load(Ordering::SeqCst)).table()?;
        }
        // SAFETY: a root, or a table that an entry points to; these tests free none while they look.
        let place = unsafe { platform.table_entry(frame, (address.as_u64() >> shift & 511) as usize) };
        // SAFETY: as above.
        entry = Some(unsafe { place.as_ref() });
    }
    entry
}

fn entry(space: &AddressSpace, address: VirtAddr) -> Entry {
    word(space, address).map_or(Entry::None, |word| RawEntry::from_bits(word.load(Ordering::SeqCst)).decode())
}

/// Sets bits of an entry that allows the access. False if it does not: the processor faults then.
fn access(space: &AddressSpace, address: VirtAddr, needed: u64, bits: u64) -> bool {
    let Some(word) = word(space, address) else { return false };
    loop {
        let now = word.load(Ordering::SeqCst);
        if now & needed != needed {
            return false;
        }
        if word.compare_exchange(now, now | bits, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return true;
        }
    }
}

fn load(space: &AddressSpace, address: VirtAddr) -> bool {
    access(space, address, PRESENT, ACCESSED)
}

fn store(space: &AddressSpace, address: VirtAddr) -> bool {
    access(space, address, PRESENT | WRITABLE, ACCESSED | DIRTY)
}

/// Makes an entry as if nobody had used the page yet.
fn clean(space: &AddressSpace, address: VirtAddr) {
    word(space, address).unwrap().fetch_and(!(ACCESSED | DIRTY), Ordering::SeqCst);
}

/// Carries `work` out on a clean entry, with an access before each step of it in turn; `work` says where the page is mapped
/// afterwards. The bits of every access that the entry allowed are there then.
fn keeps(name: &str, kind: MapFlags, flags: LeafFlags, work: impl Fn(&mut World) -> VirtAddr) {
    let mut hit = 0;
    for number in 0.. {
        let mut world = World::new(kind, 4);
        clean(&world.space, BASE);
        let space = world.space.clone();
        let mut seen = false;
        let turn =
            || seen = if flags.contains(LeafFlags::DIRTY) { store(&space, BASE) } else { load(&space, BASE) };
        let (at, interrupted) = interrupt(number, Steps::Words, turn, || work(&mut world));
        if !interrupted {
            assert!(hit > 0, "{name}: no access in {number} steps");
            return;
        }
        hit += u32::from(seen);
        let now = entry(&world.space, at);
        let Entry::Leaf(leaf) = now else { panic!("{name}: {now:?} after step {number}") };
        assert!(
            !seen || leaf.flags.contains(flags),
            "{name}: lost before step {number}: {leaf:?}, not {flags:?}"
        );
    }
}

const KINDS: [MapFlags; 2] = [MapFlags::empty(), MapFlags::SHARED];

#[test]
fn no_change_of_an_entry_loses_the_bits_that_a_processor_sets_meanwhile() {
    for (kind, flags) in KINDS.into_iter().flat_map(|kind| {
        [LeafFlags::ACCESSED, LeafFlags::ACCESSED | LeafFlags::DIRTY].map(|flags| (kind, flags))
    }) {
        keeps("a fault for a load", kind, flags, |world| {
            assert_eq!(world.space.fault(&mut world.task, BASE, Access::Read), Ok(Fault::Present));
            BASE
        });
        keeps("a fault for a store", kind, flags, |world| {
            assert_eq!(world.space.fault(&mut world.task, BASE, Access::Write), Ok(Fault::Present));
            BASE
        });
        for rights in [Protection::READ, RW | Protection::EXECUTE, Protection::empty()] {
            keeps("mprotect", kind, flags, |world| {
                world.space.mprotect(&mut world.task, BASE, MIB2, rights).unwrap();
                BASE
            });
        }
        keeps("clearing soft-dirty", kind, flags, |world| {
            world.space.clear_soft_dirty(&mut world.task).unwrap();
            BASE
        });
        keeps("fork", kind, flags, |world| {
            world.space.fork(&mut world.task).unwrap().exit(&mut world.task).unwrap();
            BASE
        });
        keeps("mremap", kind, flags, |world| {
            world.space.mremap(&mut world.task, BASE, MIB2, MIB2, RemapTo::Fixed(ELSEWHERE)).unwrap()
        });
        for advice in [Advice::PopulateRead, Advice::PopulateWrite] {
            keeps("populating", kind, flags, |world| {
                world.space.madvise(&mut world.task, BASE, MIB2, advice).unwrap();
                BASE
            });
        }
        keeps("migration", kind, flags, |world| {
            let frame = world.frame();
            world.hugetlb.migrate(&mut world.task, frame).unwrap();
            BASE
        });
        keeps("a handler's write protection", kind, flags, |world| {
            let uffd = Userfault::new(&world.space, Features::empty()).unwrap();
            uffd.register(&mut world.task, BASE, MIB2, Modes::WP).unwrap();
            uffd.write_protect(&mut world.task, BASE, MIB2, ProtectMode::WP).unwrap();
            BASE
        });
    }
}

#[test]
fn asking_whether_a_page_was_used_does_not_make_it_clean() {
    for kind in KINDS {
        keeps("asking", kind, LeafFlags::DIRTY, |world| {
            let frame = world.frame();
            world.hugetlb.referenced(&mut world.task, frame).unwrap();
            BASE
        });
    }
}

/// Read-only and dirty is how x86-64 spells a page of a shadow stack, on which a processor with CET stores return addresses.
#[test]
fn no_entry_looks_like_a_page_of_a_shadow_stack_at_any_step() {
    fn looks_so(space: &AddressSpace) -> bool {
        let bits = word(space, BASE).map_or(0, |word| word.load(Ordering::SeqCst));
        bits & (PRESENT | WRITABLE | DIRTY) == PRESENT | DIRTY
    }
    let works: [(&str, fn(&mut World)); 5] = [
        ("fork", |world| drop(world.space.fork(&mut world.task).unwrap())),
        ("mprotect", |world| world.space.mprotect(&mut world.task, BASE, MIB2, Protection::READ).unwrap()),
        ("clearing soft-dirty", |world| world.space.clear_soft_dirty(&mut world.task).unwrap()),
        ("migration", |world| {
            world.space.clear_soft_dirty(&mut world.task).unwrap();
            let frame = world.frame();
            world.hugetlb.migrate(&mut world.task, frame).unwrap();
        }),
        ("a handler's write protection", |world| {
            let uffd = Userfault::new(&world.space, Features::empty()).unwrap();
            uffd.register(&mut world.task, BASE, MIB2, Modes::WP).unwrap();
            uffd.write_protect(&mut world.task, BASE, MIB2, ProtectMode::WP).unwrap();
        }),
    ];
    for (name, work) in works {
        for number in 0.. {
            let mut world = World::new(MapFlags::empty(), 4);
            let space = world.space.clone();
            let mut wrong = false;
            let ((), interrupted) =
                interrupt(number, Steps::Words, || wrong = looks_so(&space), || work(&mut world));
            assert!(!wrong && !looks_so(&world.space), "{name}, step {number}");
            let Entry::Leaf(leaf) = entry(&world.space, BASE) else { panic!("{name}: the page is gone") };
            assert!(leaf.flags.contains(LeafFlags::DIRTY), "{name} has made the page clean");
            if !interrupted {
                break;
            }
        }
    }
}

/// The write protection of a fork, taken back by a fault of the one that is alone with its page.
#[test]
fn a_page_that_is_reused_keeps_what_was_seen_of_it() {
    for access in [Access::Read, Access::Write] {
        keeps("a fault after a fork", MapFlags::empty(), LeafFlags::ACCESSED, |world| {
            world.space.fork(&mut world.task).unwrap().exit(&mut world.task).unwrap();
            world.space.fault(&mut world.task, BASE, access).unwrap();
            BASE
        });
    }
}

/// Does `work` with another thread's load from the same page before each step of it in turn. The page is mapped all the
/// time, and the pool is empty: a fault that took the entry for empty would end with an error.
fn stays_mapped(name: &str, work: impl Fn(&mut World)) {
    for number in 0.. {
        let mut world = World::new(MapFlags::empty(), 1);
        let (hugetlb, space) = (world.hugetlb.clone(), world.space.clone());
        let mut result = None;
        let turn =
            || result = Some(space.fault(&mut hugewalk_host::task(&hugetlb).unwrap(), BASE, Access::Read));
        let ((), interrupted) = interrupt(number, Steps::WordsAndLocks, turn, || work(&mut world));
        if !interrupted {
            return;
        }
        let result = result.expect("it has had its turn");
        assert!(result.is_ok(), "{name}: {result:?} at a page that is mapped, before step {number}");
    }
}

#[test]
fn a_page_that_is_mapped_never_gives_a_bus_error() {
    stays_mapped("clearing soft-dirty", |world| world.space.clear_soft_dirty(&mut world.task).unwrap());
    stays_mapped("asking whether it was used", |world| {
        let frame = world.frame();
        world.hugetlb.referenced(&mut world.task, frame).unwrap();
    });
    stays_mapped("a fault for a store", |world| {
        world.space.fault(&mut world.task, BASE, Access::Write).unwrap();
    });
}

/// Told by the steps: a second fault finds the page present, and that takes steps of its own.
#[test]
fn populating_for_stores_faults_each_page_once() {
    for kind in KINDS {
        let populate = |world: &mut World| {
            world.space.madvise(&mut world.task, BASE, MIB2, Advice::PopulateWrite).unwrap();
        };
        let fault = |world: &mut World| {
            world.space.fault(&mut world.task, BASE, Access::Write).unwrap();
        };
        let steps = |mut world: World, work: &dyn Fn(&mut World)| steps_of(Steps::Words, || work(&mut world));
        let (fresh, present) = (steps(World::untouched(kind, 1), &fault), steps(World::new(kind, 1), &fault));
        let populated = steps(World::untouched(kind, 1), &populate);
        assert!(populated < fresh + present, "{populated} steps; a fault takes {fresh}, another {present}");
    }
}
