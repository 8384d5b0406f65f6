#!/usr/bin/env bash
# What is published: each package has its licence texts, its README and its metadata, and nothing that only the workspace
# can use. And the public API: compared with the release before, as soon as there is one.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "ci/package.sh: $1" >&2
    exit 1
}

# One line a package: its name, then the metadata that is missing.
missing=$(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
wanted = ["description", "license", "readme", "documentation", "keywords", "categories", "rust_version"]
for package in json.load(sys.stdin)["packages"]:
    lacks = [name for name in wanted if not package.get(name)]
    if not (package.get("metadata") or {}).get("docs", {}).get("rs"):
        lacks.append("package.metadata.docs.rs")
    print(package["name"], *lacks)
')
while read -r package lacks; do
    [ -z "$lacks" ] || fail "$package lacks $lacks"
    files=$(cargo package --package "$package" --list --allow-dirty)
    for file in LICENSE-MIT LICENSE-APACHE README.md; do
        grep --quiet --line-regexp --fixed-strings "$file" <<<"$files" || fail "the package $package lacks $file"
    done
    if grep --extended-regexp '^(tests|examples)/' <<<"$files"; then
        fail "the package $package has files that only the workspace can use"
    fi
    echo "$package: $(wc -l <<<"$files") files, complete"
done <<<"$missing"

if [ -z "$(git tag --list 'v*')" ]; then
    echo "skipped: nothing was released yet that the public API could be compared with"
elif ! command -v cargo-semver-checks >/dev/null; then
    echo "skipped: cargo-semver-checks is not installed; run cargo install --locked cargo-semver-checks"
else
    cargo semver-checks --workspace --baseline-rev "$(git describe --tags --abbrev=0 --match 'v*')"
fi
