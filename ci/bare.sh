#!/usr/bin/env bash
# Proof that the core needs no std: freestanding programs embed it, and all run.
#
# `linux` is a process with its own _start, run as it is; `machine` boots in QEMU, without KVM so that it runs anywhere, on
# x86-64 with four and with five levels of tables, on arm64, and on riscv64 with Svnapot and without it. To see why `machine`
# reset itself: add `-d int,cpu_reset` to QEMU's arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/toolchain.sh
cd ci/bare

# Either would replace the flags in .cargo/config.toml.
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS
target_directory=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

fail() {
    echo "ci/bare.sh: $1" >&2
    exit 1
}

skip() {
    echo "skipped: $1"
    # Nothing is skipped where it counts.
    if [ -n "${CI:-}" ]; then exit 1; fi
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

# Runs COMMAND, which prints to the file in `output`. What was printed is shown, and has to be what expected/NAME.txt says.
output=$(mktemp)
trap 'rm -f "$output"' EXIT
runs() {
    local name=$1 wanted=$2 status=0
    shift 2
    printf '== %s\n' "$name"
    timeout 180 "$@" </dev/null || status=$?
    cat "$output"
    diff --unified "expected/$name.txt" "$output" || fail "$name printed something else than ci/bare/expected/$name.txt says"
    [ "$status" -eq "$wanted" ] || fail "$name ended with $status instead of $wanted"
}

# machine ARCHITECTURE PROGRAM NAME ARGUMENT...
machine() {
    local architecture=$1 program=$2 name=$3
    shift 3
    local common=(-m 3G -nodefaults -display none -no-reboot -serial "file:$output" -kernel "$program")
    case $architecture in
    # isa-debug-exit makes 33 of the 0x10 that means success; a triple fault ends with 0.
    x86_64)
        runs "$name" 33 qemu-system-x86_64 -accel tcg -machine q35 -cpu max "${common[@]}" \
            -device isa-debug-exit,iobase=0xf4,iosize=1 "$@"
        ;;
    aarch64)
        runs "$name" 0 qemu-system-aarch64 -machine virt -cpu max "${common[@]}" \
            -semihosting-config enable=on,target=native "$@"
        ;;
    riscv64) runs "$name" 0 qemu-system-riscv64 -machine virt -bios none "${common[@]}" "$@" ;;
    esac
}

cargo build --release
programs=$target_directory/x86_64-unknown-linux-gnu/release

stands_alone "$programs/linux"
own_start() { "$programs/linux" >"$output"; }
export -f own_start
export programs output
runs linux 0 bash -c own_start

stands_alone "$programs/machine"
if command -v qemu-system-x86_64 >/dev/null; then
    machine x86_64 "$programs/machine" x86_64
    machine x86_64 "$programs/machine" x86_64-la57 -append la57
else
    skip "qemu-system-x86_64 is not installed"
fi

for target in aarch64-unknown-none riscv64gc-unknown-none-elf; do
    architecture=${target%%-*}
    architecture=${architecture%gc}
    if ! command -v "qemu-system-$architecture" >/dev/null; then
        skip "qemu-system-$architecture is not installed"
        continue
    fi
    if ! has_toolchain "$target"; then
        skip "there is no core library for $target; rustup target add $target, or Debian's rustc-web, cargo-web and rust-web-src"
        continue
    fi
    cross_cargo "$target" build --release --bin machine
    program=$target_directory/$target/release/machine
    stands_alone "$program"
    case $architecture in
    aarch64) machine aarch64 "$program" aarch64 ;;
    riscv64)
        machine riscv64 "$program" riscv64 -cpu rv64,svnapot=on
        machine riscv64 "$program" riscv64-without-svnapot -cpu rv64,svnapot=off
        ;;
    esac
done
echo "every program stands alone, and printed what it should"
