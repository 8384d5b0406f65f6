#!/usr/bin/env bash
# Proof that the core needs no std: two freestanding programs embed it, and both run.
#
# `linux` is a process with its own _start, run as it is; `pvh` boots in QEMU, without KVM so that it runs anywhere. To
# see why `pvh` reset itself: add `-d int,cpu_reset` to QEMU's arguments.
set -euo pipefail
cd "$(dirname "$0")/bare"

# Either would replace the flags in .cargo/config.toml.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
cargo build --release
programs=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
programs+=/x86_64-unknown-linux-gnu/release

fail() {
    echo "ci/bare.sh: $1" >&2
    exit 1
}

# A program that stands alone: nothing to load, to relocate or to resolve, and nothing of std in it.
stands_alone() {
    local program=$1 found
    if readelf --wide --program-headers "$program" | grep -E 'INTERP|DYNAMIC'; then
        fail "$program wants a dynamic linker"
    fi
    found=$(readelf --wide --relocs "$program")
    [[ $found == *"There are no relocations"* ]] || fail "$program has relocations: $found"
    found=$(nm --undefined-only "$program")
    [ -z "$found" ] || fail "$program has undefined symbols: $found"
    if nm --demangle "$program" | grep -E '(^|[^[:alnum:]_:])std::|__libc_|pthread_'; then
        fail "$program has symbols of std or of a C library"
    fi
}

# What each printed is shown, and has to be what expected.txt says. A process cannot load page tables into the processor:
# it leaves out the lines of the MMU.
output=$(mktemp)
expected=$(mktemp)
trap 'rm -f "$output" "$expected"' EXIT
says_what_is_expected() {
    case $1 in
    linux) grep --invert-match '^mmu: ' expected.txt >"$expected" ;;
    pvh) cp expected.txt "$expected" ;;
    esac
    cat "$output"
    diff --unified "$expected" "$output" || fail "$1 printed something else than ci/bare/expected.txt says"
}

stands_alone "$programs/linux"
status=0
timeout 60 "$programs/linux" >"$output" || status=$?
says_what_is_expected linux
[ "$status" -eq 0 ] || fail "linux ended with $status"
echo "linux: runs as a process, and stands alone"

stands_alone "$programs/pvh"
if ! command -v qemu-system-x86_64 >/dev/null; then
    echo "skipped: qemu-system-x86_64 is not installed"
    # Nothing is skipped where it counts.
    if [ -n "${CI:-}" ]; then exit 1; fi
    exit
fi
status=0
timeout 120 qemu-system-x86_64 -accel tcg -machine q35 -cpu max -m 256M -nodefaults -display none -no-reboot \
    -serial "file:$output" -device isa-debug-exit,iobase=0xf4,iosize=1 -kernel "$programs/pvh" || status=$?
says_what_is_expected pvh
# isa-debug-exit makes 33 of the 0x10 that means success; a triple fault ends with 0.
[ "$status" -eq 33 ] || fail "pvh ended with $status instead of 33"
echo "pvh: boots on a bare machine, and stands alone"
