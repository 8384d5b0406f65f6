//! What the engine's functions are called in Linux: the one table of it.

/// File below `crates/hugewalk/src`, the functions in it (empty: all the others), and the function of Linux that does the
/// same. The first line that fits counts. What is in no line has no counterpart, or is its caller's.
#[rustfmt::skip]
const NAMES: &[(&str, &[&str], &str)] = &[
    ("walk.rs", &[], "huge_pte_offset"),
    ("share.rs", &["unshare_locked", "huge_pmd_unshare"], "huge_pmd_unshare"),
    ("share.rs", &["share", "partner_table", "same_place_in_table"], "huge_pmd_share"),
    ("share.rs", &["huge_pte_alloc"], "huge_pte_alloc"),
    ("tree.rs", &["alloc_down_to", "populate", "reach"], "huge_pte_alloc"),
    ("tree.rs", &["with_slot"], "pmd_alloc"),
    ("base/mod.rs", &["host_slot", "lend"], "pmd_populate"),
    ("base/mod.rs", &["host_slots", "visit_all", "visit_parts"], "free_pgd_range"),
    ("tree.rs", &["free_unneeded", "free_if_empty"], "hugetlb_free_pgd_range"),
    ("gather.rs", &["flush", "put"], "tlb_flush_mmu"),
    ("gather.rs", &["finish", "drop"], "tlb_finish_mmu"),
    ("table/slot.rs", &["attach"], "huge_pte_alloc"),
    ("table/slot.rs", &["detach"], "huge_pmd_unshare"),
    ("table/slot.rs", &["peek", "confirm", "confirm_unchanged", "check"], "huge_ptep_get"),
    ("task.rs", &["rcu_read_lock"], "rcu_read_lock"),

    ("vma/guard.rs", &["try_lock"], "hugetlb_vma_trylock_write"),
    ("file/i_mmap.rs", &["i_mmap_read", "i_mmap_read_within"], "i_mmap_lock_read"),
    ("file/i_mmap.rs", &["i_mmap_write", "i_mmap_write_within"], "i_mmap_lock_write"),
    ("space/mod.rs", &["mmap_read"], "mmap_read_lock"),
    ("space/mod.rs", &["mmap_try_read"], "mmap_read_trylock"),
    ("space/mod.rs", &["mmap_write"], "mmap_write_lock"),

    ("fault/mod.rs", &["wait"], "migration_entry_wait_huge"),
    ("fault/mod.rs", &[], "hugetlb_fault"),
    ("fault/attempt.rs", &["attempt", "present"], "hugetlb_fault"),
    ("fault/attempt.rs", &["copy"], "hugetlb_wp"),
    ("fault/attempt.rs", &["rob_children"], "unmap_ref_private"),
    ("fault/attempt.rs", &[], "hugetlb_no_page"),
    ("fault/run.rs", &[], "populate_vma_page_range"),

    ("mm/advise.rs", &["dont_need", "droppable"], "zap_page_range"),
    ("mm/advise.rs", &["remove"], "madvise_remove"),
    ("mm/advise.rs", &["madvise"], "do_madvise"),
    ("mm/unmap.rs", &["munmap"], "do_munmap"),
    ("mm/unmap.rs", &["empty_vma", "try_empty_vma", "unmap_range", "apply"], "unmap_region"),
    ("mm/unmap.rs", &["free_tables"], "hugetlb_free_pgd_range"),
    ("vm_ops/unmap.rs", &["empty", "try_empty", "zap_all"], "unmap_region"),
    ("vm_ops/unmap.rs", &["free_tables_unless"], "hugetlb_free_pgd_range"),
    ("vm_ops/zap.rs", &[], "zap_page_range"),
    ("entries/copy.rs", &["exchange"], "hugetlb_wp"),
    ("entries/copy.rs", &[], "copy_hugetlb_page_range"),
    ("entries/displace.rs", &["arrive"], "remove_migration_ptes"),
    ("entries/displace.rs", &[], "try_to_unmap"),
    ("entries/moved.rs", &[], "move_hugetlb_page_tables"),
    ("entries/protect.rs", &["make_writable"], "hugetlb_wp"),
    ("entries/protect.rs", &[], "hugetlb_change_protection"),
    ("entries/zap.rs", &[], "__unmap_hugepage_range"),
    ("mm/exit.rs", &[], "exit_mmap"),
    ("mm/fork.rs", &["fork", "copy_vmas"], "dup_mmap"),
    ("vm_ops/copy.rs", &["link_copy", "copy_if_needed"], "dup_mmap"),
    ("vm_ops/copy.rs", &[], "copy_hugetlb_page_range"),
    ("mm/map.rs", &["mmap", "place"], "do_mmap"),
    ("mm/map.rs", &["map_file"], "hugetlbfs_file_mmap"),
    ("vm_ops/map.rs", &[], "hugetlbfs_file_mmap"),
    ("mm/lock.rs", &["populate"], "populate_vma_page_range"),
    ("mm/lock.rs", &["mlock"], "do_mlock"),
    ("mm/lock.rs", &["munlock"], "munlock"),
    ("mm/lock.rs", &["mlockall"], "apply_mlockall_flags"),
    ("mm/protect.rs", &["mprotect"], "do_mprotect_pkey"),
    ("mm/protect.rs", &[], "hugetlb_change_protection"),
    ("vm_ops/exchange.rs", &["change_entries"], "hugetlb_change_protection"),
    ("mm/remap.rs", &["mremap", "remap"], "mremap"),
    ("vm_ops/remap.rs", &["move_entries", "make_tables"], "move_hugetlb_page_tables"),
    ("vm_ops/remap.rs", &[], "move_vma"),
    ("mm/remap.rs", &[], "move_vma"),
    ("vm_ops/split.rs", &["unshare_at_cuts"], "hugetlb_split"),
    ("vm_ops/split.rs", &[], "__split_vma"),
    ("space/split.rs", &[], "__split_vma"),

    ("truncate.rs", &["truncate"], "hugetlb_vmtruncate"),
    ("file/mod.rs", &["set_size"], "hugetlb_vmtruncate"),
    ("truncate.rs", &["punch_hole", "punch_page"], "hugetlbfs_punch_hole"),
    ("truncate.rs", &["unmap_offsets", "unmap_what_is_free", "unmap_from"], "hugetlb_vmdelete_list"),
    ("truncate.rs", &["remove_page"], "remove_inode_hugepages"),
    ("file/mod.rs", &["next_page"], "remove_inode_hugepages"),
    ("truncate.rs", &["unmap_page", "maps_any"], "hugetlb_unmap_file_folio"),
    ("file/mod.rs", &["insert_page", "insert_where", "insert_beyond_eof", "insert_run"], "hugetlb_add_to_page_cache"),
    ("file/mod.rs", &["find_page", "find_run", "has_index"], "find_lock_page"),
    ("file/io.rs", &["allocate", "find_or_allocate"], "hugetlbfs_fallocate"),
    ("file/io.rs", &["read_at"], "hugetlbfs_read_iter"),

    ("gup/follow.rs", &["follow_fast", "take_fast"], "gup_huge_pmd"),
    ("gup/follow.rs", &["follow_fast_run"], "gup_pmd_range"),
    ("gup/follow.rs", &["must_unshare"], "gup_must_unshare"),
    ("gup/follow.rs", &[], "hugetlb_follow_page_mask"),
    ("gup/locked.rs", &[], "follow_hugetlb_page"),
    ("gup/mod.rs", &["pin_pages_fast", "pin_page_fast"], "get_user_pages_fast"),
    ("gup/mod.rs", &["follow_page", "pin_page", "pin_with", "pin_run"], "follow_page"),
    ("gup/mod.rs", &[], "get_user_pages"),
    ("pagewalk/mod.rs", &[], "walk_hugetlb_range"),
    ("pagewalk/reports.rs", &["pagemap", "page_map"], "pagemap_hugetlb_range"),
    ("pagewalk/reports.rs", &["numa_maps"], "gather_hugetlb_stats"),
    ("rmap/walk.rs", &["lock", "table"], "page_vma_mapped_walk"),
    ("rmap/walk.rs", &[], "rmap_walk_file"),
    ("rmap/displace.rs", &[], "try_to_unmap"),
    ("rmap/migrate.rs", &["remap"], "remove_migration_ptes"),
    ("rmap/migrate.rs", &[], "unmap_and_move_huge_page"),
    ("rmap/failure.rs", &["referenced"], "folio_referenced"),
    ("rmap/failure.rs", &["unpoison"], "unpoison_memory"),
    ("rmap/failure.rs", &[], "memory_failure"),
    ("uffd/fault.rs", &["must_wait"], "userfaultfd_huge_must_wait"),
    ("uffd/fault.rs", &["wait"], "handle_userfault"),
    ("uffd/fill.rs", &[], "hugetlb_mcopy_atomic_pte"),
    ("uffd/protect.rs", &[], "mwriteprotect_range"),
    ("uffd/register.rs", &["unshare_all"], "hugetlb_unshare_all_pmds"),
    ("uffd/register.rs", &["unregister", "unregister_all", "unregister_where"], "userfaultfd_unregister"),
    ("uffd/register.rs", &[], "userfaultfd_register"),

    ("pool.rs", &["take", "available"], "dequeue_huge_page_vma"),
    ("pool.rs", &["free", "give_back"], "free_huge_page"),
    ("reserve/reservation.rs", &["reserve_range"], "hugetlb_reserve_pages"),
    ("reserve/reservation.rs", &["take", "commit"], "alloc_huge_page"),
    ("page/put.rs", &["put", "put_page"], "put_page"),
    ("page.rs", &["add_mapping"], "page_dup_file_rmap"),
    ("page.rs", &["remove_mapping"], "page_remove_rmap"),
];

/// The function of Linux that does what this one does.
pub(super) fn function(file: &str, function: &str) -> Option<&'static str> {
    let file = file.strip_prefix("crates/hugewalk/src/")?;
    let fits = |&&(at, functions, _): &&(&str, &[&str], &str)| {
        file == at && (functions.is_empty() || functions.contains(&function))
    };
    NAMES.iter().find(fits).map(|&(_, _, kernel)| kernel)
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Has a file of the repository, or with a `/` at the end any file below a directory, a function of this name? With `*`: is it
    /// there?
    pub(in crate::lab::trace) fn is_there(file: &str, function: &str) -> bool {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
        if path.is_dir() != file.ends_with('/') {
            return false;
        }
        let mut text = String::new();
        read(&path, &mut text);
        let has = |end: char| text.contains(&format!("fn {function}{end}"));
        !text.is_empty() && (function == "*" || has('(') || has('<'))
    }

    fn read(path: &Path, text: &mut String) {
        match fs::read_dir(path) {
            Ok(entries) => entries.for_each(|entry| read(&entry.expect("readable").path(), text)),
            Err(_) => text.push_str(&fs::read_to_string(path).unwrap_or_default()),
        }
    }

    /// The table names files and functions; if one is renamed, the table has to follow.
    #[test]
    fn every_function_of_the_table_is_there() {
        for (file, functions, kernel) in NAMES {
            let path = format!("crates/hugewalk/src/{file}");
            assert!(is_there(&path, "*"), "{file} for {kernel}");
            for function in *functions {
                assert!(is_there(&path, function), "{file}: {function} for {kernel}");
            }
        }
    }
}
