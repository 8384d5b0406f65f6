#!/usr/bin/env bash
# What takes too long for every change: bash ci/full.sh
#
# The kernel's selftests on 1 and 4 processors with the minutes-long ones (.ci/run has 2 processors, without those), and a minute
# of stress on 4: processes that share, unshare, fork and exit at once. Five minutes of random system calls, and ten of conform, with calls and
# programs that no run has had. Without network or QEMU: one line that says what was skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

failed=()
part() {
    local name=$1 begin=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@" || failed+=("$name")
    printf '== %s: %d s\n' "$name" $((SECONDS - begin))
}

# A program of ours in the guest, on four processors: its source, and its arguments.
guest() {
    local program source=$1
    shift
    for tool in qemu-system-x86_64 gcc; do
        if ! command -v "$tool" >/dev/null; then
            echo "skipped: $source, since $tool is not installed"
            return
        fi
    done
    program=$(mktemp)
    gcc -static -O2 -w -o "$program" "$source" -lpthread
    local status=0
    local options=(--cpus 4 --memory 2G --timeout 900)
    if [ -n "${HUGEWALK:-}" ]; then
        "$HUGEWALK" run "${options[@]}" "$program" "$@" || status=$?
    else
        cargo run --quiet --release --package hugewalk-cli -- run "${options[@]}" "$program" "$@" || status=$?
    fi
    rm -f "$program"
    return "$status"
}

for cpus in 1 4; do
    part "selftests on $cpus processors" bash ci/selftests.sh --full --cpus "$cpus"
done
part "selftests for arm64" bash ci/selftests.sh --arch arm64
part "stress on 4 processors" guest examples/guest/stress.c 60 4
part "random system calls" guest crates/hugewalk-cli/tests/guest/random_calls.c 300 6 "$(date +%s)"
part "conform on other programs" bash ci/conform.sh 600 "$(date +%s)"

if [ "${#failed[@]}" -ne 0 ]; then
    printf '\nfailed: %s\n' "${failed[*]}"
    exit 1
fi
