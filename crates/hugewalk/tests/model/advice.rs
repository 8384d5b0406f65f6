//! madvise.

use std::ops::Range;

use hugewalk::fault::Access;
use hugewalk::mm::Advice;
use hugewalk::vma::Protection;

use super::mapping::page_range;
use super::state::{Model, Vma};
use super::{Refused, Why};

impl Model {
    pub(super) fn advise(
        &mut self,
        process: usize,
        address: u64,
        length: u64,
        advice: Advice,
    ) -> Result<(), Refused> {
        let range = page_range(self.format, address, length)?;
        match advice {
            Advice::DontNeed => self.each_mapping(process, &range, Self::dont_need),
            Advice::Remove => self.each_mapping(process, &range, Self::remove),
            Advice::PopulateRead => self.populate(process, &range, Access::Read, Protection::READ),
            Advice::PopulateWrite => self.populate(process, &range, Access::Write, Protection::WRITE),
            other => unreachable!("{other:?} is no part of the programs"),
        }
    }

    /// What is not mapped is an error, but of the rest nothing is left out.
    fn each_mapping(
        &mut self,
        process: usize,
        range: &Range<u64>,
        work: fn(&mut Self, usize, &Vma, Range<u64>) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let mut covered = 0;
        for start in self.process(process).overlapping(range) {
            let vma = self.process(process).vmas[&start].clone();
            let part = vma.start.max(range.start)..vma.end.min(range.end);
            covered += part.end - part.start;
            work(self, process, &vma, part)?;
        }
        if covered < range.end - range.start { Err(Refused("ENOMEM", Why::NotMapped)) } else { Ok(()) }
    }

    /// The start has to be a page's, the end is rounded down. Locked or not: huge pages are not locked in Linux.
    fn dont_need(&mut self, process: usize, vma: &Vma, part: Range<u64>) -> Result<(), Refused> {
        if !vma.size.is_aligned(part.start) {
            return Err(Refused("EINVAL", Why::Unaligned));
        }
        if !vma.shared {
            self.zap(process, &(part.start..vma.size.round_down(part.end)));
        }
        Ok(())
    }

    fn remove(&mut self, _: usize, vma: &Vma, part: Range<u64>) -> Result<(), Refused> {
        if !vma.shared {
            return Err(Refused("EACCES", Why::AccessDenied));
        }
        let offset = (vma.offset << vma.size.shift()) + (part.start - vma.start);
        self.punch(vma.file, offset, part.end - part.start)
    }

    fn populate(
        &mut self,
        process: usize,
        range: &Range<u64>,
        access: Access,
        right: Protection,
    ) -> Result<(), Refused> {
        let mut address = range.start;
        while address < range.end {
            let Some(vma) = self.process(process).find(address).cloned() else {
                // As kernels do from 6.9 on: what lies behind the hole is not populated.
                return Err(Refused("ENOMEM", Why::NotMapped));
            };
            if !vma.rights.contains(right) {
                return Err(Refused("EINVAL", Why::NotAllowed));
            }
            self.fault(process, address, access)?;
            address = vma.size.round_down(address) + vma.size.bytes();
        }
        Ok(())
    }
}
