//! fork and exit.

use super::state::{Entry, Model, Process};

impl Model {
    /// The child has the private pages as they are, and none of the reservations. What is shared it finds in the file, and so it
    /// does all of a private mapping that never had a page of its own.
    pub(super) fn fork(&mut self, from: usize, to: usize) {
        self.next_turn += 1;
        let behind = u64::MAX - self.next_turn;
        let parent = self.process(from);
        let mut child = Process { vmas: parent.vmas.clone(), private: parent.private.clone() };
        for vma in parent.vmas.values().filter(|vma| !vma.anon) {
            child.private.retain(|address, _| !(vma.start..vma.end).contains(address));
        }
        for vma in child.vmas.values_mut() {
            // Here: a robbed mapping stays so in the child. (Linux forgets it, and the grandchild finds zeroes.)
            (vma.reserved, vma.payer) = (None, None);
            vma.turn.push(behind);
        }
        for entry in child.private.values() {
            if let Entry::Own { frame, .. } = entry {
                self.frames.get_mut(frame).expect("the parent has it").holders += 1;
            }
        }
        self.processes[to] = Some(child);
    }

    pub(super) fn exit(&mut self, process: usize) {
        self.unmap_range(process, &(0..u64::MAX));
        self.processes[process] = None;
        self.drop_unused_files();
    }
}
