//! Which pages are reserved, from first principles: the counters of a pool are sums over reservations and pages in use, and are
//! kept nowhere.

use hugewalk::addr::HugeSize;
use hugewalk::pool::PoolCounters;

use super::Refused;
use super::Why;
use super::state::{Frame, Model, Mount, Pool};
use crate::common::Group;

impl Model {
    pub(super) fn pool(&mut self, size: HugeSize) -> &mut Pool {
        let index = self.format.index(size);
        &mut self.pools[index]
    }

    /// The counters as they have to be: free pages are those not in use; a pool is larger than it was configured only
    /// where reservations and pages in use need it to be.
    pub(crate) fn counters(&self, size: HugeSize) -> PoolCounters {
        let limit = self.pools[self.format.index(size)].limit;
        let in_use = self.frames.values().filter(|frame| frame.size == size).count() as u64;
        let of_files = self.files.iter().filter(|file| file.size_class == size);
        let of_mounts = (0..self.mounts.len()).filter(|&mount| self.mounts[mount].size == size);
        let reserved = of_files.map(|file| file.reserved.len() as u64).sum::<u64>()
            + self.private_reservations(|vma| vma.size == size)
            + of_mounts
                .filter(|&mount| self.is_alive(mount))
                .map(|mount| self.mounts[mount].reserved)
                .sum::<u64>();
        let total = limit.max(in_use + reserved);
        PoolCounters { total, free: total - in_use, reserved, surplus: total - limit }
    }

    fn private_reservations(&self, of: impl Fn(&super::state::Vma) -> bool) -> u64 {
        let vmas = self.processes.iter().flatten().flat_map(|process| process.vmas.values());
        let reserved = vmas.filter(|vma| of(vma)).filter_map(|vma| vma.reserved.as_ref());
        reserved.map(|reserved| reserved.len() as u64).sum()
    }

    /// A mount lives as long as it is mounted, or has files or pages.
    fn is_alive(&self, mount: usize) -> bool {
        self.mounts[mount].open
            || self.files.iter().any(|file| !file.gone && file.mount == Some(mount))
            || self.frames.values().any(|frame| frame.mount == Some(mount))
    }

    /// What counts against a mount: reservations and pages.
    fn used_of(&self, mount: usize) -> u64 {
        let pending = self.pending.filter(|pending| pending.0 == mount).map_or(0, |pending| pending.1);
        let files = self.files.iter().filter(|file| file.mount == Some(mount));
        pending
            + files.map(|file| file.reserved.len() as u64).sum::<u64>()
            + self.private_reservations(|vma| self.files[vma.file].mount == Some(mount))
            + self.frames.values().filter(|frame| frame.mount == Some(mount)).count() as u64
    }

    /// Can the pool spare so many pages, or get them?
    fn can_spare(&self, size: HugeSize, pages: u64) -> bool {
        let now = self.counters(size);
        let needed = pages.saturating_sub(now.free - now.reserved);
        let overcommit = self.pools[self.format.index(size)].overcommit;
        needed == 0 || now.surplus + needed <= overcommit
    }

    /// May so many pages be reserved on a mount? What the mount's minimum covers is reserved already. The caller notes
    /// whose reservation it is.
    pub(super) fn reserve_on(&mut self, size: HugeSize, mount: Option<usize>, pages: u64) -> Result<(), Why> {
        let covered = match mount {
            Some(mount) => {
                let left = self.mounts[mount].max.map_or(u64::MAX, |max| max - self.used_of(mount));
                if pages > left {
                    return Err(Why::SubPoolFull);
                }
                pages.min(self.mounts[mount].reserved)
            }
            None => 0,
        };
        if !self.can_spare(size, pages - covered) {
            return Err(Why::PoolEmpty);
        }
        if let Some(mount) = mount {
            self.mounts[mount].reserved -= covered;
        }
        Ok(())
    }

    /// So many pages or reservations no longer count against the mount; the caller has removed them already. A mount
    /// with a maximum fills its minimum up when its use falls below that; one without, at once.
    pub(super) fn give_back(&mut self, mount: Option<usize>, pages: u64) {
        let Some(mount) = mount else { return };
        let used = self.used_of(mount);
        let Mount { max, min, reserved, .. } = &mut self.mounts[mount];
        let min = min.unwrap_or(0);
        if max.is_none() || used < min {
            *reserved += pages.min(min - *reserved);
        }
    }

    /// A page that was reserved; the caller removes the reservation.
    pub(super) fn reserved_page(&mut self, size: HugeSize, mount: Option<usize>) -> u64 {
        self.next_frame += 1;
        self.frames.insert(self.next_frame, Frame { size, mount, holders: 1, payer: None });
        self.next_frame
    }

    /// A page that was not reserved.
    pub(super) fn spare_page(&mut self, size: HugeSize, mount: Option<usize>) -> Result<u64, Why> {
        self.reserve_on(size, mount, 1)?;
        let frame = self.reserved_page(size, mount);
        self.frames.get_mut(&frame).expect("it was made just now").payer = self.payer;
        Ok(frame)
    }

    /// What a group has paid for as reserved: for reservations of files, for private mappings, and for pages that were taken
    /// without a reservation.
    pub(crate) fn paid_as_reserved(&self, size: HugeSize, group: Group) -> u64 {
        let files = self.files.iter().filter(|file| file.size_class == size);
        let of_files = files.flat_map(|file| file.paid.values()).filter(|payer| **payer == group).count();
        let vmas = self.processes.iter().flatten().flat_map(|process| process.vmas.values());
        let vmas = vmas.filter(|vma| vma.size == size && vma.payer == Some(group));
        let frames = self.frames.values().filter(|frame| frame.size == size && frame.payer == Some(group));
        (of_files + frames.count()) as u64
            + vmas.map(|vma| (vma.end - vma.start) >> size.shift()).sum::<u64>()
    }

    pub(super) fn put_page(&mut self, frame: u64) {
        let found = self.frames.get_mut(&frame).expect("pages are put by who has them");
        found.holders -= 1;
        if found.holders == 0 {
            let mount = found.mount;
            self.frames.remove(&frame);
            self.give_back(mount, 1);
        }
    }

    pub(super) fn new_mount(
        &mut self,
        slot: usize,
        max: Option<u64>,
        min: Option<u64>,
    ) -> Result<(), Refused> {
        if let (Some(max), Some(min)) = (max, min)
            && min > max
        {
            return Err(Refused("EINVAL", Why::MinAboveMax));
        }
        let (size, reserved) = (self.format.small, min.unwrap_or(0));
        if !self.can_spare(size, reserved) {
            return Err(Refused("ENOMEM", Why::PoolEmpty));
        }
        self.mounts.push(Mount { open: true, size, max, min, reserved });
        self.mount_slots[slot] = Some(self.mounts.len() - 1);
        Ok(())
    }
}
