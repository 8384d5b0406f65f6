//! mmap, munmap, mprotect, mremap.

use std::collections::BTreeSet;
use std::ops::Range;

use hugewalk::addr::VirtAddr;
use hugewalk::fault::Access;
use hugewalk::mm::{MapFlags, Placement, RemapTo};
use hugewalk::vma::Protection;

use super::format::Format;
use super::state::{Model, Vma, take_range};
use super::{Map, Refused, What, Why};

/// Nothing is mapped lower than this unless it is asked for.
const LOWEST: u64 = 64 << 10;

const fn einval(why: Why) -> Refused {
    Refused("EINVAL", why)
}

/// The range that an address and a length in bytes mean.
pub(super) fn page_range(format: Format, address: u64, length: u64) -> Result<Range<u64>, Refused> {
    if !address.is_multiple_of(format.page()) {
        return Err(einval(Why::UnalignedAddress));
    }
    Ok(address..address + length.next_multiple_of(format.page()))
}

impl Model {
    pub(super) fn map(&mut self, process: usize, map: &Map) -> Result<u64, Refused> {
        let (size, offset) = match map.what {
            What::File { slot, offset } => (self.files[self.slot(slot)].size_class, offset),
            What::Anonymous(size) => (size, 0),
        };
        if !offset.is_multiple_of(self.format.page()) {
            return Err(einval(Why::Unaligned));
        }
        if map.length == 0 {
            return Err(einval(Why::ZeroLength));
        }
        let length = map.length.next_multiple_of(size.bytes());
        let start = self.place(process, map.placement, length, size.bytes())?;
        let range = start..start + length;
        self.may_cut(process, &range)?;
        if !size.is_aligned(offset) {
            self.unmap_range(process, &range);
            self.drop_unused_files();
            return Err(einval(Why::Unaligned));
        }
        let file = match map.what {
            What::File { slot, .. } => self.slot(slot),
            What::Anonymous(size) => self.new_file(size, None, true),
        };
        let mut vma = Vma {
            start,
            end: range.end,
            file,
            offset: offset >> size.shift(),
            size,
            rights: map.rights,
            shared: map.flags.contains(MapFlags::SHARED),
            noreserve: map.flags.contains(MapFlags::NORESERVE),
            reserved: None,
            payer: None,
            robbed: false,
            anon: false,
            turn: self.last_turn(),
        };
        if let What::Anonymous(_) = map.what {
            self.files[file].size = length;
        }
        let mut reserved = Ok(());
        if !vma.noreserve {
            // Here: the reservation is asked for before the old mappings go, and once more after they have gone.
            reserved = self.reserve(&mut vma);
            if reserved.is_err() {
                self.unmap_range(process, &range);
                // What is reserved for the files of the old ones is theirs until the call is over.
                reserved = self.reserve(&mut vma);
            }
        }
        if let What::Anonymous(_) = map.what {
            // From here on it is open no more: it lives as long as it is mapped.
            self.files[file].open = false;
        }
        if let Err(why) = reserved {
            self.drop_unused_files();
            return Err(Refused("ENOMEM", why));
        }
        self.unmap_range(process, &range);
        self.pending = None;
        if vma.rights.contains(Protection::WRITE) {
            let file = &mut self.files[file];
            file.size = file.size.max(offset + length);
        }
        self.process(process).vmas.insert(start, vma);
        self.drop_unused_files();
        if map.flags.intersects(MapFlags::POPULATE | MapFlags::LOCKED) && !map.rights.is_empty() {
            let private = !map.flags.contains(MapFlags::SHARED);
            let write = private && map.rights.contains(Protection::WRITE);
            let access = if write { Access::Write } else { Access::Read };
            let mut pages = range.step_by(size.bytes() as usize);
            let _ = pages.try_for_each(|address| self.fault(process, address, access));
        }
        Ok(start)
    }

    /// A shared mapping reserves the pages that the file neither has nor has reserved; a private one reserves all of its own.
    fn reserve(&mut self, vma: &mut Vma) -> Result<(), Why> {
        let file = &self.files[vma.file];
        let wanted: BTreeSet<u64> = vma
            .offsets()
            .filter(|index| !vma.shared || !(file.pages.contains_key(index) || file.reserved.contains(index)))
            .collect();
        let file_mount = file.mount;
        self.reserve_on(vma.size, file_mount, wanted.len() as u64)?;
        if vma.shared {
            let file = &mut self.files[vma.file];
            file.paid
                .extend(self.payer.iter().flat_map(|&payer| wanted.iter().map(move |&index| (index, payer))));
            file.reserved.extend(wanted);
        } else {
            vma.payer = self.payer;
            self.pending = file_mount.map(|mount| (mount, wanted.len() as u64));
            vma.reserved = Some(wanted);
        }
        Ok(())
    }

    fn place(&self, process: usize, placement: Placement, length: u64, size: u64) -> Result<u64, Refused> {
        let vmas = &self.processes[process].as_ref().expect("calls name processes that live");
        let is_free = |start: u64| vmas.overlapping(&(start..start + length)).is_empty();
        let anywhere = |top: u64| {
            // The highest place is right below a mapping, or at the top.
            let ceilings = vmas.vmas.keys().copied().chain([top]).filter(|&end| end <= top);
            let starts = ceilings.filter_map(|end| (end / size * size).checked_sub(length));
            let good = starts.filter(|&start| start >= LOWEST && is_free(start));
            good.max().ok_or(Refused("ENOMEM", Why::NoRoom))
        };
        match placement {
            Placement::Fixed(start) | Placement::FixedNoReplace(start) => {
                let start = start.as_u64();
                if !start.is_multiple_of(self.format.page()) {
                    return Err(einval(Why::UnalignedAddress));
                }
                if !start.is_multiple_of(size) {
                    return Err(einval(Why::Unaligned));
                }
                if start + length > self.top {
                    return Err(Refused("ENOMEM", Why::NoRoom));
                }
                if start < LOWEST {
                    return Err(Refused("EPERM", Why::TooLow));
                }
                if matches!(placement, Placement::FixedNoReplace(_)) && !is_free(start) {
                    return Err(Refused("EEXIST", Why::Exists));
                }
                Ok(start)
            }
            Placement::Hint(hint) => {
                let start = (hint.as_u64() & !(self.format.page() - 1)).next_multiple_of(size);
                let above = start > self.window;
                let one_side = above == (start + length > self.window);
                if start > 0 && start + length <= self.top && one_side && is_free(start) {
                    return Ok(start);
                }
                anywhere(if above { self.top } else { self.window })
            }
            Placement::Anywhere => anywhere(self.window),
            Placement::Below(end) => anywhere(end.as_u64().min(self.top)),
        }
    }

    /// Is each VMA that reaches across an end of the range cut at a page of its own?
    pub(super) fn may_cut(&self, process: usize, range: &Range<u64>) -> Result<(), Refused> {
        let process = self.processes[process].as_ref().expect("calls name processes that live");
        for point in [range.start, range.end] {
            let found = process.find(point).filter(|vma| vma.start < point);
            if found.is_some_and(|vma| !vma.size.is_aligned(point)) {
                return Err(einval(Why::Unaligned));
            }
        }
        Ok(())
    }

    pub(super) fn unmap(&mut self, process: usize, address: u64, length: u64) -> Result<(), Refused> {
        let range = page_range(self.format, address, length)?;
        if length == 0 {
            return Err(einval(Why::ZeroLength));
        }
        self.unmap_free(process, &range)?;
        self.drop_unused_files();
        Ok(())
    }

    fn unmap_free(&mut self, process: usize, range: &Range<u64>) -> Result<(), Refused> {
        if range.end > self.top {
            return Err(einval(Why::Overflow));
        }
        self.may_cut(process, range)?;
        self.unmap_range(process, range);
        Ok(())
    }

    /// Cuts the VMAs that reach across the ends of a range, which can be cut there.
    fn cut(&mut self, process: usize, range: &Range<u64>) {
        for point in [range.start, range.end] {
            let found = self.process(process).find(point);
            if let Some(vma) = found.filter(|vma| vma.start < point).cloned() {
                for (start, end) in [(vma.start, point), (point, vma.end)] {
                    let part = Vma { turn: self.last_turn(), ..vma.part(start, end) };
                    self.process(process).vmas.insert(start, part);
                }
            }
        }
    }

    pub(super) fn unmap_range(&mut self, process: usize, range: &Range<u64>) {
        self.cut(process, range);
        let gone = self.process(process).overlapping(range);
        // All pages first, then all reservations: how much of them a mount keeps depends on the order.
        for start in &gone {
            let end = self.process(process).vmas[start].end;
            self.zap(process, &(*start..end));
        }
        for start in gone {
            let vma = self.process(process).vmas.remove(&start).expect("it was there a moment ago");
            if let Some(reserved) = vma.reserved {
                let mount = self.files[vma.file].mount;
                self.give_back(mount, reserved.len() as u64);
            }
        }
    }

    /// Takes what private mappings have away. A process that made the mapping with reservations has that of a page back which it had for
    /// itself, as in kernels from 6.12 on; but not while there are surplus pages.
    pub(super) fn zap(&mut self, process: usize, range: &Range<u64>) {
        let private = &mut self.process(process).private;
        let gone = take_range(private, range.clone());
        let format = self.format;
        let surplus = format.sizes().map(|size| self.counters(size).surplus);
        for (address, entry) in gone {
            let super::state::Entry::Own { frame, .. } = entry else { continue };
            let alone = self.frames[&frame].holders == 1;
            let vma = self.process(process).find_mut(address).expect("what is mapped has a mapping");
            let (index, size) = (vma.index(address), vma.size);
            match &mut vma.reserved {
                // Here: if others hold the page, its reservation stays used. (Linux restores it when they let go.)
                Some(reserved) if alone && surplus[format.index(size)] == 0 => {
                    assert!(reserved.insert(index), "the page was reserved once");
                    self.frames.remove(&frame);
                }
                _ => self.put_page(frame),
            }
        }
    }

    pub(super) fn protect(
        &mut self,
        process: usize,
        address: u64,
        length: u64,
        rights: Protection,
    ) -> Result<(), Refused> {
        let range = page_range(self.format, address, length)?;
        if range.is_empty() {
            return Ok(());
        }
        let mut end = range.start;
        while let Some(vma) = self.process(process).find(end).filter(|_| end < range.end) {
            end = vma.end.min(range.end);
        }
        // Here: nothing changes if any mapping before the first hole cannot be cut.
        let changes = |model: &mut Self, start: u64| model.process(process).vmas[&start].rights != rights;
        let mut starts = self.process(process).overlapping(&(range.start..end));
        starts.retain(|&start| changes(self, start));
        let part = |vma: &Vma| vma.start.max(range.start)..vma.end.min(end);
        for start in &starts {
            let part = part(&self.process(process).vmas[start]);
            self.may_cut(process, &part)?;
        }
        for start in starts {
            let part = part(&self.process(process).vmas[&start]);
            self.cut(process, &part);
            self.process(process).find_mut(part.start).expect("it was cut out just now").rights = rights;
        }
        if end < range.end { Err(Refused("ENOMEM", Why::NotMapped)) } else { Ok(()) }
    }

    /// As kernels do from 6.17 on.
    pub(super) fn remap(
        &mut self,
        process: usize,
        old: u64,
        old_length: u64,
        new_length: u64,
        to: RemapTo,
    ) -> Result<u64, Refused> {
        let (old_length, new_length) = (
            old_length.next_multiple_of(self.format.page()),
            new_length.next_multiple_of(self.format.page()),
        );
        if !old.is_multiple_of(self.format.page()) {
            return Err(einval(Why::UnalignedAddress));
        }
        if new_length == 0 {
            return Err(einval(Why::ZeroLength));
        }
        if let RemapTo::Fixed(new) = to {
            let new = new.as_u64();
            if !new.is_multiple_of(self.format.page()) {
                return Err(einval(Why::UnalignedAddress));
            }
            if new < old + old_length && old < new + new_length {
                return Err(einval(Why::Overlaps));
            }
            if old_length == new_length {
                return self.move_each(process, old..old + old_length, new);
            }
        }
        let address = self.remap_one(process, old, old_length, new_length, to)?;
        self.drop_unused_files();
        Ok(address)
    }

    /// Each mapping of a range moves by itself, and holes stay holes, but not the first.
    fn move_each(&mut self, process: usize, source: Range<u64>, new: u64) -> Result<u64, Refused> {
        if self.process(process).find(source.start).is_none() {
            return Err(Refused("EFAULT", Why::BadAddress));
        }
        for start in self.process(process).overlapping(&source) {
            let vma = self.process(process).find(start).expect("moves take away what they move alone");
            let (from, to) = (start.max(source.start), vma.end.min(source.end));
            let target = RemapTo::Fixed(VirtAddr::new(new + (from - source.start)));
            let moved = self.remap_one(process, from, to - from, to - from, target);
            self.drop_unused_files();
            moved?;
        }
        Ok(new)
    }

    fn remap_one(
        &mut self,
        process: usize,
        old: u64,
        old_length: u64,
        new_length: u64,
        to: RemapTo,
    ) -> Result<u64, Refused> {
        let Some(vma) = self.process(process).find(old).cloned() else {
            return Err(Refused("EFAULT", Why::BadAddress));
        };
        let size = vma.size;
        let new = match to {
            RemapTo::Fixed(new) => new.as_u64(),
            RemapTo::InPlace | RemapTo::Anywhere => old,
        };
        if !size.is_aligned(old) || !size.is_aligned(new) {
            return Err(einval(Why::Unaligned));
        }
        let source = old..old + old_length.next_multiple_of(size.bytes());
        let kept = old..old + new_length.next_multiple_of(size.bytes());
        if kept.end > source.end {
            return Err(einval(Why::Grows));
        }
        let tail = kept.end..source.end;
        let RemapTo::Fixed(_) = to else {
            // Whatever lies there; and nobody asks whether what is kept is one mapping, or one at all.
            if !tail.is_empty() {
                self.unmap_free(process, &tail)?;
            }
            return Ok(old);
        };
        if kept.end > vma.end {
            return Err(Refused("EFAULT", Why::BadAddress));
        }
        let target = new..new + (kept.end - kept.start);
        self.unmap_free(process, &target)?;
        if !tail.is_empty() {
            self.unmap_free(process, &tail)?;
        }
        self.cut(process, &kept);
        let turn = self.last_turn();
        let process = self.process(process);
        let mut vma = process.vmas.remove(&old).expect("it was cut out just now");
        (vma.start, vma.end, vma.turn) = (target.start, target.end, turn);
        process.vmas.insert(new, vma);
        let moved = take_range(&mut process.private, kept.clone());
        process.private.extend(moved.into_iter().map(|(address, entry)| (address - old + new, entry)));
        Ok(new)
    }
}
