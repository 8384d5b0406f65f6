#!/usr/bin/env bash
# All tests: the README's own command, and the sum over all crates as the last line.
set -euo pipefail
cd "$(dirname "$0")/.."

results=$(mktemp)
trap 'rm -f "$results"' EXIT

status=0
cargo test --workspace 2>&1 | tee "$results" || status=$?

# cargo: "test result: ok. 12 passed; 0 failed; 1 ignored; ..."
awk '
    /^test result: / {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) skipped += $(i - 1)
        }
    }
    END {
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        exit passed == 0
    }
' "$results" || status=1
exit "$status"
