//! What the command asks for: the first member of the archive. docs/kernel.md has the keys.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::archive::members;
use crate::platform::protocol::Protocol;

/// The member's path.
pub const PATH: &[u8] = b".hugewalk/settings";

/// The settings of a run.
pub struct Settings {
    /// Path of the program.
    pub program: String,
    /// Its arguments, its name first.
    pub arguments: Vec<Vec<u8>>,
    /// Its environment.
    pub environment: Vec<Vec<u8>>,
    /// The working directory.
    pub cwd: String,
    /// Huge pages in the pool.
    pub pool: u64,
    /// Huge pages beyond that, on demand.
    pub overcommit: u64,
    /// Print each system call.
    pub trace: bool,
    /// The locking protocol.
    pub protocol: Protocol,
}

impl Settings {
    /// Reads the settings of an archive.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong.
    pub fn read(archive: &[u8]) -> Result<Self, String> {
        let member = members(archive).next().filter(|member| member.path == PATH);
        let text = member.ok_or("the archive does not begin with .hugewalk/settings")?.contents;
        let mut settings = Self {
            program: String::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            cwd: "/".to_string(),
            pool: 256,
            overcommit: 0,
            trace: false,
            protocol: Protocol::own(),
        };
        let mut strings = text.split(|byte| *byte == 0).filter(|string| !string.is_empty());
        if strings.next() != Some(b"format=1") {
            return Err("the settings are of another version than the kernel's, which is 1".to_string());
        }
        for string in strings {
            let split = string.iter().position(|byte| *byte == b'=').unwrap_or(string.len());
            let (key, value) = (&string[..split], string.get(split + 1..).unwrap_or_default());
            settings.set(key, value)?;
        }
        if settings.program.is_empty() {
            return Err("the settings name no program".to_string());
        }
        Ok(settings)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let text = || String::from_utf8_lossy(value).into_owned();
        let number = || {
            text()
                .parse::<u64>()
                .map_err(|_| format!("{}={}: not a number", String::from_utf8_lossy(key), text()))
        };
        match key {
            b"program" => self.program = text(),
            b"arg" => self.arguments.push(value.to_vec()),
            b"env" => self.environment.push(value.to_vec()),
            b"cwd" => self.cwd = text(),
            b"pool" => self.pool = number()?,
            b"overcommit" => self.overcommit = number()?,
            b"trace" => self.trace = value == b"1",
            b"protocol" => self.protocol.name = text(),
            b"walkers" => self.protocol.hold(&text())?,
            b"broadcast" => self.protocol.wait_for(&text())?,
            b"without" => self.protocol.leave_out(&text())?,
            _ => return Err(format!("unknown setting {}", String::from_utf8_lossy(key))),
        }
        Ok(())
    }
}
