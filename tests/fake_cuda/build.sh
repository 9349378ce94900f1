#!/usr/bin/env bash
# Builds the fake CUDA device as FOLDER/libtorch_cuda.so, and FOLDER/self_check, where they are not there or their sources are newer:
#
#     tests/fake_cuda/build.sh FOLDER
#
# LIBTORCH is the folder with include/ and lib/ (default: that of the checkout).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
LIBTORCH=$(cd "${LIBTORCH:-$here/../../.libtorch/torch}" && pwd)
mkdir -p "$1"
cd "$1"

# build TARGET SOURCE FLAGS...
build() {
    local target=$1 source=$here/$2
    shift 2
    if [ ! "$target" -nt "$source" ] || [ ! "$target" -nt "$here/operators.py" ] || [ ! "$target" -nt "$here/build.sh" ]; then
        # Runs that have the old one open keep it.
        c++ -std=c++17 -w -I. -I"$LIBTORCH/include" "$source" -o "$target.new" -L"$LIBTORCH/lib" -ltorch_cpu -lc10 -ldl "$@"
        mv "$target.new" "$target"
    fi
}

python3 "$here/operators.py" "$LIBTORCH/../torchgen/packaged/ATen/native/native_functions.yaml" operators.inc
build self_check self_check.cpp -O0 -Wl,-rpath,"$LIBTORCH/lib" -Wl,--export-dynamic &
build libtorch_cuda.so fake_cuda.cpp -O1 -g1 -fPIC -shared -Wl,-soname,libtorch_cuda.so
wait $!
