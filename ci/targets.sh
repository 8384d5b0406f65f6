#!/usr/bin/env bash
# The core builds for bare machines of every architecture that `arch` describes.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/toolchain.sh

targets=(aarch64-unknown-none riscv64gc-unknown-none-elf)
for target in "${targets[@]}"; do
    if has_toolchain "$target"; then continue; fi
    if ! command -v rustup >/dev/null || ! rustup target add "$target"; then
        echo "skipped: there is no core library for $target; rustup target add $target, or Debian's rustc-web, cargo-web and rust-web-src"
        # Nothing is skipped where it counts.
        if [ -n "${CI:-}" ]; then exit 1; fi
        exit
    fi
done

for target in "${targets[@]}"; do
    cross_cargo "$target" check --quiet -p hugewalk
    echo "$target: the core builds"
done
