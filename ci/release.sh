#!/usr/bin/env bash
# The tests of the engine and its host once more, as the compiler optimises them: races have other windows there, and
# compilers have faults of their own. And the explorer's tests, of which two are too long for anything but optimised code: all
# seventeen million interleavings of three threads, half a minute, and what shuttle takes as long for. Last, how long a replay
# of a million lines takes and how much memory: a goal that only optimised code meets.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --quiet --release -p hugewalk --lib --test scenarios --test against_model
cargo test --quiet --release -p hugewalk-host --tests
cargo test --quiet --release -p hugewalk-explore --lib --test against_shuttle
cargo test --quiet --release -p hugewalk-lab --lib tests::
cargo test --quiet --release -p hugewalk-cli --test growth a_million_lines
