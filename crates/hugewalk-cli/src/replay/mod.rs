//! Performing a recording.

pub mod files;
pub mod ordinary;
pub mod tasks;
