#!/usr/bin/env bash
# Runs what the README tells its reader to run, and what docs/lab.md and docs/upstream.md do.
#
#     ci/readme.sh [COMMAND]...
#
# Every line of a block marked "sh" is a command of its own, run at the root of the checkout (a backslash at the end joins
# the next line; lines that start with # are comments), and must succeed. Blocks that show a session with its output,
# or something that is not meant to be run here, are marked "console" or "text". The COMMANDs given were run already:
# they are left out, but the README has to have them.
#
# The pages under docs/ call `hugewalk`, which is built for them. docs/upstream.md is a mail: its commands are the indented lines
# that begin with "$ hugewalk", and those that follow a backslash.
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -t commands < <(awk '
    inside && /^ *```/ { inside = 0; next }
    inside && sub(/\\$/, "") { line = line $0; next }
    inside { line = line $0; if (line !~ /^ *(#|$)/) print line; line = "" }
    /^ *```sh *$/ { inside = 1 }
' README.md)
if [ "${#commands[@]}" -eq 0 ]; then
    echo "README.md has no command in a block marked sh" >&2
    exit 1
fi

contains() {
    local wanted=$1 each
    shift
    for each; do
        [ "$each" = "$wanted" ] && return
    done
    return 1
}

for known; do
    if ! contains "$known" "${commands[@]}"; then
        echo "README.md lacks the command: $known" >&2
        exit 1
    fi
done

run() {
    printf '$ %s\n' "$2"
    if ! bash -euo pipefail -c "$2" </dev/null; then
        echo "$1: this command failed: $2" >&2
        exit 1
    fi
}

for command in "${commands[@]}"; do
    if contains "$command" "$@"; then
        continue
    fi
    run README.md "$command"
done

cargo build --quiet --release -p hugewalk-cli
PATH=${CARGO_TARGET_DIR:-$PWD/target}/release:$PATH

for page in docs/lab.md docs/upstream.md; do
    mapfile -t commands < <(awk '
        inside && /^ *```/ { inside = 0; next }
        /^ *```sh *$/ { inside = 1; next }
        /^    \$ hugewalk / { mail = 1; sub(/^    \$ /, "") }
        (inside || mail) && sub(/\\$/, "") { line = line $0; next }
        (inside || mail) { line = line $0; if (line ~ /^hugewalk /) print line; line = ""; mail = 0 }
    ' "$page")
    if [ "${#commands[@]}" -eq 0 ]; then
        echo "$page has no command" >&2
        exit 1
    fi
    for command in "${commands[@]}"; do
        run "$page" "$command" >/dev/null
    done
done
