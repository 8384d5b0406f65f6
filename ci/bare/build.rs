//! How the two programs are linked: with nothing but what cargo compiled.

use std::env;

fn main() {
    for flag in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,norelro"]
    {
        println!("cargo::rustc-link-arg-bins={flag}");
    }
    let here = env::var("CARGO_MANIFEST_DIR").expect("cargo names the directory of the manifest");
    println!("cargo::rustc-link-arg-bin=pvh=-Wl,-T,{here}/src/bin/pvh/link.ld");
    println!("cargo::rerun-if-changed=src/bin/pvh/link.ld");
    println!("cargo::rerun-if-changed=build.rs");
}
