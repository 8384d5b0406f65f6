#!/usr/bin/env bash
# The orderings of EpochRcu, and of tables that are published, shared and unshared, under a model checker. LOOM_LOG=1 shows the schedule that failed.
set -euo pipefail
cd "$(dirname "$0")/.."

# In its own directory: the flag reaches every crate, and would have everything else compiled anew each time.
export CARGO_TARGET_DIR=${LOOM_TARGET_DIR:-target/loom}
RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" cargo test --release --package hugewalk-rcu --test loom
RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" cargo test --release --package hugewalk --test loom_table
