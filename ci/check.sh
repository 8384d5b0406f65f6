#!/usr/bin/env bash
# The verdicts: every interleaving of every scenario under every protocol; then random schedules of the same, in two shards
# that are joined, as docs/campaigns.md describes. Each must take less than two minutes on two processors. The first must get
# along with little memory on two threads: what a run allocates goes with the run.
#
#     ci/check.sh [RANDOM SCHEDULES OF EACH CASE]
set -euo pipefail
cd "$(dirname "$0")/.."

schedules=${1:-4000}
most_mib=80
cargo build --quiet --release -p hugewalk-cli
hugewalk=${CARGO_TARGET_DIR:-target}/release/hugewalk
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

# Runs a command, and says how much memory it had at most; more than so many MiB are too much.
within() {
    python3 -c '
import resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
peak, most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, int(sys.argv[1])
print(f"{peak:.0f} MiB of memory at most, of {most} that are allowed")
sys.exit(status or peak > most)
' "$@"
}

within "$most_mib" timeout 120 "$hugewalk" check --jobs 2

printf '\nBy chance:\n'
for part in 1 2; do
    timeout 120 "$hugewalk" check --pct "$schedules" --shard "$part/2" --checkpoint "$parts/$part.json" | tail -n 1
done
"$hugewalk" check merge "$parts"/*.json | tail -n 1
