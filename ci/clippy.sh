#!/usr/bin/env bash
# Lints, warnings denied; which ones is said in Cargo.toml.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo clippy --workspace --all-targets -- -D warnings
# In their own directories, because the flags they need are in the configurations there. Flags from outside would replace them.
for workspace in ci/bare crates/hugewalk-kernel; do
    (cd "$workspace" && env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS cargo clippy --release -- -D warnings)
done
# The kernel's other architecture, where clippy's compiler has it.
. ci/toolchain.sh
if has_sysroot aarch64-unknown-none; then
    (cd crates/hugewalk-kernel && env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS cargo clippy --release --target aarch64-unknown-none -- -D warnings)
fi
(cd crates/hugewalk-bench && cargo clippy --release --all-targets -- -D warnings)
