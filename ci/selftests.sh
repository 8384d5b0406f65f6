#!/usr/bin/env bash
# Runs the kernel's own selftests of huge pages in `hugewalk run`, and compares how each ends with how it ends on Linux.
#
#     bash ci/selftests.sh [--full] [--cpus N] [--arch ARCH] [--only WORD]...
#
# --arch arm64 builds and runs them for that processor instead of x86-64. --full runs the minutes-long ones too; --only those whose line in ci/selftests/table.txt holds the word. The programs are
# built by ci/selftests/build.sh in SELFTESTS (default: hugewalk-selftests in the user's cache), of each of the two versions
# that Debian's archive has. HUGEWALK names a command to use instead of the checkout's. What a program printed is kept
# in SELFTESTS/logs.
#
# Without network, without QEMU: one line that says what was skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

directory=${SELFTESTS:-${XDG_CACHE_HOME:-$HOME/.cache}/hugewalk-selftests}
full=
cpus=2
arch=x86-64
only=()
while [ $# -gt 0 ]; do
    case $1 in
    --full) full=1 ;;
    --cpus) cpus=${2:?} && shift ;;
    --arch) arch=${2:?} && shift ;;
    --only) only+=("${2:?}") && shift ;;
    *)
        echo "ci/selftests.sh: no option $1: [--full] [--cpus N] [--arch ARCH] [--only WORD]..." >&2
        exit 2
        ;;
    esac
    shift
done

skip() {
    echo "skipped: the kernel's selftests for $arch, since $1"
    # Nothing is skipped where it counts.
    if [ -n "${CI:-}" ]; then exit 1; fi
    exit
}

case $arch in
x86-64) tools=(qemu-system-x86_64 gcc) suffix='' ;;
arm64) tools=(qemu-system-aarch64 aarch64-linux-gnu-gcc) suffix=-arm64 ;;
*)
    echo "ci/selftests.sh: no architecture $arch: x86-64 or arm64" >&2
    exit 2
    ;;
esac
for tool in "${tools[@]}"; do
    command -v "$tool" >/dev/null || skip "$tool is not installed"
done
if [ "$arch" = arm64 ]; then
    . ci/toolchain.sh
    has_toolchain aarch64-unknown-none || skip "there is no compiler for the kernel; rustup target add aarch64-unknown-none"
fi

versions=()
for version in 6.1 6.12; do
    status=0
    said=$(bash ci/selftests/build.sh "$version" "$directory" "$arch") || status=$?
    case $status in
    0) versions+=("$version") ;;
    3) echo "skipped: the selftests of $version: $said" ;;
    *)
        echo "ci/selftests.sh: the selftests of $version do not build: $said" >&2
        exit 1
        ;;
    esac
done
if [ "${#versions[@]}" -eq 0 ]; then
    exit
fi

command=${HUGEWALK:-}
if [ -z "$command" ]; then
    cargo build --quiet --release --package hugewalk-cli
    command=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/hugewalk
fi

# Debian's busybox-static is one program for all of the guest's commands.
shell=
busybox=$(command -v busybox || true)
if [ "$arch" = x86-64 ] && [ -n "$busybox" ] && ! readelf --program-headers --wide "$busybox" | grep -q INTERP; then
    shell=$busybox
fi

wanted() {
    local word
    if [ "${#only[@]}" -eq 0 ]; then return 0; fi
    for word in "${only[@]}"; do
        case $1 in *"$word"*) return 0 ;; esac
    done
    return 1
}

trim() {
    local text=$1
    text=${text#"${text%%[![:space:]]*}"}
    printf '%s' "${text%"${text##*[![:space:]]}"}"
}

# compare_lines FILE LOG: are the lines of the log that start with the first word of the file's lines those of the file?
compare_lines() {
    local first
    first=$(grep -v '^#' "$1" | head -1)
    diff <(grep -v '^#' "$1") <(grep "^${first%% *} " "$2")
}

logs=$directory/logs
mkdir -p "$logs"
passed=0
failed=()
skipped=0
while IFS='|' read -r version when options program expected pattern; do
    version=$(trim "$version")
    program=$(trim "$program")
    expected=$(trim "$expected")
    pattern=$(trim "$pattern")
    case $version in '' | '#'*) continue ;; esac
    case " ${versions[*]} " in *" $version "*) ;; *) continue ;; esac
    name="$version $program"
    wanted "$name" || continue
    if [ "$(trim "$when")" = rarely ] && [ -z "$full" ]; then continue; fi
    if [[ $options == *%sh* && -z $shell ]]; then
        echo "skipped: $name: there is no static busybox for $arch (Debian: busybox-static)"
        skipped=$((skipped + 1))
        continue
    fi
    read -ra given <<<"${options//%sh/$shell}"
    read -ra words <<<"$program"
    log=$logs/$(tr -c '[:alnum:]._\n' '_' <<<"$name")$suffix.txt
    begin=$SECONDS
    status=0
    (cd "$directory/$version$suffix" && "$command" run --arch "$arch" --cpus "$cpus" "${given[@]}" "./${words[0]}" "${words[@]:1}") \
        >"$log" 2>&1 </dev/null || status=$?
    took=$((SECONDS - begin))
    if [ "$status" != "$expected" ]; then
        printf 'FAILED: %s: exit %s instead of %s after %s s; see %s\n' "$name" "$status" "$expected" "$took" "$log"
        tail -4 "$log" | sed 's/^/    /'
        failed+=("$name")
    elif [[ $pattern == 'lines of '* ]]; then
        if compare_lines "ci/selftests/${pattern#lines of }" "$log" >"$log.diff"; then
            printf 'ok: %s (exit %s, %s s, each line as in %s)\n' "$name" "$status" "$took" "${pattern#lines of }"
            passed=$((passed + 1))
        else
            printf 'FAILED: %s: other lines than in %s; see %s\n' "$name" "${pattern#lines of }" "$log"
            grep '^[<>]' "$log.diff" | head -4 | sed 's/^/    /'
            failed+=("$name")
        fi
    elif [ -n "$pattern" ] && ! grep -qE "$pattern" "$log"; then
        printf 'FAILED: %s: no line matches "%s"; see %s\n' "$name" "$pattern" "$log"
        failed+=("$name")
    else
        printf 'ok: %s (exit %s, %s s)\n' "$name" "$status" "$took"
        passed=$((passed + 1))
    fi
done <ci/selftests/table.txt

printf '%s selftests end as on Linux, %s do not, %s skipped; %s, %s processors\n' "$passed" "${#failed[@]}" "$skipped" "$arch" "$cpus"
[ "${#failed[@]}" -eq 0 ]
