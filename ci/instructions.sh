#!/usr/bin/env bash
# Instructions of one walk, and of one page had by it, counted by callgrind: what stays the same on a noisy machine.
# docs/performance.md records them.
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
        "$binary" bench "$1" --only "$2" --iterations "$3" 2>&1 | awk '/Collected/ { print $NF }'
}

for case in "walk bare" "walk rcu" "walk vma-lock" "walkers gup-fast" "walkers pin-fast" "walkers follow-page"; do
    read -r what only <<<"$case"
    few=$(count "$what" "$only" 100000)
    many=$(count "$what" "$only" 300000)
    printf '%-12s %d instructions each\n' "$only" $(((many - few) / 200000))
done
