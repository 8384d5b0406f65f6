#!/usr/bin/env bash
# hugewalk beside its peers: the program is built and run, briefly. All walkers find the same, and every group is printed.
set -euo pipefail
cd "$(dirname "$0")/../crates/hugewalk-bench"

cargo test --quiet --lib
printed=$(cargo bench --quiet --profile release -- --quick)
# A title, a heading and at least two cases.
groups=$(grep --count 'of first$' <<<"$printed")
cases=$(grep --count --extended-regexp ' [0-9.]+ ns .* [0-9.]+$' <<<"$printed")
echo "$groups groups, $cases cases"
if [ "$groups" -ne 17 ] || [ "$cases" -ne 69 ]; then
    printf '%s\n' "$printed"
    echo "ci/bench.sh: 17 groups with 69 cases are expected" >&2
    exit 1
fi
