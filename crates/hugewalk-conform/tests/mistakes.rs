//! Which of two mistakes the engine names, as Linux 6.18 does.

use hugewalk_conform::engine::Engine;
use hugewalk_conform::observe::Outcome;
use hugewalk_conform::program::Program;

/// Two mappings, the first of which has a handler; what another says of a range.
fn registered_by_another(range: &str) -> Outcome {
    let program = format!(
        "p0 map fresh at=1g length=1p rights=rw shared fixed noreserve; \
         p0 map fresh at=1g+1p length=2p rights=rw shared fixed noreserve; p0 uffd open; p0 uffd2 open; \
         p0 uffd2 register 1g 1p missing; p0 uffd register {range} wp"
    );
    let program: Program = program.parse().expect("a program");
    let mut engine = Engine::new().expect("memory");
    engine.begin().expect("memory");
    program.steps.iter().map(|step| engine.step(step).0).last().expect("there are steps")
}

#[test]
fn what_another_handler_has_is_noticed_before_an_odd_end_in_a_later_mapping() {
    assert_eq!(registered_by_another("1g 1p+4096"), Outcome::Error("EBUSY"));
    assert_eq!(registered_by_another("1g+4096 1p"), Outcome::Error("EINVAL"));
    assert_eq!(registered_by_another("1g 4096"), Outcome::Error("EINVAL"));
}
