"""MKL's matrix products in f32 beside oneDNN's, as a linear layer has them: forward, gradient of its input, of its weight.

    python3 benches/matrix_products.py [--threads 2]

From this comes when `src/ops/matrix_products.cpp` chooses oneDNN on a processor that is not Intel's. Shapes are rows x inputs ->
outputs of layers of the embedded world, CLIP ViT-B/32, SmolLM2 and Stable Diffusion 1.5 at 256 pixels. The table goes to stdout and
benches/results/matrix_products.md. Needs torch.
"""
import argparse
import pathlib
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import machine  # noqa: E402

RESULTS = pathlib.Path(__file__).resolve().parent / "results/matrix_products.md"
SHAPES = [(512, 64, 64), (1024, 64, 64), (4096, 32, 32), (8192, 32, 32), (1024, 256, 64), (1024, 64, 512), (2048, 64, 512), (512, 384, 96),
          (100, 576, 576), (512, 1536, 576), (800, 768, 768), (800, 768, 3072), (77, 768, 320), (1024, 320, 2560), (64, 1280, 10240),
          (16, 1280, 1280)]


def quartile(run, repeats=30):
    seconds = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[3:])[repeats // 4]


def onednn(left, right):
    return torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = ["# Matrix products in f32: MKL and oneDNN", "",
             f"{machine.today_on_it()}, {arguments.threads} threads, torch {torch.__version__}. Time by oneDNN over that by MKL, which is in "
             "brackets, in microseconds; lower quartiles.", "", "| rows x inputs -> outputs | forward | gradient of the input | of the weight |",
             "| --- | --- | --- | --- |"]
    for rows, inputs, outputs in SHAPES:
        x, weight, gradient = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
        cells = []
        for left, right in [(x, weight.t()), (gradient, weight), (gradient.t(), x)]:
            error = (onednn(left, right) - left @ right).abs().max() / (left @ right).abs().max()
            assert error < 1e-5, f"results differ by {error}"
            mkl = quartile(lambda: left @ right)
            cells.append(f"{quartile(lambda: onednn(left, right)) / mkl:.2f} ({1e6 * mkl:.0f})")
        lines.append(f"| {rows} x {inputs} -> {outputs} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    RESULTS.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
