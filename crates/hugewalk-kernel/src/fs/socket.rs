//! Pairs of sockets: two pipes, one for each direction, and an end of both behind each descriptor.

use alloc::sync::Arc;

use linux_raw_sys::general::{O_NONBLOCK, O_RDONLY, O_RDWR, O_WRONLY};

use super::file::{Events, File, Opened};
use super::pipe::Pipe;
use crate::errno::Result;
use crate::task::wait::WaitQueue;

/// One end. What is written comes out at the other, as a stream.
struct Socket {
    incoming: Arc<dyn File>,
    outgoing: Arc<dyn File>,
}

/// Both ends of a pair: `socketpair`, with the flags of its type.
///
/// # Errors
///
/// Those of opening a pipe that has both ends: none.
pub fn pair(flags: u32) -> Result<[Arc<Opened>; 2]> {
    let pipes = [Pipe::new(), Pipe::new()];
    let end = |pipe: &Arc<Pipe>, access| Pipe::open(pipe, access | O_NONBLOCK);
    // Each pipe is opened for reading first: a writer without waiting wants a reader.
    let [first_in, second_in] = [end(&pipes[0], O_RDONLY)?, end(&pipes[1], O_RDONLY)?];
    let [second_out, first_out] = [end(&pipes[0], O_WRONLY)?, end(&pipes[1], O_WRONLY)?];
    let open = |incoming, outgoing| {
        let socket: Arc<dyn File> = Arc::new(Socket { incoming, outgoing });
        Opened::anonymous(socket, "socket:[1]", O_RDWR | flags & O_NONBLOCK)
    };
    Ok([open(first_in, first_out), open(second_in, second_out)])
}

impl File for Socket {
    fn read(&self, _: u64, into: &mut [u8], flags: u32) -> Result<usize> {
        self.incoming.read(0, into, flags)
    }

    fn write(&self, _: u64, from: &[u8], flags: u32) -> Result<usize> {
        self.outgoing.write(0, from, flags)
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn events(&self) -> Events {
        self.incoming.events() | self.outgoing.events()
    }

    fn queue(&self) -> Option<&WaitQueue> {
        // Of what comes in: room for what goes out is there unless nobody reads.
        self.incoming.queue()
    }
}
