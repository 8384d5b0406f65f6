//! In which order locks were taken: why one that is waited for may never be free.

use super::Record;
use crate::story::{StepKind, Taken};

/// A lock, however it is held.
pub(super) fn lock(name: &str) -> &str {
    name.split(", ").next().unwrap_or(name)
}

/// The locks that were taken, each while another one was held, by which the lock that the processor waits for leads back to one
/// that it holds; the fewest. Empty if that is the same lock.
pub(super) fn back(record: &Record, cpu: Option<usize>) -> Vec<Taken> {
    let Some((wanted, _)) = cpu.and_then(|cpu| record.wants[cpu].as_ref()) else { return Vec::new() };
    let held: Vec<&str> =
        cpu.map(|cpu| record.holds[cpu].iter().map(|(_, name)| lock(name)).collect()).unwrap_or_default();
    if held.contains(&lock(wanted)) {
        return Vec::new();
    }
    let all = all(record);
    // Breadth first: each entry names the one it follows.
    let mut ways: Vec<(usize, Option<usize>)> = Vec::new();
    let mut at = 0;
    let from = |name: &str, before: Option<usize>, ways: &mut Vec<(usize, Option<usize>)>| {
        let next = (0..all.len()).filter(|&next| lock(&all[next].held) == name);
        for next in next.collect::<Vec<_>>() {
            if !ways.iter().any(|&(known, _)| known == next) {
                ways.push((next, before));
            }
        }
    };
    from(lock(wanted), None, &mut ways);
    while let Some(&(taken, _)) = ways.get(at) {
        if held.contains(&lock(&all[taken].taken)) {
            let mut way: Vec<Taken> = Vec::new();
            let mut next = Some(at);
            while let Some((taken, before)) = next.map(|next| ways[next]) {
                way.push(all[taken].clone());
                next = before;
            }
            way.reverse();
            return way;
        }
        from(lock(&all[taken].taken), Some(at), &mut ways);
        at += 1;
    }
    Vec::new()
}

/// Each lock that a processor waited for while it held another. Who only tries does not wait.
fn all(record: &Record) -> Vec<Taken> {
    let mut held: Vec<(usize, &str)> = Vec::new();
    let mut all = Vec::new();
    for step in &record.steps {
        match step.kind {
            StepKind::Lock => {
                if !step.call.contains("trylock") {
                    let others = held.iter().filter(|(cpu, _)| *cpu == step.cpu);
                    all.extend(others.map(|&(cpu, name)| Taken {
                        cpu,
                        held: name.to_owned(),
                        taken: step.object.clone(),
                        stack: record.stacks[step.stack].clone(),
                    }));
                }
                held.push((step.cpu, &step.object));
            }
            StepKind::Unlock => {
                if let Some(at) = held.iter().rposition(|held| *held == (step.cpu, &step.object)) {
                    held.remove(at);
                }
            }
            _ => {}
        }
    }
    all
}
