#!/usr/bin/env bash
# The core builds for bare machines of every architecture that `arch` describes; and it refuses one whose processors cannot walk
# the tables that it makes, unless it is told that software walks them.
set -euo pipefail
cd "$(dirname "$0")/.."

targets=(aarch64-unknown-none riscv64gc-unknown-none-elf)
for target in "${targets[@]}"; do
    [ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] && continue
    if ! command -v rustup >/dev/null || ! rustup target add "$target"; then
        echo "skipped: there is no core library for $target; rustup target add $target"
        # Nothing is skipped where it counts.
        if [ -n "${CI:-}" ]; then exit 1; fi
        exit
    fi
done

for target in "${targets[@]}"; do
    cargo check --quiet -p hugewalk --target "$target" --features soft-tables
    if message=$(cargo check --quiet -p hugewalk --target "$target" 2>&1); then
        echo "ci/targets.sh: the core makes tables of x86-64 for $target in silence" >&2
        exit 1
    fi
    if [[ $message != *"cannot walk"*"soft-tables"* ]]; then
        printf '%s\nci/targets.sh: %s is refused for another reason\n' "$message" "$target" >&2
        exit 1
    fi
    echo "$target: builds for software that walks the tables, and is refused otherwise"
done
