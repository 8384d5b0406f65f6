# Sourced by the checks that build for other processors. Not a check.
#
#     has_toolchain TARGET          can this machine build for it?
#     cross_cargo TARGET WORD...    cargo for it
#
# rustup's compiler comes first, if it has the target (`rustup target add TARGET`). Else Debian's: the packages are rustc-web
# and cargo-web; libstd-rust-web-dev:arm64 is `std` for arm64; bare machines have no `std`, and rust-web-src has the sources
# from which cargo builds `core` and `alloc`.
# shellcheck shell=bash

has_sysroot() {
    [ -d "$(rustc --print sysroot)/lib/rustlib/$1" ]
}

has_toolchain() {
    if has_sysroot "$1"; then return; fi
    # Some releases of Debian have one that is too old.
    [ -x /usr/bin/cargo ] && [ -x /usr/bin/rustc ] && [ "$(/usr/bin/rustc --version | cut -d. -f2)" -ge 95 ] || return 1
    case $1 in
    *-none*) [ -e /usr/lib/rustlib/src/rust/library/core/Cargo.toml ] && [ -n "$(bare_linker)" ] ;;
    *) [ -d "/usr/lib/rustlib/$1" ] ;;
    esac
}

# Debian's compiler brings no linker for bare machines; rustup's has one that knows all of them.
bare_linker() {
    find "$(rustc --print sysroot)/lib/rustlib" -name rust-lld -path '*/bin/*' | head -n 1
}

cross_cargo() {
    local target=$1
    shift
    if has_sysroot "$target"; then
        cargo "$@" --target "$target"
        return
    fi
    local variable=CARGO_TARGET_${target^^} linker
    variable=${variable//-/_}_LINKER
    case $target in
    *-none*)
        linker=$(bare_linker)
        env PATH=/usr/bin:/bin RUSTC=/usr/bin/rustc "$variable=$linker" RUSTC_BOOTSTRAP=1 \
            /usr/bin/cargo "$@" -Zbuild-std=core,alloc --target "$target"
        ;;
    *)
        env PATH=/usr/bin:/bin RUSTC=/usr/bin/rustc RUSTDOC=/usr/bin/rustdoc "$variable=${!variable:-cc}" \
            /usr/bin/cargo "$@" --target "$target"
        ;;
    esac
}
