#!/usr/bin/env bash
# Mistakes that a competent kernel programmer could make, one at a time: which of them do the checks find?
#
#     ci/mutants.sh [--sample N] [--room ROOM] [--only NAME] [--check-only] [--plant-only]
#
# The mistakes are listed in crates/hugewalk-lab/mutants, a file for each room of the engine. All of them are planted in a copy
# of the workspace, each behind a switch, and the copy is built once. Then each is switched on in turn, and `hugewalk check`
# is asked; and, unless --check-only is given, the tests, until one fails. A table says who found what; the last lines
# are the two rates. --sample N takes every Nth mistake. --plant-only sees that each mistake fits the sources as they are, and
# builds nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

sample=1 room='' only='' check_only='' plant_only=''
while [ $# -gt 0 ]; do
    case $1 in
    --sample) sample=$2 && shift ;;
    --room) room=$2 && shift ;;
    --only) only=$2 && shift ;;
    --check-only) check_only=1 ;;
    --plant-only) plant_only=1 ;;
    *)
        echo "ci/mutants.sh: unknown argument $1; see the top of the script" >&2
        exit 2
        ;;
    esac
    shift
done

target=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")/mutants
copy=$target/tree
rm -rf "$target/planted"
mkdir -p "$copy" "$target/planted"
git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- --create | tar --extract --directory "$target/planted"
python3 crates/hugewalk-lab/mutants/plant.py crates/hugewalk-lab/mutants "$target/planted/crates/hugewalk/src"
[ -z "$plant_only" ] || exit 0
# What is as it was keeps its time, so that little is built anew.
(cd "$copy" && find . -type f -o -type l) | while read -r file; do
    [ -e "$target/planted/$file" ] || [ -L "$target/planted/$file" ] || rm "$copy/$file"
done
(cd "$target/planted" && find . -type f -o -type l) | while read -r file; do
    if ! cmp --silent "$target/planted/$file" "$copy/$file"; then
        mkdir -p "$(dirname "$copy/$file")"
        cp --no-dereference "$target/planted/$file" "$copy/$file"
    fi
done

cd "$copy"
export CARGO_TARGET_DIR=$target/target
# Planted code is not to be tidy.
export RUSTFLAGS="${RUSTFLAGS:-} --cap-lints allow"
cargo build --quiet --release -p hugewalk-cli
# From the quickest to the slowest.
tests=("-p hugewalk --lib" "-p hugewalk --test unshare" "-p hugewalk --test scenarios" "-p hugewalk --test every_walk"
    "-p hugewalk --test out_of_memory" "-p hugewalk --test against_model" "-p hugewalk-host --tests")
[ -n "$check_only" ] || for test in "${tests[@]}"; do
    # shellcheck disable=SC2086
    cargo test --quiet --release --no-run $test
done
hugewalk=$CARGO_TARGET_DIR/release/hugewalk

# Without a mistake everything has to pass: the copy is the engine.
timeout 600 "$hugewalk" check >/dev/null || { echo "ci/mutants.sh: the copy fails without a mutant" >&2; exit 1; }

found_by() {
    export HUGEWALK_MUTANT=$1
    local status=0
    # A verdict that is not as expected ends it with 1; a panic, a deadlock of the checker or a time-out is seen as well.
    timeout 300 "$hugewalk" check >/dev/null 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        echo check
        return
    fi
    [ -z "$check_only" ] || return 0
    local test
    for test in "${tests[@]}"; do
        # shellcheck disable=SC2086
        if ! timeout 600 cargo test --quiet --release $test >/dev/null 2>&1; then
            echo "${test##* }"
            return
        fi
    done
}

number=0 all=0 found=0 concurrent=0 by_check=0
while IFS=$'\t' read -r name of kind what; do
    number=$((number + 1))
    if [ -n "$room" ] && [ "$of" != "$room" ]; then continue; fi
    if [ -n "$only" ] && [ "$name" != "$only" ]; then continue; fi
    if [ $((number % sample)) -ne 0 ]; then continue; fi
    if [ "$kind" = equivalent ]; then
        printf '%-34s %-12s %-12s %s\n' "$name" "$kind" - "$what"
        continue
    fi
    who=$(found_by "$name")
    printf '%-34s %-12s %-12s %s\n' "$name" "$kind" "${who:-SURVIVES}" "$what"
    all=$((all + 1))
    if [ -n "$who" ]; then found=$((found + 1)); fi
    if [ "$kind" = "two threads" ] || [ "$kind" = TLB ]; then
        concurrent=$((concurrent + 1))
        if [ "$who" = check ]; then by_check=$((by_check + 1)); fi
    fi
done < <(python3 crates/hugewalk-lab/mutants/plant.py crates/hugewalk-lab/mutants . --list)

printf 'check finds %d of %d that need two threads or a TLB\n' "$by_check" "$concurrent"
printf 'all checks find %d of %d\n' "$found" "$all"
