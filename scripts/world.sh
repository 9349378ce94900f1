#!/usr/bin/env bash
# Trains the emoji world's model from nothing and puts it into assets/emoji-world: about three and a half hours on two cores, most
# of them for the U-Net. Finished parts are skipped and interrupted ones resumed. The architectures are those that lie
# there.
set -euo pipefail
cd "$(dirname "$0")/.."

preftune=${PREFTUNE:-target/release/preftune}
world=assets/emoji-world
export OMP_NUM_THREADS=1

"$preftune" world --subjects "$world/subjects" --prompts "$world/prompts"
"$preftune" world --words | python3 scripts/world_tokenizers.py "$world"

# One thread each is faster than one part after the other with two.
encoders() {
    for part in reward judge; do
        "$preftune" pretrain "configs/world/$part.toml" --resume --quiet
        cp "runs/world/$part/best/encoder/model.safetensors" "$world/$part/"
    done
}
denoiser() {
    "$preftune" pretrain configs/world/vae.toml --resume --quiet
    "$preftune" pretrain configs/world/unet.toml --resume
    "$preftune" pretrain configs/world/unet_2.toml --resume
    cp runs/world/vae/best/vae/*.safetensors "$world/vae/"
    for part in unet text_encoder; do
        cp runs/world/unet_2/best/$part/*.safetensors "$world/$part/"
    done
}
encoders &
denoiser
wait "$!"
"$preftune" eval world --model "$world" --encoder "$world/judge" --encoder "$world/reward"
