#!/usr/bin/env bash
# Mistakes that a competent kernel programmer could make, one at a time: which of them do the checks find?
#
#     ci/mutants.sh [--room ROOM] [--only NAME] [--kind KIND] [--missing] [--unasked] [--ask CHECK]
#                   [--check-only] [--protocols] [--all] [--record]
#     ci/mutants.sh --sample N [--seed TEXT]
#     ci/mutants.sh --plant-only | --table
#
# The mistakes are listed in crates/hugewalk-lab/mutants, a file for each room of the engine. All of them are planted in a
# copy of the workspace, each behind a switch, and the copy is built once. Then each is switched on in turn, and the checks
# are asked: `hugewalk check`, the tests that reach the mistake, loom (run.py, beside the lists, says in which order). --room,
# --only, --kind and --ask (check, tests or loom; all of them if none is named) may be repeated. --missing asks only of those
# that nothing is known to find, --unasked of those that were not asked of. --check-only asks `hugewalk check` alone,
# --protocols asks it for all protocols and not only for the engine's own, and --all asks each check, whatever another has
# found. --record keeps the answers in found.json beside the lists, and --table makes the table in docs/lab.md of that.
#
# --sample takes N of the mistakes that `hugewalk check` is known to find, chosen by a seed, the commit if none is given: the
# scenario that found one has to find it again. --plant-only sees that each mistake fits the sources as they are, and builds
# nothing.
#
# Nothing depends on how busy the machine is: what hangs is told by processor time, or by sleeping for good.
set -euo pipefail
cd "$(dirname "$0")/.."

mutants=crates/hugewalk-lab/mutants
plant_only='' seeded='' arguments=("$@")
for argument in "$@"; do
    case $argument in
    --plant-only) plant_only=1 ;;
    --table) exec python3 "$mutants/run.py" --table ;;
    --seed) seeded=1 ;;
    esac
done
[ -n "$seeded" ] || arguments+=(--seed "$(git rev-parse --short HEAD)")

target=$(realpath --canonicalize-missing "${CARGO_TARGET_DIR:-target}")/mutants
copy=$target/tree
rm -rf "$target/planted"
mkdir -p "$copy" "$target/planted"
git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- --create | tar --extract --directory "$target/planted"
python3 "$mutants/plant.py" "$mutants" "$target/planted/crates/hugewalk/src"
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

python3 "$mutants/run.py" "$copy" "$target/target" "${arguments[@]}"
