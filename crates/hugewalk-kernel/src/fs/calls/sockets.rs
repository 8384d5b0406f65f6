//! Sockets, as far as programs without a network have them.

use linux_raw_sys::general::{O_CLOEXEC, O_NONBLOCK};

use super::descriptors::install_pair;
use super::{io, opened};
use crate::errno::{Errno, Result};
use crate::fs::{packets, socket};
use crate::task::current;

const AF_UNIX: u32 = 1;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_SEQPACKET: u32 = 5;

const MSG_NOSIGNAL: u32 = 0x4000;

/// The flags of a type are those of open.
fn kind(kind: u32) -> (u32, u32) {
    let flags = kind & (O_CLOEXEC | O_NONBLOCK);
    (kind & !flags, flags)
}

/// `socketpair`.
pub(super) fn pair(family: u32, asked: u32, address: u64) -> Result<u64> {
    if family != AF_UNIX {
        return Err(Errno::EOPNOTSUPP);
    }
    let (asked, flags) = kind(asked);
    let pair = match asked {
        SOCK_STREAM => socket::pair(flags)?,
        SOCK_DGRAM | SOCK_SEQPACKET => packets::pair(flags),
        _ => return Err(Errno::EOPNOTSUPP),
    };
    install_pair(pair, flags, address)
}

/// `socket`: one that can get a name.
pub(super) fn make(family: u32, asked: u32) -> Result<u64> {
    let (asked, flags) = kind(asked);
    if family != AF_UNIX || ![SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET].contains(&asked) {
        return Err(Errno::EOPNOTSUPP);
    }
    Ok(current().process().files().insert(packets::named(flags), flags & O_CLOEXEC != 0, 0)?.into())
}

/// `bind` and `listen`: nobody else has the name.
pub(super) fn name(descriptor: u64) -> Result<u64> {
    opened(descriptor).map(|_| 0)
}

/// `sendto`, to the other end of a pair.
pub(super) fn send(descriptor: u64, from: u64, length: u64, flags: u32) -> Result<u64> {
    io::send(descriptor, from, length, flags & MSG_NOSIGNAL == 0)
}

/// `recvfrom`, from the other end of a pair.
pub(super) fn receive(descriptor: u64, into: u64, length: u64) -> Result<u64> {
    io::read(descriptor, into, length)
}
