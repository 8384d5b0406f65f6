//! Differences that are meant: where the engine does otherwise than Linux, and why.
//!
//! This is the whole list. A program that meets one of them ends there, for afterwards the two sides are not in the same
//! state any more. Each entry has a program that shows it, and a run looks whether it is still true, if the running kernel is one
//! of those it is said of; on others it is no excuse either.

use std::fmt;

use crate::compare::Difference;
use crate::observe::{Mapping, Observation, Outcome};
use crate::program::{Call, Handling, Modes, OnRange, Rights, Step};

/// A difference that is meant.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// Why the engine does otherwise.
    pub reason: &'static str,
    /// Which kernels are known to do it their way.
    pub kernels: Kernels,
    /// A program whose last step shows it.
    pub example: &'static str,
    /// Is it this?
    meets: fn(Met<'_>) -> bool,
}

/// Versions of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    /// The first that was looked at.
    first: Version,
    /// The last, if later ones have been seen to do otherwise.
    last: Option<Version>,
}

type Version = (u32, u32);

impl Kernels {
    pub(crate) const ALL: Self = Self { first: (0, 0), last: None };

    pub(crate) const fn since(major: u32, minor: u32) -> Self {
        Self { first: (major, minor), last: None }
    }

    const fn until(self, major: u32, minor: u32) -> Self {
        Self { last: Some((major, minor)), ..self }
    }

    /// Is the running kernel one of them?
    #[must_use]
    pub fn is_running(self) -> bool {
        let name = rustix::system::uname();
        // One that does not say which it is counts as a new one.
        self.include(name.release().to_str().ok().and_then(version).unwrap_or((u32::MAX, 0)))
    }

    fn include(self, version: Version) -> bool {
        self.first <= version && self.last.is_none_or(|last| version <= last)
    }
}

/// The version that a release such as `6.18.44-1-cloud` starts with.
fn version(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.first;
        match self.last {
            None if *self == Self::ALL => f.write_str("all kernels"),
            None => write!(f, "Linux {major}.{minor} and later"),
            Some(last) => write!(f, "Linux {major}.{minor} to {}.{}", last.0, last.1),
        }
    }
}

/// A step, and what was observed after it.
#[derive(Clone, Copy)]
pub(crate) struct Met<'s> {
    pub(crate) step: &'s Step,
    /// Has there been a mount with `min_size`?
    pub(crate) minimum: bool,
    pub(crate) kernel: &'s Observation,
    pub(crate) engine: &'s Observation,
    /// What of it is not the same, as far as the kernel can be asked.
    pub(crate) differences: &'s [Difference],
}

/// All of them.
pub const KNOWN: &[Known] = &[
    Known {
        name: "refused",
        reason: "A munmap, mprotect, madvise, mremap, mbind or UFFDIO_UNREGISTER that is refused with EINVAL, because its range ends in the middle of a huge page, \
                 has split the mapping at the start of the range by then, and mprotect has given what lies before the last \
                 mapping its new rights, as UFFDIO_UNREGISTER has unregistered it. On the engine what is refused changes nothing.",
        kernels: Kernels::since(6, 1),
        example: "p0 map fresh at=1g+1p length=4p rights=rw shared fixed noreserve; p0 unmap 1g+3p 1p+4096",
        meets: refused,
    },
    Known {
        name: "write",
        reason: "Linux has no write(2) for these files; the engine has, for kernels that load the memory of a guest.",
        kernels: Kernels::ALL,
        example: "pool 2; open f0 memory; truncate f0 1p; write f0 0 7",
        meets: |met| matches!(met.step, Step::Write { .. }),
    },
    Known {
        name: "robbed-stays-robbed",
        reason: "A child whose page was taken away for the owner of its reservation gets SIGBUS there. On Linux its own child \
                 does not, and finds a page of zeroes where there was something else; on the engine it gets SIGBUS too.",
        kernels: Kernels::since(6, 1),
        example: "pool 1; p0 map fresh at=1g+1p length=1p rights=rw fixed; p0 store 1g+1p 7; p0 fork p1; p0 store 1g+1p 8; \
                  pool 2; p1 fork p2; p2 load 1g+1p",
        meets: robbed,
    },
    Known {
        name: "reservation-first",
        reason: "A mapping that takes the place of another on a mount with min_size gets its reservations before the other gives its \
                 own back, so that nothing is lost if there are none. The mount then holds more in reserve than on Linux, \
                 which unmaps first, until it is unmounted.",
        kernels: Kernels::since(6, 1),
        example: "pool 3; mount m0 min=1; open f0 m0; p0 map f0+0 at=1g+9p length=1p rights=rw fixed; \
                  p0 map f0+0 at=1g+9p length=1p rights=rw fixed",
        meets: reservation_first,
    },
    Known {
        name: "no-page-to-copy-to",
        reason: "A UFFDIO_COPY for which there is no page is refused with EEXIST, as if somebody else had just brought the page. \
                 On the engine it is refused with ENOMEM, as manuals and Linux 6.1 say.",
        kernels: Kernels::since(6, 18),
        example: "p0 map fresh at=1g+1p length=1p rights=rw shared fixed noreserve; p0 uffd open; \
                  p0 uffd register 1g+1p 1p missing; p0 uffd copy 1g+1p 1p 7",
        meets: no_page_to_copy_to,
    },
    Known {
        name: "unregister-by-another",
        reason: "A handler may unregister what another handler of the process has registered. Linux 6.17 put an end to that, and the \
                 engine follows.",
        kernels: Kernels::since(6, 1).until(6, 16),
        example: "p0 map fresh at=1g+1p length=1p rights=rw shared fixed noreserve; p0 uffd open; p0 uffd2 open; \
                  p0 uffd register 1g+1p 1p missing; p0 uffd2 unregister 1g+1p 1p",
        meets: unregistered_by_another,
    },
];

/// The difference that is known to be between what was observed after a step.
#[must_use]
pub(crate) fn find(met: Met<'_>) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.kernels.is_running() && (known.meets)(met))
}

/// Both refuse it, and the mappings differ in nothing but where they are split, and after mprotect or unregistering in their
/// rights and what they are registered for.
fn refused(Met { step, kernel, engine, .. }: Met<'_>) -> bool {
    let splits = matches!(
        step,
        Step::In {
            call: Call::Unmap { .. }
                | Call::Protect { .. }
                | Call::Remap { .. }
                | Call::Advise { .. }
                | Call::Bind { .. }
                | Call::Map(_)
                | Call::Userfault { handling: Handling::On { what: OnRange::Unregister, .. }, .. },
            ..
        }
    );
    let is_refused = |seen: &Observation| seen.outcome == Outcome::Error("EINVAL");
    let rest_equal = kernel.pool == engine.pool && kernel.files == engine.files;
    let whole = |seen: &Observation| {
        let changes = matches!(step, Step::In { call: Call::Protect { .. } | Call::Userfault { .. }, .. });
        let mappings = |process: &crate::observe::ProcessState| whole(&process.mappings, changes);
        seen.processes.each_ref().map(|process| process.as_ref().map(mappings))
    };
    splits && is_refused(kernel) && is_refused(engine) && rest_equal && whole(kernel) == whole(engine)
}

/// Mappings with those joined that one mapping could be, whatever their rights and handlers if `any_kind`. How many pages they have is
/// left out: a split takes shared tables away.
fn whole(mappings: &[Mapping], any_kind: bool) -> Vec<Mapping> {
    let mut joined: Vec<Mapping> = Vec::new();
    for mapping in mappings {
        let mut mapping = Mapping { shared_pages: 0, private_pages: 0, ..mapping.clone() };
        if any_kind {
            mapping.rights = Rights::empty();
            mapping.handled = Modes::empty();
        }
        if let Some(last) = joined.last()
            && (last.end, last.rights, last.shared, last.handled)
                == (mapping.start, mapping.rights, mapping.shared, mapping.handled)
            && last.offset.0 + (last.end.0 - last.start.0) == mapping.offset.0
        {
            mapping = Mapping { end: mapping.end, ..last.clone() };
            joined.pop();
        }
        joined.push(mapping);
    }
    joined
}

fn robbed(Met { step, kernel, engine, .. }: Met<'_>) -> bool {
    let access = matches!(
        step,
        Step::In {
            call: Call::Load { .. }
                | Call::Store { .. }
                | Call::Sweep { .. }
                | Call::Lock { .. }
                | Call::Advise { .. }
                | Call::Peek { .. }
                | Call::Poke { .. },
            ..
        }
    );
    let bus_error = |seen: &Observation| {
        // mlock has an error of its own for it.
        matches!(
            seen.outcome,
            Outcome::Signal { code: "BUS_ADRERR", .. } | Outcome::Error("EFAULT" | "ENOMEM")
        )
    };
    access && !bus_error(kernel) && bus_error(engine)
}

fn reservation_first(Met { step, minimum, kernel, engine, differences }: Met<'_>) -> bool {
    let maps = matches!(step, Step::In { call: Call::Map(_) | Call::Attach { .. }, .. });
    let more = engine.pool.reserved > kernel.pool.reserved;
    let pool = crate::observe::Pool { reserved: kernel.pool.reserved, ..engine.pool };
    // Not all that is observed is compared: a kernel may not keep track of what was written.
    let rest_equal = pool == kernel.pool && differences.iter().all(|difference| difference.what == "pool");
    maps && minimum && more && rest_equal
}

fn no_page_to_copy_to(Met { step, kernel, engine, .. }: Met<'_>) -> bool {
    let copies =
        matches!(step, Step::In { call: Call::Userfault { handling: Handling::Copy { .. }, .. }, .. });
    let outcomes = (&kernel.outcome, &engine.outcome);
    let refused = outcomes == (&Outcome::Error("EEXIST"), &Outcome::Error("ENOMEM"));
    copies && refused && kernel.pool == engine.pool && kernel.files == engine.files
}

fn unregistered_by_another(Met { step, kernel, engine, .. }: Met<'_>) -> bool {
    let unregisters = matches!(
        step,
        Step::In {
            call: Call::Userfault { handling: Handling::On { what: OnRange::Unregister, .. }, .. },
            ..
        }
    );
    unregisters && kernel.outcome == Outcome::Done && engine.outcome == Outcome::Error("EINVAL")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Bytes, PAGE, Program};

    #[test]
    fn each_example_can_be_read() {
        for known in KNOWN {
            assert!(known.example.parse::<Program>().is_ok(), "{}", known.name);
        }
    }

    #[test]
    fn promising_first_is_known_also_where_pages_were_written() {
        let pool = |reserved| crate::observe::Pool { total: 10, free: 9, reserved, surplus: 0 };
        let page = crate::observe::PageState {
            at: Bytes(0),
            map: crate::observe::PageMap::SOFT_DIRTY,
            residency: crate::observe::Residency::Resident,
            policy: None,
            bytes: Vec::new(),
        };
        let seen = |reserved, pages| Observation {
            outcome: Outcome::Done,
            faults: None,
            pool: pool(reserved),
            files: [None; crate::program::FILES],
            processes: [Some(crate::observe::ProcessState { pages, ..Default::default() }), None, None, None],
        };
        let step = "p0 map f0 at=1g length=2p rights=rw fixed".parse::<Program>().unwrap().steps.remove(0);
        let (kernel, engine) = (seen(6, Vec::new()), seen(7, vec![page]));
        let difference =
            |what: &str| Difference { what: what.into(), kernel: String::new(), engine: String::new() };
        let known = |differences: &[Difference]| {
            reservation_first(Met {
                step: &step,
                minimum: true,
                kernel: &kernel,
                engine: &engine,
                differences,
            })
        };
        assert!(known(&[difference("pool")]));
        assert!(!known(&[difference("pool"), difference("p0 mapping 0")]));
    }

    #[test]
    fn an_entry_is_about_the_kernels_it_names() {
        assert_eq!(version("6.18.44-1-cloud"), Some((6, 18)));
        assert_eq!(version("7.0-rc1"), Some((7, 0)));
        assert_eq!(version("linux"), None);
        let (open, closed) = (Kernels::since(6, 1), Kernels::since(6, 1).until(6, 16));
        assert!(open.include((6, 18)) && open.include((7, 0)) && !open.include((5, 19)));
        assert!(closed.include((6, 16)) && !closed.include((6, 17)));
        assert_eq!(
            (open.to_string(), closed.to_string()),
            ("Linux 6.1 and later".into(), "Linux 6.1 to 6.16".into())
        );
    }

    #[test]
    fn only_what_one_mapping_could_be_is_joined() {
        let mapping = |start, end, offset, rights| Mapping {
            start: Bytes(start * PAGE),
            end: Bytes(end * PAGE),
            rights,
            shared: true,
            offset: Bytes(offset * PAGE),
            handled: Modes::empty(),
            shared_pages: 1,
            private_pages: 0,
        };
        let (r, w) = (Rights::READ, Rights::WRITE);
        let apart = [mapping(0, 2, 0, r), mapping(2, 3, 2, r), mapping(3, 4, 3, w), mapping(4, 5, 0, w)];
        let ends: Vec<_> = whole(&apart, false).iter().map(|mapping| mapping.end.0 / PAGE).collect();
        assert_eq!(ends, [3, 4, 5]);
        assert_eq!(whole(&apart, true).len(), 2);
    }
}
