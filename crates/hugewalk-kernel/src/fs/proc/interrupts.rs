//! `/proc/interrupts`: those that one processor sends another.

use alloc::format;
use alloc::string::String;

use crate::cpu::{self, shootdown};

/// The text. Linux: `arch_show_interrupts()` in arch/x86/kernel/irq.c.
pub(super) fn text() -> String {
    let mut header = String::from("    ");
    let (mut wakeups, mut calls, mut flushes) =
        (String::from(" RES:"), String::from(" CAL:"), String::from(" TLB:"));
    for processor in 0..cpu::count() {
        let (flush, other) = shootdown::sent_to(processor);
        header += &format!("       {:<4}", format!("CPU{processor}"));
        wakeups += &format!(" {:>10}", cpu::wakeups(processor));
        calls += &format!(" {other:>10}");
        flushes += &format!(" {flush:>10}");
    }
    format!(
        "{header}\n{wakeups}  Rescheduling interrupts\n{calls}  Function call interrupts\n{flushes}  TLB shootdowns\n"
    )
}
