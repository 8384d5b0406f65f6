#!/usr/bin/env bash
# Three programs in the kernel of `hugewalk run` and in Debian's stock kernel, in the same QEMU: how long each takes, and how many
# interrupts processors send each other. docs/performance.md has the table that this prints.
#
#     bash ci/beside-linux.sh [--cpus "1 2 4"] [--turns N] [--rounds N] [--instructions]
#
# examples/guest/beside.c is the program. The two kernels take turns, N boots each, with N rounds in each boot; the median of the
# medians counts, and the mean of the interrupts of a round. Linux boots with mitigations=off, since this kernel has none. Each QEMU is
# pinned to the first two processors. With --instructions the guest's processors take turns and its clock counts instructions, so that a
# busy machine changes nothing; one turn is enough then. Debian's kernel package is fetched into BESIDE (default: hugewalk-beside in the user's
# cache) and unpacked there; VMLINUZ names an image to use instead. HUGEWALK names a command to use instead of the checkout's.
#
# Without network or QEMU: one line that says what was skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

cpus="1 2 4"
turns=3
rounds=11
instructions=
while [ $# -gt 0 ]; do
    case $1 in
    --cpus) cpus=${2:?} && shift ;;
    --turns) turns=${2:?} && shift ;;
    --rounds) rounds=${2:?} && shift ;;
    --instructions) instructions=1 ;;
    *)
        echo "ci/beside-linux.sh: no option $1: [--cpus \"1 2 4\"] [--turns N] [--rounds N] [--instructions]" >&2
        exit 2
        ;;
    esac
    shift
done

for tool in qemu-system-x86_64 gcc python3 busybox taskset; do
    command -v "$tool" >/dev/null || { echo "skipped: beside Linux, since $tool is not installed"; exit; }
done
busybox=$(command -v busybox)
if readelf --program-headers --wide "$busybox" | grep -q INTERP; then
    echo "skipped: beside Linux, since busybox is not static (Debian: busybox-static)"
    exit
fi

directory=${BESIDE:-${XDG_CACHE_HOME:-$HOME/.cache}/hugewalk-beside}
mkdir -p "$directory"
image=${VMLINUZ:-}
if [ -z "$image" ]; then
    if ! compgen -G "$directory/boot/vmlinuz-6.1.*" >/dev/null; then
        package=$(apt-cache search --names-only '^linux-image-6\.1\.0-[0-9]+-cloud-amd64$' 2>/dev/null | awk '{ print $1 }' | sort -V | tail -1)
        if [ -z "$package" ] || ! (cd "$directory" && apt-get -qq download "$package" >/dev/null 2>&1); then
            echo "skipped: beside Linux, since no stock kernel can be fetched"
            exit
        fi
        for archive in "$directory/$package"_*.deb; do dpkg-deb -x "$archive" "$directory"; done
    fi
    image=$(compgen -G "$directory/boot/vmlinuz-6.1.*" | sort -V | tail -1)
fi

command=${HUGEWALK:-}
if [ -z "$command" ]; then
    cargo build --quiet --release --package hugewalk-cli
    command=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/hugewalk
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/root"/{bin,proc,sys,dev}
gcc -static -O2 -w -o "$scratch/root/beside" examples/guest/beside.c
cp "$busybox" "$scratch/root/bin/busybox"
cat >"$scratch/root/init" <<INIT
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/beside $rounds
/bin/busybox poweroff -f
INIT
chmod +x "$scratch/root/init"
(cd "$scratch/root" && find . | busybox cpio -o -H newc 2>/dev/null) >"$scratch/initrd"

# shellcheck disable=SC2054 # one word to QEMU
accel=(-accel tcg,thread=multi)
chosen=tcg
if [ -n "$instructions" ]; then
    # shellcheck disable=SC2054
    accel=(-accel tcg,thread=single -icount shift=0,sleep=off)
    chosen=icount
fi

linux() {
    timeout 3600 taskset -c 0,1 qemu-system-x86_64 "${accel[@]}" -machine q35 -cpu max -smp "$1" -m 4096M \
        -no-user-config -nodefaults -display none -no-reboot -serial stdio -kernel "$image" -initrd "$scratch/initrd" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable hugepages=1040" </dev/null | tr -d '\r'
}

ours() {
    taskset -c 0,1 "$command" run --accel "$chosen" --cpus "$1" --memory 4096M --pool 1040 --timeout 3600 --report none \
        "$scratch/root/beside" "$rounds" </dev/null
}

for count in $cpus; do
    for _ in $(seq "$turns"); do
        for side in linux ours; do
            said=$("$side" "$count" | grep '^beside: ' || true)
            if [ "$(grep -c . <<<"$said")" -ne 6 ]; then
                echo "ci/beside-linux.sh: $side on $count processors did not end its six parts" >&2
                exit 1
            fi
            while read -r _ rest; do echo "$side $count $rest"; done <<<"$said" >>"$scratch/all"
        done
    done
done

python3 - "$scratch/all" "$instructions" <<'TABLE'
import collections, statistics, sys
runs = collections.defaultdict(list)
for line in open(sys.argv[1]):
    side, cpus, name, way, *numbers = line.split()
    runs[int(cpus), name, way, side].append([int(number) for number in numbers])
def time(of):
    return statistics.median(run[0] for run in of)
def interrupts(of):
    # Function calls and shootdowns of a round; wakeups behind a plus.
    mean = lambda *which: sum(sum(run[i] for i in which) for run in of) / sum(run[4] for run in of)
    return f"{mean(1, 2):.1f} + {mean(3):.1f}"
unit = "million instructions" if sys.argv[2] else "ms"
what = {"fork": "fork, touch 2 GiB, exit", "unmap": "unmap 1 GiB", "faults": "511 faults"}
print("| | tables | processors | Linux | here | of Linux | interrupts on Linux | here |\n|---|---|---|---|---|---|---|---|")
for name in what:
    for way in "shared", "own":
        for cpus in sorted({key[0] for key in runs}):
            linux, ours = runs[cpus, name, way, "linux"], runs[cpus, name, way, "ours"]
            print(f"| {what[name]} | {way} | {cpus} | {time(linux) / 1e6:.3f} {unit} | {time(ours) / 1e6:.3f} {unit} | "
                  f"{time(ours) / time(linux):.2f} | {interrupts(linux)} | {interrupts(ours)} |")
TABLE
