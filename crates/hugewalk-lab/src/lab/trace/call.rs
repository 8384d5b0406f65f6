//! Steps as they would be written in Linux.

use crate::story::StepKind;

/// An access to a word.
pub(super) fn word(kind: StepKind, object: &str, before: &str, after: &str) -> String {
    let is_pud = object.contains(".pud[") || object.contains(".pgd[");
    let is_leaf = object.starts_with('T') && object.ends_with(']');
    let counts_down =
        || before.parse::<i64>().ok().zip(after.parse::<i64>().ok()).is_some_and(|(old, new)| new < old);
    let (owner, field) = object.split_once('.').unwrap_or((object, ""));
    match (kind, field) {
        (StepKind::Read, _) if is_pud => format!("pudp_get({object}) -> {before}"),
        (StepKind::Read, _) if is_leaf => format!("huge_ptep_get({object}) -> {before}"),
        (StepKind::Read, "users") => format!("{owner}.pt_share_count -> {before}"),
        (StepKind::Read, _) => format!("{object} -> {before}"),
        (_, _) if is_pud && after == "none" => format!("pud_clear({object})  // was {before}"),
        (_, _) if is_pud => format!("pud_populate({object}, {after})"),
        (_, _) if is_leaf && after == "none" => format!("huge_ptep_get_and_clear({object})"),
        (_, _) if is_leaf => format!("set_huge_pte_at({object}, {after})"),
        (_, "users") if counts_down() => format!("{owner}.pt_share_count--  // {before} -> {after}"),
        (_, "users") => format!("{owner}.pt_share_count++  // {before} -> {after}"),
        _ => format!("{object}: {before} -> {after}"),
    }
}

/// Something done to a lock: `i_mmap, write` taken is `i_mmap_lock_write()`. A lock that is tried may be taken, too.
pub(crate) fn lock(kind: StepKind, name: &str, tried: bool) -> String {
    let (what, mode) = name.split_once(", ").unwrap_or((name, ""));
    let (lock, fails) = match kind {
        StepKind::Unlock => ("unlock", ""),
        StepKind::TryLock => ("trylock", "  // fails"),
        _ if tried => ("trylock", ""),
        _ => ("lock", ""),
    };
    let call = match what.rsplit_once(" of ") {
        Some(("mmap lock", process)) => format!("mmap_{mode}_{lock}({process})"),
        Some(("lock", above)) if above.contains("(P") => {
            format!("spin_{lock}({}.ptl)", above.split(' ').next().unwrap_or(above))
        }
        Some(("VMA lock", process)) => format!("hugetlb_vma_{lock}_{mode}({process})"),
        Some(("i_mmap", file)) => format!("i_mmap_{lock}_{mode}({file})"),
        Some(("lock", table)) => format!("spin_{lock}({table}.ptl)"),
        _ => match what {
            "i_mmap" => format!("i_mmap_{lock}_{mode}()"),
            "VMA lock" => format!("hugetlb_vma_{lock}_{mode}()"),
            "inode lock" => format!("inode_{lock}()"),
            "fault mutex" => format!("mutex_{lock}(fault mutex)"),
            _ => format!("spin_{lock}({what})"),
        },
    };
    format!("{call}{fails}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_written_as_linux_writes_them() {
        use StepKind::{Lock, Read, TryLock, Unlock, Write};
        assert_eq!(word(Write, "P2.pud[4]", "T3", "none"), "pud_clear(P2.pud[4])  // was T3");
        assert_eq!(word(Read, "T3[0]", "page 4", "page 4"), "huge_ptep_get(T3[0]) -> page 4");
        assert_eq!(word(Write, "T3.users", "1", "0"), "T3.pt_share_count--  // 1 -> 0");
        assert_eq!(word(Write, "T3.users", "9", "10"), "T3.pt_share_count++  // 9 -> 10");
        assert_eq!(lock(Lock, "i_mmap, write", false), "i_mmap_lock_write()");
        assert_eq!(lock(Unlock, "mmap lock of P2, read", false), "mmap_read_unlock(P2)");
        assert_eq!(lock(TryLock, "VMA lock of P1, write", false), "hugetlb_vma_trylock_write(P1)  // fails");
        assert_eq!(lock(Lock, "VMA lock of P1, write", true), "hugetlb_vma_trylock_write(P1)");
        assert_eq!(lock(Lock, "lock of T3", false), "spin_lock(T3.ptl)");
        assert_eq!(lock(Lock, "lock of T5 (P2's PUD)", false), "spin_lock(T5.ptl)");
    }
}
