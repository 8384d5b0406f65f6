//! How the kernel is linked: with nothing but what cargo compiled, at the addresses of the architecture's `link.ld`.

use std::env;

fn main() {
    let variable = |name| env::var(name).expect("cargo sets it");
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    let script = format!("src/arch/{architecture}/boot/link.ld");
    let here = variable("CARGO_MANIFEST_DIR");
    // For x86-64 the linker is called by way of a C compiler, which has ideas of its own.
    let through_compiler = architecture == "x86_64";
    if through_compiler {
        for flag in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"] {
            println!("cargo::rustc-link-arg-bins={flag}");
        }
    }
    let prefix = if through_compiler { "-Wl," } else { "" };
    let comma = if through_compiler { "," } else { "" };
    let page_size = if through_compiler { "-z,max-page-size=4096" } else { "-zmax-page-size=4096" };
    let relro = if through_compiler { "-z,norelro" } else { "-znorelro" };
    for flag in [relro, page_size, &format!("-T{comma}{here}/{script}")] {
        println!("cargo::rustc-link-arg-bins={prefix}{flag}");
    }
    println!("cargo::rerun-if-changed={script}");
    println!("cargo::rerun-if-changed=build.rs");
}
