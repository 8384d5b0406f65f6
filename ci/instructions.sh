#!/usr/bin/env bash
# Instructions of one walk, counted by callgrind: what stays the same on a noisy machine. docs/performance.md records them.
#
#     ci/instructions.sh
#
# Counted for two numbers of walks; the difference leaves the setting up out.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v valgrind >/dev/null || { echo "valgrind is missing: apt-get install valgrind" >&2; exit 2; }
cargo build --quiet --release -p hugewalk-cli
binary=${CARGO_TARGET_DIR:-target}/release/hugewalk

count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null \
        "$binary" bench walk --only "$1" --iterations "$2" 2>&1 | awk '/Collected/ { print $NF }'
}

for case in bare rcu vma-lock; do
    few=$(count "$case" 100000)
    many=$(count "$case" 300000)
    printf '%-10s %d instructions a walk\n' "$case" $(((many - few) / 200000))
done
