#!/usr/bin/env bash
# The engine on another processor: tests of the core and of read-copy-update, and the command, built for arm64 and
# run under QEMU's user emulation. It computes what it should there. It does not show weak memory: on x86-64, the emulation
# orders arm64's accesses as x86-64 does (ci/loom.sh has what is said of that).
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/toolchain.sh

target=aarch64-unknown-linux-gnu
# No -L: QEMU would take the dynamic linker of one package and the C library of another.
runner=qemu-aarch64-static

skip() {
    echo "skipped: $1"
    # Nothing is skipped where it counts.
    if [ -n "${CI:-}" ]; then exit 1; fi
    exit
}

has_toolchain "$target" || skip "there is no std for $target; rustup target add $target, or Debian's rustc-web, cargo-web and libstd-rust-web-dev:arm64"
for tool in aarch64-linux-gnu-gcc=gcc-aarch64-linux-gnu "$runner=qemu-user-static"; do
    command -v "${tool%%=*}" >/dev/null || skip "${tool%%=*} is not installed; Debian: ${tool#*=}"
done

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=$runner
# Emulation takes ten times as long. What takes longest gets few cases: the same ones are run natively in full.
export PROPTEST_CASES=4
# The scenarios are not started once more for each format: a process that QEMU runs cannot start another for itself.
export HUGEWALK_TEST_FORMAT=x86-64
# A compiler of another version than the native one, and so with files of its own.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/cross

cross_cargo "$target" test --quiet -p hugewalk --lib --test against_model --test drops --test every_walk --test formats \
    --test formats_engine --test guards --test interrupted --test out_of_memory --test scenarios --test unshare --test unwind --test wrong_proof
cross_cargo "$target" test --quiet -p hugewalk-rcu --lib
# What a processor leaves of a crash differs.
cross_cargo "$target" test --quiet -p hugewalk-explore --lib is_a_counterexample
cross_cargo "$target" build --quiet -p hugewalk-cli
hugewalk=("$runner" "$CARGO_TARGET_DIR/$target/debug/hugewalk")
said=$(mktemp)
trap 'rm -f "$said"' EXIT

says() {
    local wanted=$1
    shift
    "${hugewalk[@]}" "$@" >"$said" || { cat "$said"; echo "ci/cross.sh: hugewalk $* ended with $?" >&2; exit 1; }
    if ! grep -q "$wanted" "$said"; then
        cat "$said"
        echo "ci/cross.sh: hugewalk $* does not say \"$wanted\"" >&2
        exit 1
    fi
    printf 'hugewalk %s: %s\n' "$*" "$(grep "$wanted" "$said" | head -n 1)"
}

says '^1 verdict as expected' check S8 --protocol rfc-ptl
says '^1 verdict as expected' check S8 --protocol hugewalk
says '^1 verdict as expected' check S30 --protocol hugewalk
says 'all 61 figures equal' replay examples/traces/postgres.strace --faults examples/traces/postgres.faults \
    --truth examples/traces/postgres.truth.json
