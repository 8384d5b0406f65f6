#!/usr/bin/env bash
# Lints, warnings denied; which ones is said in Cargo.toml.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo clippy --workspace --all-targets -- -D warnings
# In its own directory, because the flags it needs are in the configuration there.
(cd ci/bare && cargo clippy --release -- -D warnings)
