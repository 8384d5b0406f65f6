#!/usr/bin/env bash
# Random programs on the engine and on the running kernel, for two minutes. Needs root and a kernel that can spare huge pages
# of 2 MiB; the pool is taken over meanwhile and put back.
#
#     ci/conform.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-120}
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

cargo build --quiet --release -p hugewalk-cli
hugewalk="${CARGO_TARGET_DIR:-target}/release/hugewalk"
# What else may be missing the command knows best.
if ! reason=$("$hugewalk" conform --replay 'pool 0' 2>&1 >/dev/null); then
    skip "${reason#hugewalk: }"
fi
"$hugewalk" conform --programs 1000000 --seconds "$seconds"
