#!/usr/bin/env bash
# The orderings of EpochRcu, of tables that are published, shared and unshared, and of the lock whose readers mark themselves, under a model checker. LOOM_LOG=1 shows the schedule that failed.
set -euo pipefail
cd "$(dirname "$0")/.."

# In its own directory: the flag reaches every crate, and would have everything else compiled anew each time.
export CARGO_TARGET_DIR=${LOOM_TARGET_DIR:-target/loom}
RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" cargo test --release --package hugewalk-rcu --test loom
RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" cargo test --release --package hugewalk --features weaker-protocols --test loom_table
RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" cargo test --release --package hugewalk --features weaker-protocols --test loom_biased
