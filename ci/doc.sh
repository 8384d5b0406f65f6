#!/usr/bin/env bash
# Documentation, broken links and other warnings denied. Libraries only: the command has the name of one of them.
set -euo pipefail
cd "$(dirname "$0")/.."

RUSTDOCFLAGS="${RUSTDOCFLAGS:-} -D warnings" cargo doc --workspace --lib --no-deps
