//! Random programs, on the engine and on a plain model of it, compared after every step.

mod common;
mod model;

use hugewalk::addr::HugeSize;
use model::{Call, Engine, Model, Program, program};
use proptest::prelude::*;
use proptest::test_runner::Config;

/// One call on both sides. What it comes to has to be equal, and everything else after it.
fn both(engine: &mut Engine, model: &mut Model, call: &Call) {
    let expected = model.apply(call);
    let outcome = engine.apply(call);
    assert_eq!(outcome, expected, "{call:x?}: engine, model");
    engine.compare(model);
}

fn run(program: &Program) {
    let (mut engine, mut model) = (Engine::new(), Model::default());
    let opening = [
        Call::Resize { size: HugeSize::Size2M, pages: program.pools.0 },
        Call::Resize { size: HugeSize::Size1G, pages: program.pools.1 },
        Call::Overcommit { size: HugeSize::Size2M, pages: program.overcommit },
        Call::NewProcess { process: 0 },
    ];
    for call in opening {
        both(&mut engine, &mut model, &call);
    }
    if let Some((max, min)) = program.mount {
        both(&mut engine, &mut model, &Call::NewMount { slot: 0, max, min });
    }
    let mount = model.mount_slots[0].map(|_| 0);
    both(&mut engine, &mut model, &Call::NewFile { slot: 0, size: HugeSize::Size2M, mount });
    for step in &program.steps {
        if let Some(call) = model.resolve(step) {
            both(&mut engine, &mut model, &call);
        }
    }
    engine.finish(&model);
}

/// As many cases as `cargo test` has patience for; `PROPTEST_CASES` says otherwise.
fn config(cases: u32) -> Config {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    Config {
        cases: asked.unwrap_or(cases),
        max_shrink_iters: 20_000,
        failure_persistence: None,
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn every_program_does_what_the_model_says(program in program(80)) {
        run(&program);
    }
}
