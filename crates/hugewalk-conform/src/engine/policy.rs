//! Memory policies of the engine, and of programs.

use hugewalk::vma;

use crate::program::{Policy, PolicyMode};

pub(super) fn of_program(policy: Policy) -> vma::Policy {
    let nodes = vma::Nodes::from_bits_retain(u64::from(policy.nodes));
    match policy.mode {
        PolicyMode::Default => vma::Policy::Default,
        PolicyMode::Preferred => vma::Policy::Preferred(nodes),
        PolicyMode::Bind => vma::Policy::Bind(nodes),
        PolicyMode::Interleave => vma::Policy::Interleave(nodes),
        PolicyMode::Local => vma::Policy::Local,
        PolicyMode::PreferredMany => vma::Policy::PreferredMany(nodes),
    }
}

pub(super) fn of_mapping(policy: vma::Policy) -> Policy {
    let (mode, nodes) = match policy {
        vma::Policy::Default => (PolicyMode::Default, vma::Nodes::empty()),
        vma::Policy::Local => (PolicyMode::Local, vma::Nodes::empty()),
        vma::Policy::Preferred(nodes) => (PolicyMode::Preferred, nodes),
        vma::Policy::PreferredMany(nodes) => (PolicyMode::PreferredMany, nodes),
        vma::Policy::Bind(nodes) => (PolicyMode::Bind, nodes),
        vma::Policy::Interleave(nodes) => (PolicyMode::Interleave, nodes),
    };
    Policy { mode, nodes: nodes.bits() as u8 }
}
