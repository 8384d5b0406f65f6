//! Random programs, on the engine and on a plain model of it, compared after every step.

mod common;
mod model;

use model::format::Format;
use model::program::{Program, program};
use model::{Call, Engine, Model};
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
    let (mut engine, mut model) = (Engine::new(program.format), Model::new(program.format));
    for call in program.opening() {
        both(&mut engine, &mut model, &call);
    }
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

#[global_allocator]
static HEAP: common::heap::Heap = common::heap::Heap;

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn every_program_does_what_the_model_says(program in program(Format::x86(), 80)) {
        run(&program);
    }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn so_it_does_on_the_tables_of_other_processors(program in program(Format::others(), 60)) {
        run(&program);
    }
}
