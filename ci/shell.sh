#!/usr/bin/env bash
# The scripts themselves.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v shellcheck >/dev/null; then
    echo "skipped: shellcheck is not installed"
    # Nothing is skipped where it counts.
    if [ -n "${CI:-}" ]; then exit 1; fi
    exit
fi
shellcheck .ci/run ci/*.sh ci/selftests/*.sh
