//! The locking protocol of a run: by a name of the lab's, less the steps that are left out.

use hugewalk_lab::lab::{Broadcast, Settings, Walkers};

use super::args::RunArgs;
use crate::check::error::did_you_mean;

/// Why a run cannot follow a protocol.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// No protocol has the name.
    #[error("no protocol is called `{name}`{hint} (there are {all})", all = names().join(", "))]
    UnknownProtocol {
        /// What was asked for.
        name: String,
        /// The nearest name, in words.
        hint: String,
    },
    /// The kernel cannot follow it.
    #[error("this kernel cannot follow {name}: {why}")]
    Impossible {
        /// The protocol.
        name: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// No step has the name.
    #[error("no step is called `{name}`{hint} (the kernel can leave out {all})", all = STEPS.join(", "))]
    UnknownStep {
        /// What was asked for.
        name: String,
        /// The nearest name, in words.
        hint: String,
    },
    /// Without the step the kernel would not live.
    #[error(
        "--without {0}: the lab can leave it out (`hugewalk check`), this kernel cannot: what goes wrong is memory of its own, or cannot be seen in it (it can leave out {all})",
        all = STEPS.join(", ")
    )]
    NotHere(String),
    /// A step is left out that is not there.
    #[error("{protocol} has no step `{step}`")]
    NotThere {
        /// The protocol.
        protocol: &'static str,
        /// The step.
        step: String,
    },
}

/// Steps that the kernel can do without: those of `platform/protocol.rs` there.
const STEPS: [&str; 15] = [
    "rcu-free",
    "revalidate",
    "confirm-parent",
    "confirm-generation",
    "bump-generation",
    "flush",
    "note-generation-first",
    "confirm-parent-first",
    "bump-after-clear",
    "confirm-entry",
    "detach-locked",
    "flush-whole-table",
    "flush-under-i-mmap",
    "count-then-tell",
    "vma-lock",
];

fn names() -> Vec<&'static str> {
    Settings::ALL.iter().map(|settings| settings.name).collect()
}

/// What the kernel is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Protocol {
    pub(super) name: &'static str,
    walkers: &'static str,
    broadcast: &'static str,
    /// Steps that are left out, those that the protocol never had among them.
    left_out: Vec<&'static str>,
    /// Those of them that were asked for.
    pub(super) without: Vec<&'static str>,
}

impl Protocol {
    /// The one that the command line asks for.
    pub(super) fn of(args: &RunArgs) -> Result<Self, ProtocolError> {
        let name = args.protocol.as_deref().unwrap_or(Settings::HUGEWALK.name);
        let settings = Settings::named(name).ok_or_else(|| ProtocolError::UnknownProtocol {
            name: name.to_owned(),
            hint: did_you_mean(name, names().into_iter()),
        })?;
        let impossible = |why| Err(ProtocolError::Impossible { name: settings.name, why });
        let walkers = match settings.walkers {
            // Sections keep tables there, and locks die before them.
            Walkers::Rcu if settings.lock_dies_at_once => {
                return impossible(
                    "its table lock is freed before the table, and here it lies in the table's record; rfc-ptl frees both together",
                );
            }
            Walkers::Rcu => "rcu",
            Walkers::Vma => "vma",
            Walkers::Mmap => "mmap",
        };
        let broadcast = match settings.broadcast {
            // A flush is an interrupt here, and waits for its answer.
            Broadcast::None | Broadcast::Implied => "none",
            Broadcast::Each => "each",
            Broadcast::Last => "last",
            Broadcast::Targeted => "targeted",
            Broadcast::GracePeriod => {
                return impossible("it sleeps in a flush, where the engine may hold a spinning lock");
            }
        };
        let mut without = Vec::new();
        for name in &args.without {
            let Some(step) = STEPS.into_iter().find(|step| step == name) else {
                return Err(if Settings::steps().any(|step| step == name) {
                    ProtocolError::NotHere(name.clone())
                } else {
                    let hint = did_you_mean(name, Settings::steps());
                    ProtocolError::UnknownStep { name: name.clone(), hint }
                });
            };
            if !settings.has(step) || step == "vma-lock" && settings.walkers == Walkers::Mmap {
                return Err(ProtocolError::NotThere { protocol: settings.name, step: name.clone() });
            }
            if !without.contains(&step) {
                without.push(step);
            }
        }
        let mut left_out: Vec<_> = Settings::steps().filter(|step| settings.lacks(step)).collect();
        left_out.extend(&without);
        Ok(Self { name: settings.name, walkers, broadcast, left_out, without })
    }

    /// The engine's own.
    #[cfg(test)]
    pub(super) fn own() -> Self {
        Self {
            name: Settings::HUGEWALK.name,
            walkers: "rcu",
            broadcast: "none",
            left_out: Vec::new(),
            without: Vec::new(),
        }
    }

    /// Is it the engine's own, whole? Any other runs in a kernel that is built for weaker ones.
    pub(super) fn is_own(&self) -> bool {
        self.name == Settings::HUGEWALK.name && self.left_out.is_empty()
    }

    /// The settings for the kernel: none, if it is to do what it does by itself.
    pub(super) fn settings(&self) -> Vec<(&'static str, &'static str)> {
        if self.is_own() {
            return Vec::new();
        }
        let mut settings =
            vec![("protocol", self.name), ("walkers", self.walkers), ("broadcast", self.broadcast)];
        settings.extend(self.left_out.iter().map(|step| ("without", *step)));
        settings
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn of(line: &str) -> Result<Protocol, String> {
        let line = format!("hugewalk run {line} ./program");
        match Cli::try_parse_from(line.split_whitespace()).expect("parsed").command {
            Command::Run(args) => Protocol::of(&args).map_err(|error| error.to_string()),
            _ => unreachable!("it is run"),
        }
    }

    #[test]
    fn the_lab_says_what_a_protocol_is() {
        let own = of("").expect("there");
        assert!(own.is_own() && own.settings().is_empty());
        let each = of("--protocol ipi-each --without flush").expect("there");
        assert!(!each.is_own());
        assert_eq!((each.walkers, each.broadcast, each.without.as_slice()), ("vma", "each", &["flush"][..]));
        assert!(each.settings().contains(&("without", "confirm-generation")));
        assert!(!of("--without rcu-free").expect("there").is_own());
    }

    #[test]
    fn every_protocol_is_followed_or_refused_with_a_reason() {
        let refused: Vec<_> =
            names().into_iter().filter(|name| of(&format!("--protocol {name}")).is_err()).collect();
        assert_eq!(refused, ["rfc", "unshare-rcu"]);
        for name in refused {
            let why = of(&format!("--protocol {name}")).expect_err("refused");
            assert!(why.starts_with(&format!("this kernel cannot follow {name}: ")), "{why}");
        }
    }

    #[test]
    fn what_is_unknown_or_not_there_is_named() {
        let why = of("--protocol ipi-eech").expect_err("unknown");
        assert!(why.starts_with("no protocol is called `ipi-eech`, did you mean ipi-each?"), "{why}");
        let why = of("--without flsh").expect_err("unknown");
        assert!(why.starts_with("no step is called `flsh`, did you mean flush?"), "{why}");
        let why = of("--without hold-vma").expect_err("impossible");
        assert!(why.starts_with("--without hold-vma: the lab can leave it out"), "{why}");
        let why = of("--protocol ipi-each --without revalidate").expect_err("not there");
        assert_eq!(why, "ipi-each has no step `revalidate`");
    }

    /// The kernel's list and this one are the same.
    #[test]
    fn the_kernel_knows_the_same_steps() {
        let room = include_str!("../../../hugewalk-kernel/src/platform/protocol.rs");
        let list = room.split("const STEPS").nth(1).and_then(|rest| rest.split("];").next()).expect("a list");
        let known: Vec<&str> =
            list.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next()).collect();
        assert_eq!(known, STEPS);
        let all: Vec<&str> = Settings::steps().collect();
        assert!(STEPS.iter().all(|step| all.contains(step)));
    }
}
