#!/usr/bin/env bash
# Documentation, broken links and other warnings denied. Libraries only: the command has the name of one of them. And the kernel,
# whose documentation is for those who read its source.
set -euo pipefail
cd "$(dirname "$0")/.."

export RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings"
cargo doc --workspace --lib --no-deps
(cd crates/hugewalk-kernel && env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS cargo doc --release --no-deps --document-private-items)
