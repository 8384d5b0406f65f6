//! The first serial port of a PC, a 16550: output only, by polling.
//!
//! Registers and bits: National Semiconductor PC16550D data sheet, section 8.

use super::port;

const COM1: u16 = 0x3f8;
const DATA: u16 = COM1;
const INTERRUPT_ENABLE: u16 = COM1 + 1;
const FIFO_CONTROL: u16 = COM1 + 2;
const LINE_CONTROL: u16 = COM1 + 3;
const LINE_STATUS: u16 = COM1 + 5;

const DIVISOR_ACCESS: u8 = 0x80;
const EIGHT_BITS: u8 = 0x03;
const FIFO_ON_AND_CLEAR: u8 = 0x07;
const ROOM_TO_SEND: u8 = 0x20;

/// Sets the port to 115200 baud, eight bits, no parity, no interrupts.
pub(crate) fn set_up() {
    let steps = [
        (INTERRUPT_ENABLE, 0),
        (LINE_CONTROL, DIVISOR_ACCESS),
        (DATA, 1), // the divisor of 115200 baud, low byte and high byte
        (INTERRUPT_ENABLE, 0),
        (LINE_CONTROL, EIGHT_BITS),
        (FIFO_CONTROL, FIFO_ON_AND_CLEAR),
    ];
    for (register, value) in steps {
        // SAFETY: a serial port does not touch memory.
        unsafe { port::write(register, value) };
    }
}

/// Sends one byte; waits until there is room.
pub(crate) fn send(byte: u8) {
    // SAFETY: a serial port does not touch memory.
    while unsafe { port::read(LINE_STATUS) } & ROOM_TO_SEND == 0 {
        core::hint::spin_loop();
    }
    // SAFETY: a serial port does not touch memory.
    unsafe { port::write(DATA, byte) };
}
