//! The rule holds by type: what breaks it does not compile, and the message says what to hold.
//!
//! Each file in `compile_fail` is named by the sentence it proves, and the `.stderr` beside it is the whole message. After
//! a change of a message: `TRYBUILD=overwrite cargo test --test compile_fail`, and read what it wrote.

/// Compilers word their messages differently from release to release; these are those of the oldest one supported.
#[rustversion::attr(not(stable(1.95)), ignore = "the messages are those of Rust 1.95")]
#[test]
fn what_breaks_the_rule_does_not_compile() {
    let tests = trybuild::TestCases::new();
    // First what is right, so that the others fail for the reason they state and no other.
    tests.pass("tests/compile_fail/compiles/*.rs");
    tests.compile_fail("tests/compile_fail/*.rs");
}
