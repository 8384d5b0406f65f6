#!/usr/bin/env bash
# Runs what the README tells its reader to run.
#
#     ci/readme.sh [COMMAND]...
#
# Every line of a block marked "sh" is a command of its own, run at the root of the checkout (a backslash at the end joins
# the next line; lines that start with # are comments), and must succeed. Blocks that show a session with its output,
# or something that is not meant to be run here, are marked "console" or "text". The COMMANDs given were run already:
# they are left out, but the README has to have them.
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

for command in "${commands[@]}"; do
    if contains "$command" "$@"; then
        continue
    fi
    printf '$ %s\n' "$command"
    if ! bash -euo pipefail -c "$command" </dev/null; then
        echo "README.md: this command failed: $command" >&2
        exit 1
    fi
done
