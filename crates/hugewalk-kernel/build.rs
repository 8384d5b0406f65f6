//! How the kernel is linked: with nothing but what cargo compiled, at the addresses of `src/boot/link.ld`.

use std::env;

fn main() {
    for flag in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,norelro",
        "-Wl,-z,max-page-size=4096",
    ] {
        println!("cargo::rustc-link-arg-bins={flag}");
    }
    let here = env::var("CARGO_MANIFEST_DIR").expect("cargo names the directory of the manifest");
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{here}/src/boot/link.ld");
    println!("cargo::rerun-if-changed=src/boot/link.ld");
    println!("cargo::rerun-if-changed=build.rs");
}
