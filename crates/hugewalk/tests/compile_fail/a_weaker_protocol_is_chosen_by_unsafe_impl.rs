//! Every step that is left out is a race that safe code can lose.

use hugewalk::platform::{Protocol, Step};

struct NeverRevalidates;

impl Protocol for NeverRevalidates {
    fn keeps(step: Step) -> bool {
        step != Step::Revalidate
    }
}

fn main() {}
