//! The text of an input: a file, a packed file, or what comes in on standard input.

use std::io::{ErrorKind, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::error::{Problem, TraceError};
use crate::report::text::counted;

/// Reads a whole input. `-` is standard input; what gzip has packed is unpacked, whatever its name.
///
/// Bytes that are no UTF-8 are kept as replacement characters: strace and perf print none, so they are a program's own.
///
/// A packed file that breaks off, as that of a machine that went down does, is read as far as it goes, and `notes` says so.
pub(super) fn text(file: &Path, notes: &mut Vec<String>) -> Result<String, TraceError> {
    let unreadable = |error: std::io::Error| TraceError::in_file(file, error.into());
    let mut bytes = Vec::new();
    if file.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        bytes = std::fs::read(file).map_err(unreadable)?;
    }
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut unpacked = Vec::new();
        if let Err(error) = MultiGzDecoder::new(&bytes[..]).read_to_end(&mut unpacked) {
            let whole_lines = unpacked.iter().rposition(|byte| *byte == b'\n').map_or(0, |place| place + 1);
            if error.kind() != ErrorKind::UnexpectedEof || whole_lines == 0 {
                return Err(TraceError::in_file(file, Problem::BadGzip(error)));
            }
            unpacked.truncate(whole_lines);
            let lines = unpacked.iter().filter(|byte| **byte == b'\n').count();
            notes.push(format!(
                "{} breaks off inside the packed data: the first {} were read, and what came after them is not known.",
                file.display(),
                counted(lines as u64, "line", "lines")
            ));
        }
        bytes = unpacked;
    }
    if let Some(kind) = foreign_kind(&bytes) {
        return Err(TraceError::in_file(file, Problem::OtherFormat(kind)));
    }
    if let Some(place) = bytes.iter().position(|byte| *byte == 0) {
        let line = 1 + bytes[..place].iter().filter(|byte| **byte == b'\n').count();
        return Err(TraceError::at(file, u32::try_from(line).unwrap_or(u32::MAX), Problem::NotText));
    }
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// What a file is that begins so, if that cannot be read here.
fn foreign_kind(bytes: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 5] = [
        (b"PERFILE2", "perf's own recording (perf.data); print it with perf script"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "packed by xz; unpack it first"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "packed by zstd; unpack it first"),
        (b"BZh", "packed by bzip2; unpack it first"),
        (&[0x7f, b'E', b'L', b'F'], "a program; record it, and give the recording"),
    ];
    kinds.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, kind)| *kind)
}
