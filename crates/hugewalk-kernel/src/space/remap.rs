//! mremap over both kinds of pages.

use alloc::sync::Arc;

use hugewalk::addr::VirtAddr;
use hugewalk::mm::RemapTo;

use super::area::Backing;
use super::map::Place;
use super::root::bits;
use super::{Space, user_range};
use crate::errno::{Errno, Result};
use crate::memory::PAGE;
use crate::memory::page::BasePage;
use crate::task::current;
use crate::uffd::Moving;

/// Where a mapping may move to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Nowhere.
    No,
    /// Anywhere (`MREMAP_MAYMOVE`).
    May,
    /// Here (`MREMAP_FIXED`).
    To(u64),
}

impl Space {
    /// Moves or resizes a mapping, and returns where it is. Sleeps.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the range is not in one mapping, `EINVAL`, `ENOMEM`; those of the engine's mremap.
    pub fn remap(self: &Arc<Self>, old: u64, old_length: u64, new_length: u64, to: Move) -> Result<u64> {
        if !old.is_multiple_of(PAGE) || new_length == 0 {
            return Err(Errno::EINVAL);
        }
        // Where nothing is mapped, the engine says what is wrong.
        let is_base = self.areas().read().find(old).is_some();
        if !is_base {
            return self.remap_huge(old, old_length, new_length, to);
        }
        self.remap_base(old, old_length, new_length, to)
    }

    fn remap_huge(&self, old: u64, old_length: u64, new_length: u64, to: Move) -> Result<u64> {
        let to = match to {
            Move::No => RemapTo::InPlace,
            Move::May => RemapTo::Anywhere,
            Move::To(new) => {
                let (start, end) = user_range(new, new_length).map_err(|_| Errno::EINVAL)?;
                let areas = self.areas().read();
                let in_the_way = areas.overlapping(start, end).next().is_some();
                drop(areas);
                if in_the_way {
                    // Base pages at the new place go; the engine sees to its own.
                    self.unmap(start, end - start)?;
                }
                RemapTo::Fixed(VirtAddr::new(new))
            }
        };
        let mut task = current().task()?;
        let moved = self.engine().mremap(&mut task, VirtAddr::new(old), old_length, new_length, to)?;
        Ok(moved.as_u64())
    }

    fn remap_base(self: &Arc<Self>, old: u64, old_length: u64, new_length: u64, to: Move) -> Result<u64> {
        let new_length = new_length.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
        let old_length = old_length.checked_next_multiple_of(PAGE).ok_or(Errno::EINVAL)?;
        let (_, old_end) = user_range(old, old_length).map_err(|_| Errno::EINVAL)?;
        // Where it goes, or where it would end here.
        let (new, new_end) = match to {
            Move::To(new) => user_range(new, new_length).map_err(|_| Errno::EINVAL)?,
            Move::May | Move::No => (old, old.checked_add(new_length).ok_or(Errno::ENOMEM)?),
        };
        let mut area = {
            let areas = self.areas().read();
            let area = areas.find(old).ok_or(Errno::EFAULT)?;
            if area.end < old_end {
                return Err(Errno::EFAULT);
            }
            area.part(old, old_end.max(old + PAGE).min(area.end))
        };
        // A part of the stack does not grow where it goes.
        area.stack = false;
        if old_length == 0 {
            // A second mapping of shared memory.
            area.handler = None;
            return if area.shared { self.map_base(place(to), new_length, area) } else { Err(Errno::EINVAL) };
        }
        if !matches!(to, Move::To(_)) {
            if new_length < old_length {
                self.unmap(old + new_length, old_length - new_length)?;
                return Ok(old);
            }
            if new_length == old_length {
                return Ok(old);
            }
            let mut rest = area.clone();
            if let Backing::Source { index, .. } = &mut rest.backing {
                *index += old_length / PAGE;
            }
            rest.start = old_end;
            rest.end = new_end;
            if self.map_area(rest, false).is_ok() {
                return Ok(old);
            }
            if to == Move::No {
                return Err(Errno::ENOMEM);
            }
        }
        if matches!(to, Move::To(_)) && new < old_end && old < new_end {
            return Err(Errno::EINVAL);
        }
        let moving = Moving::begin(&mut area);
        let new = self.map_base(place(to), new_length, area)?;
        let kept = old_length.min(new_length);
        self.move_pages(old, new, kept)?;
        let unmapped = self.unmap_untold(old, old_length)?;
        if let Some(moving) = moving {
            moving.tell(old, new, old_length);
        }
        unmapped.tell();
        Ok(new)
    }

    /// Moves the pages of a range to a range that has none.
    fn move_pages(&self, old: u64, new: u64, length: u64) -> Result<()> {
        let areas = self.areas().write();
        for at in (old..old + length).step_by(PAGE as usize) {
            let entry = self.base(at);
            if entry & bits::KEPT == 0 {
                if entry != 0 && self.replace(new + (at - old), 0, entry).is_err() {
                    return Err(Errno::ENOMEM);
                }
                continue;
            }
            // SAFETY: the old entry keeps a reference until it is unmapped; the new one gets one of its own.
            let mapped = core::mem::ManuallyDrop::new(unsafe { BasePage::from_address(entry & bits::FRAME) });
            let shared = areas.find(at).is_some_and(|area| area.shared);
            // Until the old entry is gone the page has two; a store to a private one would copy it, which is right, only slow.
            let value = if shared { entry } else { entry & !bits::WRITE };
            if self.replace(new + (at - old), 0, value).is_err() {
                return Err(Errno::ENOMEM);
            }
            // INVARIANT: the new entry keeps it.
            BasePage::clone(&mapped).into_address();
        }
        Ok(())
    }
}

fn place(to: Move) -> Place {
    match to {
        Move::To(new) => Place::Fixed(new),
        Move::May | Move::No => Place::Hint(0),
    }
}
