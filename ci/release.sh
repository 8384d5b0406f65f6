#!/usr/bin/env bash
# The tests of the engine and its host once more, as the compiler optimises them: races have other windows there, and
# compilers have faults of their own.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --quiet --release -p hugewalk --lib --test scenarios --test against_model
cargo test --quiet --release -p hugewalk-host --tests
