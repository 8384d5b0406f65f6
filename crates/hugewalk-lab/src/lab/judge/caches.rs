//! After a gather has flushed, and when `i_mmap` is released, no processor reaches a table that its address space has no entry
//! for, nor a page that it found there (I6).

use super::Judge;
use crate::lab::ground::{To, world};
use crate::lab::property::{Property, SECONDARY};
use crate::lab::trace;

pub(in crate::lab) struct Caches;

impl Judge for Caches {
    fn flushed() {
        Self::check();
    }
}

impl Caches {
    pub(super) fn check() {
        let stale = world().cached.find(|cached| {
            let pud = world().peek(cached.root, cached.start >> 39);
            pud.and_then(|pud| world().peek(pud, cached.start >> 30)) != Some(cached.table())
        });
        let Some(cached) = stale else { return };
        let table = cached.table();
        let by = if cached.cpu == Some(SECONDARY) {
            "a secondary MMU"
        } else if matches!(cached.to, To::Page(..)) {
            "a TLB"
        } else {
            "a paging-structure cache"
        };
        let whose = world().roots().position(|root| root == cached.root).map_or(0, |at| at + 1);
        let text =
            format!("{by} still reaches T{} for P{whose}, which has no entry for it any more", table.0);
        trace::is_about(table, false);
        world().violated(Property::I6, &text);
    }
}
