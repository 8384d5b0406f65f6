#!/usr/bin/env bash
# The verdicts: every interleaving of every scenario under every protocol; then random schedules of the same, in two shards
# that are joined, as docs/campaigns.md describes. Each must take less than two minutes on two processors.
#
#     ci/check.sh [RANDOM SCHEDULES OF EACH CASE]
set -euo pipefail
cd "$(dirname "$0")/.."

schedules=${1:-4000}
cargo build --quiet --release -p hugewalk-cli
hugewalk=${CARGO_TARGET_DIR:-target}/release/hugewalk
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT

timeout 120 "$hugewalk" check

printf '\nBy chance:\n'
for part in 1 2; do
    timeout 120 "$hugewalk" check --pct "$schedules" --shard "$part/2" --checkpoint "$parts/$part.json" | tail -n 1
done
"$hugewalk" check merge "$parts"/*.json | tail -n 1
