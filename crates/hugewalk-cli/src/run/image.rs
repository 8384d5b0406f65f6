//! Where the kernel's image is.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::arch::Arch;
use super::protocol::Protocol;

/// Why there is no kernel to boot.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file that was named is not there.
    #[error("{}: there is no kernel here; give its image by --kernel", .0.display())]
    NotThere(PathBuf),
    /// Nothing was named, and nothing is found.
    #[error(
        "the kernel's image is neither beside this command nor is this a checkout of hugewalk; give it by --kernel"
    )]
    NotFound,
    /// Cargo cannot be started.
    #[error("the kernel cannot be built: cargo: {0}; install Rust, or give an image by --kernel")]
    NoCargo(io::Error),
    /// No compiler knows the target.
    #[error(
        "the kernel cannot be built for {0}: rustup target add {target}, or Debian's rustc-web, cargo-web and rust-web-src",
        target = .0.target()
    )]
    NoTarget(Arch),
    /// It does not build.
    #[error("the kernel in {} does not build; see what `cargo build --release` says there", .0.display())]
    NotBuilt(PathBuf),
}

const NAME: &str = "hugewalk-kernel";
/// As it is called beside an executable, if it can follow weaker protocols than the engine's own.
const WEAKER: &str = "hugewalk-kernel-weaker";

/// The image to boot: the one that is named, else the one beside the executable, else that of the checkout which the
/// executable or the working directory lies in. The last is built, which changes nothing if nothing has changed.
///
/// # Errors
///
/// [`ImageError`].
pub(super) fn find(named: Option<&Path>, arch: Arch, protocol: &Protocol) -> Result<PathBuf, ImageError> {
    if let Some(named) = named {
        return if named.is_file() {
            Ok(named.to_owned())
        } else {
            Err(ImageError::NotThere(named.to_owned()))
        };
    }
    let executable = env::current_exe().ok();
    let name = if protocol.is_own() { NAME } else { WEAKER }.to_owned() + arch.suffix();
    if let Some(beside) = executable.as_ref().map(|path| path.with_file_name(name))
        && beside.is_file()
    {
        return Ok(beside);
    }
    let folder = folder().ok_or(ImageError::NotFound)?;
    build(&folder, arch, !protocol.is_own())
}

/// The kernel's folder in the checkout that the executable or the working directory lies in.
pub(crate) fn folder() -> Option<PathBuf> {
    let starts = [env::current_exe().ok(), env::current_dir().ok()];
    starts.iter().flatten().find_map(|start| checkout(start))
}

/// The kernel's folder in the checkout that `start` lies in.
fn checkout(start: &Path) -> Option<PathBuf> {
    start
        .ancestors()
        .map(|folder| folder.join("crates").join(NAME))
        .find(|folder| folder.join("Cargo.toml").is_file())
}

fn build(folder: &Path, arch: Arch, weaker: bool) -> Result<PathBuf, ImageError> {
    // As the folder's own configuration has it, whatever CARGO_TARGET_DIR says.
    // Each build has a folder of its own, so that neither is compiled anew after the other.
    let target = folder.join(if weaker { "../../target/kernel-weaker" } else { "../../target/kernel" });
    let image = target.join(arch.target()).join("release").join(NAME);
    if !image.exists() {
        crate::notes::note(&format_args!("building the kernel in {}, once", folder.display()));
    }
    // The folder has a configuration of cargo's of its own, which is found from within; flags from outside would replace
    // those in it.
    let mut command = match arch {
        Arch::X86_64 => Command::new("cargo"),
        Arch::Arm64 => other_cargo(arch),
    };
    let output = command
        .args(["build", "--release", "--quiet", "--bin", NAME, "--features"])
        .arg(if weaker { "weaker" } else { "" })
        .arg("--target-dir")
        .arg(&target)
        .current_dir(folder)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_RUSTFLAGS")
        .env_remove("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS")
        .env_remove("CARGO_TARGET_AARCH64_UNKNOWN_NONE_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(ImageError::NoCargo)?;
    match output.status.code() {
        Some(0) => Ok(image),
        Some(NO_TARGET) if arch != Arch::X86_64 => Err(ImageError::NoTarget(arch)),
        _ => Err(ImageError::NotBuilt(folder.to_owned())),
    }
}

/// What [`other_cargo`] ends with if no compiler here knows the target.
const NO_TARGET: i32 = 3;

/// A cargo for another processor: rustup's or Debian's, as the checks find it.
fn other_cargo(arch: Arch) -> Command {
    let mut command = Command::new("bash");
    let target = arch.target();
    command.arg("-c").arg(format!(
        "set -e; . ../../ci/toolchain.sh; has_toolchain {target} || exit {NO_TARGET}; cross_cargo {target} \"$@\""
    ));
    command.arg("cargo");
    command
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_checkout_is_found_from_anywhere_in_it() {
        let directory = tempfile::TempDir::new().expect("a directory");
        let folder = directory.path().join("crates/hugewalk-kernel");
        fs::create_dir_all(&folder).expect("made");
        let deep = directory.path().join("target/release/hugewalk");
        assert_eq!(checkout(&deep), None);
        fs::write(folder.join("Cargo.toml"), "").expect("written");
        assert_eq!(checkout(&deep), Some(folder));
    }

    #[test]
    fn an_image_that_is_named_has_to_be_there() {
        let missing = Path::new("/nowhere/kernel");
        let own = Protocol::own();
        assert!(
            matches!(find(Some(missing), Arch::Arm64, &own), Err(ImageError::NotThere(path)) if path == missing)
        );
    }
}
