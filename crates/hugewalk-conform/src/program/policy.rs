//! Memory policies, as `mbind(2)` takes and `get_mempolicy(2)` gives them.

use std::fmt;

/// A policy of a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Its mode.
    pub mode: PolicyMode,
    /// Its nodes: a bit for each, the lowest one node 0.
    pub nodes: u8,
}

/// `MPOL_*`, with the kernel's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicyMode {
    /// `MPOL_DEFAULT`
    #[default]
    Default = 0,
    /// `MPOL_PREFERRED`
    Preferred = 1,
    /// `MPOL_BIND`
    Bind = 2,
    /// `MPOL_INTERLEAVE`
    Interleave = 3,
    /// `MPOL_LOCAL`
    Local = 4,
    /// `MPOL_PREFERRED_MANY`
    PreferredMany = 5,
}

impl PolicyMode {
    /// All there are.
    pub const ALL: [Self; 6] =
        [Self::Default, Self::Preferred, Self::Bind, Self::Interleave, Self::Local, Self::PreferredMany];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Preferred => "preferred",
            Self::Bind => "bind",
            Self::Interleave => "interleave",
            Self::Local => "local",
            Self::PreferredMany => "preferred-many",
        }
    }

    /// Does it have no nodes?
    #[must_use]
    pub const fn is_without_nodes(self) -> bool {
        matches!(self, Self::Default | Self::Local)
    }
}

impl Policy {
    /// The policy that `get_mempolicy(2)` tells of; `None` if it is one that no program gives.
    #[must_use]
    pub fn of_numbers(mode: u64, nodes: u64) -> Option<Self> {
        let mode = PolicyMode::ALL.into_iter().find(|known| *known as u64 == mode)?;
        Some(Self { mode, nodes: u8::try_from(nodes).ok()? })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mode.name())?;
        if self.mode.is_without_nodes() {
            return Ok(());
        }
        let nodes = (0..8).filter(|node| self.nodes >> node & 1 != 0).map(|node| node.to_string());
        let nodes = nodes.collect::<Vec<_>>().join("+");
        write!(f, ":{}", if nodes.is_empty() { "none" } else { &nodes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_as_it_is_written() {
        for text in ["default", "local", "bind:0", "preferred:none", "interleave:0+3", "preferred-many:1"] {
            assert_eq!(text.parse::<Policy>().map(|policy| policy.to_string()), Ok(text.to_owned()));
        }
        for text in ["bind", "local:0", "bind:8", "bind:", "nearest:0"] {
            assert!(text.parse::<Policy>().is_err(), "{text}");
        }
    }
}
