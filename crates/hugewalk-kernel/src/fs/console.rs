//! The console: what the first process's descriptors 0, 1 and 2 lead to.
//!
//! It looks like a terminal, so that programs write line by line: what a program printed before it was killed is seen, and in
//! its order. Reads meet the end of the file.

use alloc::sync::Arc;

use linux_raw_sys::general::{O_RDWR, termios};
use linux_raw_sys::ioctl::{TCGETS, TCSETS, TCSETSF, TCSETSW, TIOCGPGRP, TIOCGWINSZ};
use spin::Mutex;

use super::file::{Events, File, Opened};
use super::inode::{Inode, Kind, Special};
use crate::console::{ERRORS, OUTPUT, Port};
use crate::errno::{Errno, Result};
use crate::memory::user;

/// A console that writes to a port.
pub struct Console(&'static Mutex<Port>);

impl Console {
    /// What the program writes to it is its output.
    pub const fn output() -> Self {
        Self(&OUTPUT)
    }

    /// What the program writes to it is its errors.
    pub const fn errors() -> Self {
        Self(&ERRORS)
    }

    /// Descriptors 0, 1 and 2 of the first process.
    pub fn descriptors() -> [Arc<Opened>; 3] {
        let open = |console: fn() -> Self| {
            let inode = Inode::anonymous(Kind::Device(5, 1, Arc::new(Terminal)));
            Opened::new(Arc::new(console()), inode, b"/dev/console".to_vec(), O_RDWR)
        };
        let output = open(Self::output);
        [output.clone(), output, open(Self::errors)]
    }
}

/// `/dev/tty` and `/dev/console`.
pub struct Terminal;

impl Special for Terminal {
    fn open(&self, _: u32) -> Result<Arc<dyn File>> {
        Ok(Arc::new(Console::output()))
    }
}

impl File for Console {
    fn read(&self, _: u64, _: &mut [u8], _: u32) -> Result<usize> {
        Ok(0)
    }

    fn write(&self, _: u64, from: &[u8], _: u32) -> Result<usize> {
        self.0.lock().write(from);
        Ok(from.len())
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn events(&self) -> Events {
        Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM
    }

    fn ioctl(&self, request: u32, argument: u64) -> Result<u64> {
        match request {
            TCGETS => {
                // `c_cflag`: 38400 bauds, eight bits, can be read. All else is 0: bytes pass as they are.
                let mut settings = [0; size_of::<termios>()];
                settings[8..12].copy_from_slice(&0o277_u32.to_ne_bytes());
                user::write(argument, &settings)?;
                Ok(0)
            }
            TCSETS | TCSETSW | TCSETSF => Ok(0),
            TIOCGWINSZ => {
                user::put(argument, &[24_u16, 80, 0, 0])?;
                Ok(0)
            }
            TIOCGPGRP => {
                user::put(argument, &1_u32)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }
}
