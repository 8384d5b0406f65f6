//! Walks over empty entries, told in one step.

use crate::story::{Step, StepKind};

/// Makes one step of those that read entries of one table, one after the other, and found the same in all; as long as nobody
/// races for them.
pub(super) fn condense(steps: Vec<Step>) -> Vec<Step> {
    let mut told: Vec<Step> = Vec::new();
    for step in steps {
        match told.last_mut() {
            Some(last) if goes_on(last, &step) => {
                let (table, first) = (table(&step), place(last).map_or(0, |(first, _)| first));
                let last_index = place(&step).map_or(0, |(_, last)| last);
                let object = format!("{table}[{first}..{last_index}]");
                last.text = last.text.replace(&last.object, &object);
                last.call = last.call.replace(&last.object, &object);
                last.object = object;
                last.count += 1;
            }
            _ => told.push(step),
        }
    }
    told
}

fn table(step: &Step) -> &str {
    step.object.split('[').next().unwrap_or_default()
}

/// The first and the last entry that a step reads.
fn place(step: &Step) -> Option<(usize, usize)> {
    let (_, index) = step.object.strip_suffix(']')?.rsplit_once('[')?;
    let (first, last) = index.split_once("..").unwrap_or((index, index));
    Some((first.parse().ok()?, last.parse().ok()?))
}

fn goes_on(last: &Step, step: &Step) -> bool {
    let is_quiet = |step: &Step| step.kind == StepKind::Read && !step.contended && step.changes.is_empty();
    let value = |step: &Step| step.text.split_once(" = ").map(|(_, value)| value.to_owned());
    is_quiet(last)
        && is_quiet(step)
        && last.cpu == step.cpu
        && last.stack == step.stack
        && table(last) == table(step)
        && value(last) == value(step)
        && place(last).zip(place(step)).is_some_and(|((_, before), (index, _))| before + 1 == index)
}
