#!/usr/bin/env bash
# Builds the kernel's own selftests of huge pages: bash ci/selftests/build.sh VERSION DIRECTORY [ARCH]
#
# VERSION is 6.1 or 6.12, ARCH x86-64 or arm64 (Debian: gcc-aarch64-linux-gnu). Debian's package linux-source-VERSION is fetched (about 150 MB), and the few folders that the
# programs need are unpacked below DIRECTORY/source; the static programs end up in DIRECTORY/VERSION, or
# DIRECTORY/VERSION-arm64. What is there already
# is not built again. Nothing of the kernel's source enters the repository: it is built and run, never copied.
#
# Ends with 3, and one line, if the package cannot be had.
set -euo pipefail

version=$1
directory=$2
arch=${3:-x86-64}
package=linux-source-$version
programs=$directory/$version
sources=$directory/source
tree=$sources/$package
selftests=$tree/tools/testing/selftests

case $arch in
x86-64) compiler=gcc strip=strip ;;
arm64) compiler=aarch64-linux-gnu-gcc strip=aarch64-linux-gnu-strip programs=$programs-arm64 ;;
*)
    echo "ci/selftests/build.sh: no architecture $arch: x86-64 or arm64" >&2
    exit 2
    ;;
esac

case $version in
# The folder was renamed between the two. 6.12 brings the headers of its interface; those of Debian 12 are 6.1's.
6.1) folder=vm headers=() ;;
6.12) folder=mm headers=(-isystem "$tree/tools/include/uapi") ;;
*)
    echo "ci/selftests/build.sh: no version $version: 6.1 or 6.12" >&2
    exit 2
    ;;
esac

unavailable() {
    echo "$package cannot be had: $1"
    exit 3
}

unpack() {
    local archive
    mkdir -p "$sources"
    cd "$sources"
    if ! compgen -G "${package}_*.deb" >/dev/null; then
        command -v apt-get >/dev/null || unavailable "no apt-get here"
        # No version is named: an old one leaves the archive when a new one comes.
        apt-get -qq download "$package" 2>/dev/null || { apt-get -qq update && apt-get -qq download "$package"; } \
            >/dev/null 2>&1 || unavailable "apt-get download failed (no network, or not in this archive)"
    fi
    archive=$(compgen -G "${package}_*.deb" | tail -1)
    dpkg-deb --fsys-tarfile "$archive" | tar xO "./usr/src/$package.tar.xz" | tar xJ \
        "$package/tools/testing/selftests/$folder" "$package/tools/testing/selftests/memfd" \
        "$package/tools/testing/selftests/pidfd" "$package/tools/testing/selftests/kselftest.h" \
        "$package/tools/testing/selftests/kselftest_harness.h" "$package/tools/include/uapi" \
        "$package/tools/arch/x86/include/uapi" "$package/mm/gup_test.h"
}

# compile NAME FLAGS... -- FILES...: one static program, in the folder of its source.
compile() {
    local name=$1
    shift
    [ -x "$programs/$name" ] && return
    "$compiler" -static -O2 -w -U_FORTIFY_SOURCE "$@" -o "$programs/$name.new" -lpthread -lrt -lm
    "$strip" "$programs/$name.new"
    mv "$programs/$name.new" "$programs/$name"
}

[ -d "$selftests/$folder" ] || unpack
mkdir -p "$programs"

cd "$selftests/$folder"
# The Makefile writes it after a look for liburing.
: >local_config.h
flags=(-D_GNU_SOURCE= -I"$tree" "${headers[@]}")
common=(map_hugetlb hugepage-mmap hugepage-shm hugepage-mremap hugepage-vmemmap hugetlb-madvise thuge-gen gup_test
    write_to_hugetlbfs map_populate madv_populate mremap_test mremap_dontunmap map_fixed_noreplace mlock2-tests)
case $version in
6.1)
    for name in "${common[@]}"; do
        case $name in
        madv_populate) compile "$name" "${flags[@]}" "$name.c" vm_util.c ;;
        *) compile "$name" "${flags[@]}" "$name.c" ;;
        esac
    done
    compile userfaultfd "${flags[@]}" userfaultfd.c vm_util.c
    ;;
6.12)
    for name in "${common[@]}" hugetlb_dio hugetlb_madv_vs_map hugetlb_fault_after_madv hugetlb-soft-offline \
        hugetlb-read-hwpoison gup_longterm cow pagemap_ioctl mkdirty; do
        compile "$name" "${flags[@]}" "$name.c" vm_util.c thp_settings.c
    done
    for name in uffd-stress uffd-unit-tests; do
        compile "$name" "${flags[@]}" "$name.c" vm_util.c thp_settings.c uffd-common.c
    done
    ;;
esac

cd "$selftests/memfd"
compile memfd_test -D_FILE_OFFSET_BITS=64 -idirafter "$tree/tools/include/uapi" -DMFD_EXEC=0x10U \
    -DMFD_NOEXEC_SEAL=0x8U memfd_test.c common.c
