//! What processes share by numbers rather than by paths.

pub mod shm;
