//! What the engine's side says of a process that never was, as Linux 6.18 says it.

use hugewalk_conform::engine::Engine;
use hugewalk_conform::observe::Outcome;
use hugewalk_conform::program::Program;

fn outcomes(text: &str) -> Vec<Outcome> {
    let program: Program = text.parse().expect("a program");
    let mut engine = Engine::new().expect("memory");
    engine.begin().expect("memory");
    program.steps.iter().map(|step| engine.step(step).0).collect()
}

#[test]
fn nothing_is_transferred_from_and_to_anybody() {
    let found = outcomes("p0 peek p1 1g 0; p0 poke p1 1g 0 7");
    assert_eq!(found, [Outcome::Bytes(Vec::new()), Outcome::Number(0)]);
}

#[test]
fn a_byte_is_not_transferred_from_or_to_nobody() {
    let found = outcomes("p0 peek p1 1g 1; p0 poke p1 1g 1 7");
    assert!(found.iter().all(|outcome| *outcome == Outcome::Error("ESRCH")), "{found:?}");
}
