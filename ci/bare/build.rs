//! How the programs are linked: with nothing but what cargo compiled.

use std::env;

fn main() {
    let variable = |name| env::var(name).expect("cargo sets it");
    // On x86-64 the linker is called by way of a C compiler, which has ideas of its own.
    if variable("CARGO_CFG_TARGET_ARCH") == "x86_64" {
        for flag in
            ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,norelro"]
        {
            println!("cargo::rustc-link-arg-bins={flag}");
        }
        script("-Wl,-T,");
    } else {
        script("-T");
    }
    println!("cargo::rerun-if-changed=build.rs");
}

/// Machines have a layout of their own.
fn script(option: &str) {
    let variable = |name| env::var(name).expect("cargo sets it");
    let script = format!("src/arch/{}/link.ld", variable("CARGO_CFG_TARGET_ARCH"));
    println!("cargo::rustc-link-arg-bin=machine={option}{}/{script}", variable("CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-changed={script}");
}
