#!/usr/bin/env bash
# What giving a shared table up costs under each locking protocol: interrupts and instructions, in the kernel of `hugewalk run`.
# docs/performance.md has the table that this prints.
#
#     bash ci/protocols.sh [--children N] [--cpus "2 4 8 16"] [PROTOCOL]...
#
# All protocols run in one build of the kernel, the one that can follow any of them. HUGEWALK names a command to use instead of
# the checkout's.
set -euo pipefail
cd "$(dirname "$0")/.."

children=100
cpus="2 4 8 16"
protocols=()
while [ $# -gt 0 ]; do
    case $1 in
    --children) children=${2:?} && shift ;;
    --cpus) cpus=${2:?} && shift ;;
    -*)
        echo "ci/protocols.sh: no option $1: [--children N] [--cpus \"2 4 8 16\"] [PROTOCOL]..." >&2
        exit 2
        ;;
    *) protocols+=("$1") ;;
    esac
    shift
done
if [ "${#protocols[@]}" -eq 0 ]; then
    protocols=(hugewalk vma-lock ipi-each ipi-last ipi-targeted)
fi

for tool in qemu-system-x86_64 gcc python3; do
    command -v "$tool" >/dev/null || { echo "skipped: the table of protocols, since $tool is not installed"; exit; }
done
command=${HUGEWALK:-}
if [ -z "$command" ]; then
    cargo build --quiet --release --package hugewalk-cli
    command=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/hugewalk
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
gcc -static -O2 -w -o "$scratch/forks" examples/guest/forks.c
# Any weaker protocol has that kernel built, if it must be.
"$command" run --report none --without flush --pool 8 "$scratch/forks" 1 turns >/dev/null
kernel=target/kernel-weaker/x86_64-unknown-linux-gnu/release/hugewalk-kernel

for way in turns together; do
    printf '%s children, %s:\n\n' "$children" "$([ $way = turns ] && echo 'one after the other' || echo 'all live at once')"
    printf '| processors | protocol | broadcasts | interrupts of them | for flushes | for barriers | instructions |\n'
    printf '|---|---|---|---|---|---|---|\n'
    for count in $cpus; do
        for protocol in "${protocols[@]}"; do
            status=0
            "$command" run --kernel "$kernel" --accel icount --cpus "$count" --pool 8 --report json --timeout 900 \
                --protocol "$protocol" "$scratch/forks" "$children" "$way" >"$scratch/out" 2>"$scratch/report" || status=$?
            if [ "$status" -ne 0 ]; then
                echo "ci/protocols.sh: $protocol on $count processors ended with $status: $(tail -1 "$scratch/report")" >&2
                exit 1
            fi
            python3 - "$scratch/out" "$scratch/report" "$count" "$protocol" <<'TABLE'
import json, sys
out, report, count, protocol = sys.argv[1:]
instructions = int(open(out).read().split(":")[1].split()[0])
counts = json.loads(open(report).read().splitlines()[-1])["counts"]
cells = [count, f"`{protocol}`"] + [f"{counts[name]:,}" for name in
    ("broadcasts", "interrupts_broadcast", "interrupts_flush", "interrupts_barrier")]
print("|", " | ".join(cells), "|", f"{instructions / 1e6:.1f} million |")
TABLE
        done
    done
    echo
done
