#!/usr/bin/env bash
# Formatting, as rustfmt.toml says.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --all --check
for workspace in ci/bare crates/hugewalk-kernel crates/hugewalk-bench; do
    (cd "$workspace" && cargo fmt --check)
done
