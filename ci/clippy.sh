#!/usr/bin/env bash
# Lints, warnings denied; which ones is said in Cargo.toml.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo clippy --workspace --all-targets -- -D warnings
# In their own directories, because the flags they need are in the configurations there. Flags from outside would replace them.
for workspace in ci/bare crates/hugewalk-kernel crates/hugewalk-rcu/peers; do
    (cd "$workspace" && env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS cargo clippy --release -- -D warnings)
done
