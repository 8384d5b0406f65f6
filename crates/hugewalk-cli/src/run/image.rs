//! Where the kernel's image is.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
    /// It does not build.
    #[error("the kernel in {} does not build; see what `cargo build --release` says there", .0.display())]
    NotBuilt(PathBuf),
}

const NAME: &str = "hugewalk-kernel";

/// The image to boot: the one that is named, else the one beside the executable, else that of the checkout which the
/// executable or the working directory lies in. The last is built, which changes nothing if nothing has changed.
///
/// # Errors
///
/// [`ImageError`].
pub(super) fn find(named: Option<&Path>) -> Result<PathBuf, ImageError> {
    if let Some(named) = named {
        return if named.is_file() {
            Ok(named.to_owned())
        } else {
            Err(ImageError::NotThere(named.to_owned()))
        };
    }
    let executable = env::current_exe().ok();
    if let Some(beside) = executable.as_ref().map(|path| path.with_file_name(NAME))
        && beside.is_file()
    {
        return Ok(beside);
    }
    let starts = [executable, env::current_dir().ok()];
    let folder = starts.iter().flatten().find_map(|start| checkout(start)).ok_or(ImageError::NotFound)?;
    build(&folder)
}

/// The kernel's folder in the checkout that `start` lies in.
fn checkout(start: &Path) -> Option<PathBuf> {
    start
        .ancestors()
        .map(|folder| folder.join("crates").join(NAME))
        .find(|folder| folder.join("Cargo.toml").is_file())
}

fn build(folder: &Path) -> Result<PathBuf, ImageError> {
    // As the folder's own configuration has it, whatever CARGO_TARGET_DIR says.
    let target = folder.join("../../target/kernel");
    let image = target.join("x86_64-unknown-linux-gnu/release").join(NAME);
    if !image.exists() {
        anstream::eprintln!("hugewalk: building the kernel in {}, once", folder.display());
    }
    // The folder has a configuration of cargo's of its own, which is found from within; flags from outside would replace
    // those in it.
    let output = Command::new("cargo")
        .args(["build", "--release", "--quiet", "--bin", NAME, "--target-dir"])
        .arg(&target)
        .current_dir(folder)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_RUSTFLAGS")
        .env_remove("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(ImageError::NoCargo)?;
    if output.status.success() { Ok(image) } else { Err(ImageError::NotBuilt(folder.to_owned())) }
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
        assert!(matches!(find(Some(missing)), Err(ImageError::NotThere(path)) if path == missing));
    }
}
