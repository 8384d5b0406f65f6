//! The `hugewalk` command.
fn main() {}
