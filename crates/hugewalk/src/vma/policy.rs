//! Memory policies: the nodes that the pages of a mapping come from.

use bitflags::bitflags;

bitflags! {
    /// A set of nodes, by their numbers. Linux: `nodemask_t`.
    ///
    /// There is one node here, [`PRESENT`](Self::PRESENT), and every page comes from it. A policy may name
    /// others, but a mapping keeps only the part of a policy that names this one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct Nodes: u64 {
        /// The node that there is: node 0.
        const PRESENT = 1;

        const _ = !0;
    }
}

/// The nodes that the pages of a mapping come from. Linux: `MPOL_*`, without the flags of a mode.
///
/// A policy is a property of the mapping: if a part of a mapping gets another policy, the mapping is split,
/// and that unshares tables. Unlike other properties, a policy does not keep tables from being shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// That of the process (`MPOL_DEFAULT`).
    #[default]
    Default,
    /// The node of the processor that takes the fault (`MPOL_LOCAL`).
    Local,
    /// One node first, the lowest of these; without any, as [`Local`](Self::Local) (`MPOL_PREFERRED`).
    Preferred(Nodes),
    /// These nodes first (`MPOL_PREFERRED_MANY`).
    PreferredMany(Nodes),
    /// None but these nodes (`MPOL_BIND`).
    Bind(Nodes),
    /// These nodes in turn (`MPOL_INTERLEAVE`).
    Interleave(Nodes),
}

impl Policy {
    /// The policy that a mapping keeps, with only the nodes that exist. `None` if it needs one that does
    /// not exist.
    ///
    /// Linux: `mpol_new()` and `mpol_set_nodemask()` in mm/mempolicy.c.
    pub(crate) fn of_present_nodes(self) -> Option<Self> {
        let present = |nodes: Nodes| Some(nodes & Nodes::PRESENT).filter(|nodes| !nodes.is_empty());
        Some(match self {
            Self::Default => Self::Default,
            Self::Preferred(nodes) if nodes.is_empty() => Self::Local,
            Self::Local => Self::Local,
            Self::Preferred(nodes) => Self::Preferred(present(nodes)?),
            Self::PreferredMany(nodes) => Self::PreferredMany(present(nodes)?),
            Self::Bind(nodes) => Self::Bind(present(nodes)?),
            Self::Interleave(nodes) => Self::Interleave(present(nodes)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_left_with_the_nodes_that_there_are() {
        let (both, other) = (Nodes::from_bits_retain(3), Nodes::from_bits_retain(2));
        assert_eq!(Policy::Bind(both).of_present_nodes(), Some(Policy::Bind(Nodes::PRESENT)));
        assert_eq!(Policy::Preferred(Nodes::empty()).of_present_nodes(), Some(Policy::Local));
        for nodes in [other, Nodes::empty()] {
            assert_eq!(Policy::Bind(nodes).of_present_nodes(), None);
            assert_eq!(Policy::Interleave(nodes).of_present_nodes(), None);
            assert_eq!(Policy::PreferredMany(nodes).of_present_nodes(), None);
        }
        assert_eq!(Policy::Preferred(other).of_present_nodes(), None);
    }
}
