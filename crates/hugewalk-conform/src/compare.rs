//! Where two observations differ.

use std::fmt::Display;

use crate::observe::{Observation, Outcome, PageMap, PageState, ProcessState};

/// One thing that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// What.
    pub what: String,
    /// As it is on the kernel.
    pub kernel: String,
    /// As it is on the engine.
    pub engine: String,
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Does the kernel keep track of what was written? Not all are built to.
    pub soft_dirty: bool,
    /// Does the kernel tell a failure of memory from other reasons for `SIGBUS`? Not all are built to.
    pub memory_failures: bool,
}

impl Comparison {
    /// What a step came to on the engine, as this kernel says it.
    pub(crate) fn as_said(&self, mut outcome: Outcome) -> Outcome {
        if let Outcome::Signal { code, .. } = &mut outcome
            && *code == "BUS_MCEERR_AR"
            && !self.memory_failures
        {
            *code = "BUS_ADRERR";
        }
        outcome
    }
}

struct Differences(Vec<Difference>);

impl Differences {
    fn see<T: PartialEq>(
        &mut self,
        what: impl FnOnce() -> String,
        kernel: &T,
        engine: &T,
        show: impl Fn(&T) -> String,
    ) {
        if kernel != engine {
            self.0.push(Difference { what: what(), kernel: show(kernel), engine: show(engine) });
        }
    }
}

fn optional<T: Display>(value: &Option<T>) -> String {
    value.as_ref().map_or("none".to_owned(), T::to_string)
}

impl Comparison {
    /// All that differs.
    #[must_use]
    pub fn compare(&self, kernel: &Observation, engine: &Observation) -> Vec<Difference> {
        let mut found = Differences(Vec::new());
        found.see(|| "outcome".into(), &kernel.outcome, &engine.outcome, ToString::to_string);
        found.see(|| "minor faults".into(), &kernel.faults, &engine.faults, optional);
        found.see(|| "pool".into(), &kernel.pool, &engine.pool, ToString::to_string);
        for (file, (kernel, engine)) in kernel.files.iter().zip(&engine.files).enumerate() {
            found.see(
                || format!("f{file}"),
                kernel,
                engine,
                |state| match state {
                    Some(state) => format!("size {} pages {}", state.size, state.pages),
                    None => "closed".to_owned(),
                },
            );
        }
        for (process, (kernel, engine)) in kernel.processes.iter().zip(&engine.processes).enumerate() {
            match (kernel, engine) {
                (Some(kernel), Some(engine)) => self.processes(process, kernel, engine, &mut found),
                _ => found.see(
                    || format!("p{process}"),
                    &kernel.is_some(),
                    &engine.is_some(),
                    |alive| if *alive { "alive" } else { "not there" }.to_owned(),
                ),
            }
        }
        found.0
    }

    fn processes(
        &self,
        process: usize,
        kernel: &ProcessState,
        engine: &ProcessState,
        found: &mut Differences,
    ) {
        found.see(
            || format!("p{process} HugetlbPages"),
            &kernel.huge_pages,
            &engine.huge_pages,
            u64::to_string,
        );
        let of = |state: &ProcessState, at: usize| state.mappings.get(at).cloned();
        for at in 0..kernel.mappings.len().max(engine.mappings.len()) {
            found.see(|| format!("p{process} mapping {at}"), &of(kernel, at), &of(engine, at), optional);
        }
        for (kernel, engine) in kernel.pages.iter().zip(&engine.pages) {
            let what = || format!("p{process} page at {}", kernel.at);
            found.see(what, &self.known_part(kernel), &self.known_part(engine), ToString::to_string);
        }
    }

    /// Without what the kernel cannot know.
    fn known_part(&self, state: &PageState) -> PageState {
        let mut state = state.clone();
        if !self.soft_dirty {
            state.map -= PageMap::SOFT_DIRTY;
        }
        state
    }
}
