//! The processors that the kernel is for, and what differs between them here.

use std::fmt;

use clap::ValueEnum;

/// The guest's processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// x86-64, on QEMU's machine q35
    #[default]
    #[value(name = "x86-64", alias = "x86_64")]
    X86_64,
    /// arm64 with the 4 KiB granule, on QEMU's machine virt
    #[value(name = "arm64", alias = "aarch64")]
    Arm64,
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::X86_64 => "x86-64",
            Self::Arm64 => "arm64",
        })
    }
}

impl Arch {
    /// The machine in the header of a program.
    pub(super) const fn elf_machine(self) -> u64 {
        match self {
            Self::X86_64 => 62,
            Self::Arm64 => 183,
        }
    }

    /// The one with this machine.
    pub(super) fn of_elf(machine: u64) -> Option<Self> {
        Self::value_variants().iter().copied().find(|arch| arch.elf_machine() == machine)
    }

    /// The QEMU for it.
    pub(super) const fn qemu(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
        }
    }

    /// What the kernel is compiled for.
    pub(super) const fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-none",
        }
    }

    /// What the name of an image beside the command ends with.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::X86_64 => "",
            Self::Arm64 => "-arm64",
        }
    }

    /// Can this machine's own processors be the guest's?
    pub(super) fn is_host(self) -> bool {
        std::env::consts::ARCH
            == match self {
                Self::X86_64 => "x86_64",
                Self::Arm64 => "aarch64",
            }
    }
}
