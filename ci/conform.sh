#!/usr/bin/env bash
# Random programs on the engine and on the running kernel, for two minutes. Needs root and a kernel that can spare huge pages
# of 2 MiB; the pool is taken over meanwhile and put back.
#
#     ci/conform.sh [SECONDS [SEED]]
#
# The programs are the same each time, so that what the check says depends on the sources and not on luck; ci/full.sh runs
# others.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-120} seed=${2:-1}
pool=/sys/kernel/mm/hugepages/hugepages-2048kB

# Says in one line why nothing is run, and how to change that.
skip() {
    echo "skipped: $1"
    exit
}

[ -d "$pool" ] || skip "this kernel has no huge pages of 2 MiB; boot one built with CONFIG_HUGETLBFS"
[ "$(id -u)" -eq 0 ] || skip "the pool of huge pages can only be changed by root; run sudo ci/conform.sh"
[ -w "$pool/nr_hugepages" ] || skip "$pool cannot be written to; in a container, run it with --privileged"
if [ "$(cat "$pool/free_hugepages")" != "$(cat "$pool/nr_hugepages")" ] || [ "$(cat "$pool/resv_hugepages")" != 0 ]; then
    skip "others use huge pages on this machine; end them, for every page is counted"
fi
# A pool of 40 pages serves most programs, one of 700 all of them; the rest of the memory stays the machine's.
available=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
[ "$available" -ge 4096 ] || skip "4 GiB of free memory are needed, and $available MiB are there"

# Checks before this one leave the memory in pieces. Where the kernel still finds none for a page, the command says so.
[ ! -w /proc/sys/vm/compact_memory ] || echo 1 >/proc/sys/vm/compact_memory

cargo build --quiet --release -p hugewalk-cli
hugewalk="${CARGO_TARGET_DIR:-target}/release/hugewalk"
# What else may be missing the command knows best.
if ! reason=$("$hugewalk" conform --replay 'pool 0' 2>&1 >/dev/null); then
    skip "${reason#hugewalk: }"
fi
said=$(mktemp)
trap 'rm -f "$said"' EXIT
status=0
"$hugewalk" conform --programs 1000000 --seconds "$seconds" --seed "$seed" 2>"$said" || status=$?
if [ "$status" -eq 2 ] && grep -q 'finds no memory for a huge page' "$said"; then
    reason=$(cat "$said")
    skip "${reason#hugewalk: }"
fi
cat "$said" >&2
exit "$status"
