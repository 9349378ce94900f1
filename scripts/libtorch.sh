#!/usr/bin/env bash
# Puts libtorch 2.11.0 into .libtorch/ once. An existing LIBTORCH wins and nothing is installed.
#
# The wheel of torch holds libtorch; Python itself never imports it. Without an NVIDIA GPU two small
# CUDA wheels are enough for the CPU libraries to load (libtorch_cpu links to them); with one, the wheel's
# full dependency set is installed so that libtorch_cuda.so loads as well.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -n "${LIBTORCH:-}" ]; then
    [ -e "$LIBTORCH/lib/libtorch_cpu.so" ] || {
        echo "error: LIBTORCH=$LIBTORCH holds no lib/libtorch_cpu.so" >&2
        echo "hint: point LIBTORCH at a libtorch 2.11 folder, or unset it to have one installed here" >&2
        exit 1
    }
    exit 0
fi

TORCH=2.11.0
variant=cpu
if [ -e /dev/nvidiactl ] || { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }; then
    variant=cuda
fi
stamp=".libtorch/installed-$TORCH-$variant"
[ -e "$stamp" ] && exit 0

echo "installing libtorch $TORCH ($variant) into .libtorch/" >&2
rm -rf .libtorch .libtorch.partial
if [ "$variant" = cuda ]; then
    python3 -m pip install --quiet --disable-pip-version-check --target .libtorch.partial "torch==$TORCH"
else
    python3 -m pip install --quiet --disable-pip-version-check --no-deps --target .libtorch.partial \
        "torch==$TORCH" nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85
fi
touch ".libtorch.partial/$(basename "$stamp")"
mv .libtorch.partial .libtorch
