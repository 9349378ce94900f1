"""Small image files of many kinds, what Pillow decodes them to, and what it resizes one of them to."""
import pathlib
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps
from safetensors.numpy import save_file

WIDTH, HEIGHT = 37, 29


def scene(seed, channels=3):
    """Smooth shapes with some noise, so that lossy formats have something to lose."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [np.sin(x * rng.uniform(0.1, 0.5) + y * rng.uniform(0.1, 0.5) + rng.uniform(0, 6)) for _ in range(channels)]
    image = 127.5 + 110 * np.stack(waves, -1) + rng.normal(0, 12, (HEIGHT, WIDTH, channels))
    return np.clip(image, 0, 255).astype(np.uint8).squeeze()


def over_white(image):
    """Alpha laid over white, in exact arithmetic."""
    image = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = image[..., 3:] / 255
    return np.round(image[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def png16(path, values):
    """A 16-bit grey PNG: the rows are stored as they are (filter 0)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def make(out: pathlib.Path):
    pixels = {}

    def keep(name, expected=None):
        if expected is None:
            expected = np.asarray(ImageOps.exif_transpose(Image.open(out / name)).convert("RGB"))
        pixels[name] = np.ascontiguousarray(expected)

    colour = Image.fromarray(scene(0))
    colour.save(out / "baseline.jpg", quality=80)
    colour.save(out / "progressive.jpg", quality=70, progressive=True, subsampling=1)
    colour.save(out / "sharp.jpg", quality=95, subsampling=0)
    Image.fromarray(scene(1, 1)).save(out / "grey.jpg", quality=80)
    Image.fromarray(scene(2, 4), "CMYK").save(out / "inks.jpg", quality=80)
    colour.save(out / "phone.mpo", save_all=True, append_images=[Image.fromarray(scene(3))], quality=80)
    colour.save(out / "lossy.webp", quality=80)
    colour.save(out / "plain.bmp")
    for name in ["baseline.jpg", "progressive.jpg", "sharp.jpg", "grey.jpg", "inks.jpg", "phone.mpo", "lossy.webp", "plain.bmp"]:
        keep(name)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        colour.save(out / f"orientation_{orientation}.jpg", quality=60, exif=exif)
        keep(f"orientation_{orientation}.jpg")
    transparent = Image.fromarray(scene(4, 4), "RGBA")
    transparent.save(out / "transparent.png")
    keep("transparent.png", over_white(transparent))
    grey_alpha = Image.fromarray(scene(5, 2), "LA")
    grey_alpha.save(out / "grey_alpha.png")
    keep("grey_alpha.png", over_white(grey_alpha))
    palette = colour.quantize(16)
    palette.save(out / "palette.png", transparency=3)
    keep("palette.png", over_white(Image.open(out / "palette.png")))
    deep = scene(6, 1).astype(np.uint16) * 257
    png16(out / "deep.png", deep)
    keep("deep.png", np.repeat((deep // 257).astype(np.uint8)[..., None], 3, -1))
    save_file(pixels, out / "pixels.safetensors")

    # High contrast, so that negative lobes leave the range and are clipped.
    noise = np.random.default_rng(7).choice([0, 255, 255, 128], (HEIGHT, WIDTH, 3)).astype(np.uint8)
    resized = {"source": noise}
    for name, kernel in [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC), ("lanczos", Image.LANCZOS)]:
        for size in [(16, 16), (37, 11), (9, 29), (64, 50), (5, 40), (1, 1), (200, 3), (36, 20)]:
            image = Image.fromarray(noise).resize(size, kernel)
            resized[f"{name}_{size[0]}_{size[1]}"] = np.asarray(image)
    save_file(resized, out / "resized.safetensors")
