#!/usr/bin/env bash
# The wheel or the archive, into target/package/. PROFILE=dev takes the debug build (for tests).
#
#   packaging/build.sh wheel     programs, configurations, the small world; libtorch comes from PyTorch's package or `preftune setup`
#   packaging/build.sh archive   the same with libtorch for CPUs inside: unpack and run, no Python needed
set -euo pipefail
cd "$(dirname "$0")/.."

kind=${1:?wheel or archive}
profile=${PROFILE:-release}
out=target/package
mkdir -p "$out"

# What both carry beside the programs.
share() {
    mkdir -p "$1"
    cp -r assets configs "$1/"
    cp LICENSE-MIT LICENSE-APACHE README.md CHANGELOG.md "$1/"
    # Pictures of the documents, not of the program.
    rm -rf "$1/assets/quickstart"
}

# The oldest glibc with all symbols that the programs use, as a wheel's tag has it.
glibc() {
    objdump -T "$@" | grep -o 'GLIBC_2\.[0-9]*' | sed 's/GLIBC_2\.//' | sort -n | tail -1
}

case $kind in
wheel)
    rm -rf "$out/preftune.data"
    share "$out/preftune.data/data/share/preftune"
    cargo build --profile "$profile"
    built=target/${profile/dev/debug}
    tag=manylinux_2_$(glibc "$built/preftune" "$built/preftune-torch")
    (cd packaging && maturin build --profile "$profile" --compatibility "$tag" --out "../$out" --quiet)
    ls -l "$out"/preftune-*.whl >&2
    ;;
archive)
    cargo build --profile "$profile"
    built=target/${profile/dev/debug}
    name=preftune-$(cargo pkgid | sed 's/.*[#@]//')-linux-$(uname -m)-cpu
    rm -rf "${out:?}/$name"
    mkdir -p "$out/$name/bin" "$out/$name/lib"
    install -s "$built/preftune" "$built/preftune-torch" "$out/$name/bin/"
    torch=${LIBTORCH:-.libtorch/torch}
    cp "$torch"/lib/libtorch_cpu.so "$torch"/lib/libc10.so "$torch"/lib/libgomp.so.1 "$out/$name/lib/"
    cp "$torch/version.py" "$out/$name/"
    # Its libraries for CPUs are linked with two of CUDA's.
    cp "$torch"/../nvidia/cu13/lib/libcupti.so.13 "$torch"/../nvidia/cu13/lib/libcudart.so.13 "$out/$name/lib/" 
    share "$out/$name/share/preftune"
    mkdir -p "$out/$name/share/licenses"
    cp "$torch"/../torch-*.dist-info/licenses/LICENSE "$out/$name/share/licenses/libtorch" 2>/dev/null ||
        cp "$torch"/../torch-*.dist-info/LICENSE "$out/$name/share/licenses/libtorch"
    tar -C "$out" -czf "$out/$name.tar.gz" "$name"
    ls -l "$out/$name.tar.gz" >&2
    ;;
*)
    echo "error: $kind is neither wheel nor archive" >&2
    exit 2
    ;;
esac
