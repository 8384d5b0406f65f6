//! Files: size, pages, bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use hugewalk::addr::HugeSize;

use super::state::{File, Model, take_range};
use super::{Refused, Why};

impl Model {
    pub(super) fn new_file(&mut self, size_class: HugeSize, mount: Option<usize>, open: bool) -> usize {
        self.files.push(File {
            size_class,
            mount,
            size: 0,
            pages: BTreeMap::new(),
            reserved: BTreeSet::new(),
            paid: BTreeMap::new(),
            open,
            gone: false,
        });
        self.files.len() - 1
    }

    /// A file goes when nobody has it open or mapped, with its pages and reservations.
    pub(super) fn drop_unused_files(&mut self) {
        for file in 0..self.files.len() {
            let mapped = self
                .processes
                .iter()
                .flatten()
                .flat_map(|process| process.vmas.values())
                .any(|vma| vma.file == file);
            if !self.files[file].gone && !self.files[file].open && !mapped {
                self.drop_from(file, 0);
                self.files[file].gone = true;
            }
        }
    }

    /// Drops the pages from `index` on, then the reservations there.
    fn drop_from(&mut self, file: usize, index: u64) {
        for (_, page) in self.files[file].pages.split_off(&index) {
            self.put_page(page.frame);
        }
        self.files[file].paid.split_off(&index);
        let reservations = self.files[file].reserved.split_off(&index).len() as u64;
        self.give_back(self.files[file].mount, reservations);
    }

    /// Takes pages of a file out of every private mapping, copies included, one mapping after the other.
    fn zap_offsets(&mut self, file: usize, offsets: &Range<u64>) {
        let mut parts = Vec::new();
        for (process, found) in self.processes.iter().enumerate() {
            let vmas = found.iter().flat_map(|process| process.vmas.values());
            parts.extend(vmas.filter(|vma| vma.file == file && !vma.shared).filter_map(|vma| {
                let own = vma.offsets();
                let (from, to) = (own.start.max(offsets.start), own.end.min(offsets.end));
                let address = |index: u64| vma.start + ((index - vma.offset) << vma.size.shift());
                (from < to).then(|| (vma.offset, vma.turn.clone(), process, address(from)..address(to)))
            }));
        }
        parts.sort_by(|one, two| (one.0, &one.1).cmp(&(two.0, &two.1)));
        for (_, _, process, part) in parts {
            self.zap(process, &part);
        }
    }

    pub(super) fn truncate(&mut self, file: usize, size: u64) -> Result<(), Refused> {
        let class = self.files[file].size_class;
        if !class.is_aligned(size) {
            return Err(Refused("EINVAL", Why::Unaligned));
        }
        self.files[file].size = size;
        // Also where the file grew: it can have had pages, and reservations, beyond its end.
        self.zap_offsets(file, &(size >> class.shift()..u64::MAX));
        self.drop_from(file, size >> class.shift());
        Ok(())
    }

    pub(super) fn allocate(
        &mut self,
        file: usize,
        offset: u64,
        length: u64,
        keep_size: bool,
    ) -> Result<(), Refused> {
        if length == 0 {
            return Err(Refused("EINVAL", Why::ZeroLength));
        }
        let size = self.files[file].size_class;
        let end = offset + length;
        for index in offset >> size.shift()..end.div_ceil(size.bytes()) {
            self.file_page(file, index, false).map_err(|why| Refused("ENOSPC", why))?;
        }
        if !keep_size {
            self.files[file].size = self.files[file].size.max(end);
        }
        Ok(())
    }

    pub(super) fn punch(&mut self, file: usize, offset: u64, length: u64) -> Result<(), Refused> {
        if length == 0 {
            return Err(Refused("EINVAL", Why::ZeroLength));
        }
        let (size, end) = (self.files[file].size_class, offset + length);
        let whole = offset.div_ceil(size.bytes())..end >> size.shift();
        for (&index, page) in &mut self.files[file].pages {
            let start = index << size.shift();
            page.bytes.retain(|&at, _| !(offset..end).contains(&(start + at)));
        }
        if whole.is_empty() {
            return Ok(());
        }
        self.zap_offsets(file, &whole);
        let pages = take_range(&mut self.files[file].pages, whole);
        for (index, page) in pages {
            self.files[file].paid.remove(&index);
            self.put_page(page.frame);
        }
        Ok(())
    }

    pub(super) fn read(&self, file: usize, offset: u64, length: usize) -> Vec<u8> {
        let file = &self.files[file];
        let size = file.size_class;
        let byte = |at: u64| {
            let page = file.pages.get(&(at >> size.shift()));
            page.and_then(|page| page.bytes.get(&(at - size.round_down(at)))).copied().unwrap_or(0)
        };
        (offset..(offset + length as u64).min(file.size)).map(byte).collect()
    }

    /// Linux cannot write to these files; here, a write is an allocation of the pages one by one.
    pub(super) fn write(&mut self, file: usize, offset: u64, bytes: &[u8]) -> Result<(), Refused> {
        let size = self.files[file].size_class;
        for (at, &byte) in (offset..).zip(bytes) {
            let index = at >> size.shift();
            self.file_page(file, index, false).map_err(|why| Refused("ENOSPC", why))?;
            let page = self.files[file].pages.get_mut(&index).expect("it was allocated just now");
            page.bytes.insert(at - size.round_down(at), byte);
        }
        let file = &mut self.files[file];
        file.size = file.size.max(offset + bytes.len() as u64);
        Ok(())
    }
}
