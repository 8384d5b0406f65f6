#!/usr/bin/env bash
# Instructions of one walk, and of one page had by it, counted by callgrind: what stays the same on a noisy machine. A walk that
# takes more than it may fails the check. docs/performance.md records the numbers.
#
#     ci/instructions.sh
#
# Counted for two numbers of walks; the difference leaves the setting up out.
set -euo pipefail
cd "$(dirname "$0")/.."

# The limits are exact: those of this compiler.
compiler=1.95

if ! command -v valgrind >/dev/null; then
    echo "skipped: valgrind is missing (apt-get install valgrind)"
    exit 0
fi
cargo build --quiet --release -p hugewalk-host --example instructions
program=${CARGO_TARGET_DIR:-target}/release/examples/instructions

count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$@" 2>&1 | awk '/Collected/ { print $NF }'
}

version=$(rustc --version | cut -d' ' -f2)
failed=0
# The number of a row that has a limit is that of the walk; one that has none is mostly that of locks and counts.
while read -r format way limit; do
    few=$(count "$format" "$way" 1000)
    many=$(count "$format" "$way" 3000)
    each=$(((many - few) / 2000))
    printf '%-14s %-12s %d instructions each' "$format" "$way" "$each"
    if [ "$limit" = - ]; then
        echo
    elif [ "$each" -le "$limit" ]; then
        echo ", of at most $limit"
    elif [ "${version%.*}" = "$compiler" ]; then
        echo ": more than $limit"
        failed=1
    else
        echo ": more than $limit, which rustc $compiler takes; this is $version"
    fi
done <<'ROWS'
x86-64 bare 29
x86-64 rcu 91
x86-64 vma-lock -
x86-64 gup-fast 133
x86-64 follow-page -
arm64 rcu 149
arm64-group rcu 149
riscv64 rcu 222
riscv64-group rcu 246
ROWS
exit "$failed"
