//! What both programs prove.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt::Write;

use crate::{Machine, engine, formats, heap};

/// Runs every step and says what it showed; a step that fails panics.
///
/// To be called once: the huge frames are zero once, and there is one kernel.
pub(crate) fn run<M: Machine>(console: &mut dyn Write) {
    let mut say = |step: core::fmt::Arguments<'_>| {
        writeln!(console, "{step}").expect("the console takes every line");
    };
    say(format_args!("hugewalk, without std, libc or an operating system's help"));
    heap_gives_back_what_it_took();
    say(format_args!("heap: blocks of every size and alignment, all given back"));
    formats::prove::<M>(&mut say);
    engine::prove::<M>(&mut say);
    engine::make_mistakes::<M>(&mut say);
}

fn heap_gives_back_what_it_took() {
    #[repr(align(4096))]
    struct Page([u8; 4096]);

    let before = heap::in_use();
    let mut pages = Vec::new();
    let mut lists: Vec<Vec<usize>> = Vec::new();
    for count in 0..256 {
        pages.push(Box::new(Page([count as u8; 4096])));
        lists.push((0..count).collect());
    }
    for (count, page) in pages.iter().enumerate() {
        assert!((&raw const **page).is_aligned(), "a page is on a page boundary");
        assert!(page.0.iter().all(|&byte| byte == count as u8), "nobody else wrote to the page");
    }
    let mut odd = false;
    pages.retain(|_| {
        odd = !odd;
        odd
    });
    for (count, list) in lists.iter().enumerate() {
        assert!(list.iter().copied().eq(0..count), "nobody else wrote to the list");
    }
    drop((lists, pages));
    assert_eq!(heap::in_use(), before, "every block is back");
}
