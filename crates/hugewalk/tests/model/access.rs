//! Loads and stores, and the faults they take.

use std::collections::BTreeMap;

use hugewalk::fault::Access;
use hugewalk::vma::Protection;

use super::state::{Bytes, Entry, FilePage, Model, Vma};
use super::{Refused, Why};

const fn fault(why: Why) -> Refused {
    Refused("EFAULT", why)
}

fn allows(rights: Protection, access: Access) -> bool {
    match access {
        Access::Read => !rights.is_empty(),
        Access::Write => rights.contains(Protection::WRITE),
        Access::Execute => rights.contains(Protection::EXECUTE),
    }
}

impl Model {
    pub(super) fn load(&mut self, process: usize, address: u64, access: Access) -> Result<u64, Refused> {
        self.fault(process, address, access)?;
        let (bytes, offset) = self.bytes_at(process, address).expect("the fault brought the page");
        Ok(u64::from(bytes.get(&offset).copied().unwrap_or(0)))
    }

    pub(super) fn store(&mut self, process: usize, address: u64, value: u8) -> Result<(), Refused> {
        self.fault(process, address, Access::Write)?;
        let vma = self.process(process).find(address).expect("the fault found it").clone();
        let page = vma.size.round_down(address);
        let bytes = if vma.shared {
            &mut self.files[vma.file].pages.get_mut(&vma.index(page)).expect("the fault brought it").bytes
        } else {
            match self.process(process).private.get_mut(&page) {
                Some(Entry::Own { bytes, .. }) => bytes,
                _ => panic!("a fault for writing leaves a page of one's own"),
            }
        };
        bytes.insert(address - page, value);
        Ok(())
    }

    /// What a process has at an address, and the offset there. For a shared mapping: what the file has.
    pub(crate) fn bytes_at(&self, process: usize, address: u64) -> Option<(&Bytes, u64)> {
        let process = self.processes[process].as_ref()?;
        let vma = process.find(address)?;
        let page = vma.size.round_down(address);
        let of_file = || self.files[vma.file].pages.get(&vma.index(page)).map(|page| &page.bytes);
        let bytes = match process.private.get(&page) {
            _ if vma.shared => of_file(),
            Some(Entry::Own { bytes, .. }) => Some(bytes),
            Some(Entry::OfFile) => of_file(),
            None => None,
        };
        bytes.map(|bytes| (bytes, address - page))
    }

    /// Makes an address fit for an access.
    pub(super) fn fault(&mut self, process: usize, address: u64, access: Access) -> Result<(), Refused> {
        let Some(vma) = self.process(process).find(address).cloned() else {
            return Err(fault(Why::NotMapped));
        };
        if !allows(vma.rights, access) {
            return Err(fault(Why::Protection));
        }
        let address = vma.size.round_down(address);
        if vma.shared {
            self.file_page(vma.file, vma.index(address), true).map_err(fault)
        } else {
            self.private_fault(process, &vma, address, access == Access::Write).map_err(fault)
        }
    }

    /// Gives a file the page, if it has not; below its end alone if `within`.
    pub(super) fn file_page(&mut self, number: usize, index: u64, within: bool) -> Result<(), Why> {
        let file = &mut self.files[number];
        if file.pages.contains_key(&index) {
            return Ok(());
        }
        let (size, mount) = (file.size_class, file.mount);
        // A page that the file ends in the middle of is beyond its end.
        if within && index >= file.size >> size.shift() {
            return Err(Why::BeyondEof);
        }
        let frame = if file.reserved.remove(&index) {
            self.reserved_page(size, mount)
        } else {
            self.spare_page(size, mount)?
        };
        self.files[number].pages.insert(index, FilePage { frame, bytes: Bytes::new() });
        Ok(())
    }

    fn private_fault(&mut self, process: usize, vma: &Vma, address: u64, write: bool) -> Result<(), Why> {
        let index = vma.index(address);
        let file = &self.files[vma.file];
        let in_file = file.pages.get(&index).map(|page| page.bytes.clone());
        let beyond = index >= file.size >> vma.size.shift();
        match self.process(process).private.get(&address).cloned() {
            Some(Entry::Own { .. }) | Some(Entry::OfFile) if !write => Ok(()),
            Some(Entry::Own { frame, bytes }) => self.own_for_writing(process, vma, address, frame, bytes),
            Some(Entry::OfFile) => {
                let bytes = in_file.expect("what leaves the file leaves every mapping");
                self.new_private(process, vma, address, bytes)
            }
            None if vma.robbed => Err(Why::TakenAway),
            None => match in_file {
                Some(_) if !write => {
                    self.process(process).private.insert(address, Entry::OfFile);
                    Ok(())
                }
                Some(bytes) => {
                    // Without a page for the copy the file's is mapped all the same.
                    self.process(process).private.insert(address, Entry::OfFile);
                    self.new_private(process, vma, address, bytes)
                }
                None if beyond => Err(Why::BeyondEof),
                None => {
                    self.process(process).find_mut(address).expect("the fault found it").anon = true;
                    self.new_private(process, vma, address, BTreeMap::new())
                }
            },
        }
    }

    /// A page for a private mapping alone: a reserved one, if the reservation was not used, else any.
    fn new_private(&mut self, process: usize, vma: &Vma, address: u64, bytes: Bytes) -> Result<(), Why> {
        let (size, mount, index) = (vma.size, self.files[vma.file].mount, vma.index(address));
        let vma = self.process(process).find_mut(address).expect("the fault found it");
        let frame = if vma.reserved.as_mut().is_some_and(|reserved| reserved.remove(&index)) {
            self.reserved_page(size, mount)
        } else {
            self.spare_page(size, mount)?
        };
        let process = self.process(process);
        process.find_mut(address).expect("the fault found it").anon = true;
        process.private.insert(address, Entry::Own { frame, bytes });
        Ok(())
    }

    /// A page that was shared by fork, for a store: who is alone with it has it; else it is copied; and who made the
    /// mapping, with a reservation, takes it from its children if there is no page for a copy.
    fn own_for_writing(
        &mut self,
        process: usize,
        vma: &Vma,
        address: u64,
        frame: u64,
        bytes: Bytes,
    ) -> Result<(), Why> {
        if self.frames[&frame].holders == 1 {
            return Ok(());
        }
        match self.spare_page(vma.size, self.files[vma.file].mount) {
            Ok(copy) => {
                self.process(process).private.insert(address, Entry::Own { frame: copy, bytes });
                self.put_page(frame);
                Ok(())
            }
            Err(why) if vma.reserved.is_none() => Err(why),
            Err(_) => {
                self.rob(vma.file, vma.index(address), frame);
                assert_eq!(self.frames[&frame].holders, 1, "only children share a page of a private mapping");
                Ok(())
            }
        }
    }

    fn rob(&mut self, file: usize, index: u64, frame: u64) {
        let mut robbed = 0;
        for process in self.processes.iter_mut().flatten() {
            let children = process.vmas.values_mut().filter(|vma| !vma.shared && vma.reserved.is_none());
            for vma in children.filter(|vma| vma.file == file) {
                let Some(address) = vma.address(index) else { continue };
                let has_it = matches!(process.private.get(&address), Some(Entry::Own { frame: has, .. }) if *has == frame);
                if has_it {
                    process.private.remove(&address);
                    vma.robbed = true;
                    robbed += 1;
                }
            }
        }
        for _ in 0..robbed {
            self.put_page(frame);
        }
    }
}
