#!/usr/bin/env python3
"""Draws assets/sprites: the emoji of the small world of `src/data/world`, from seven open sets.

    python3 scripts/sprites.py [--out assets/sprites] [--sheet sheet.png]

Needs npm and pip; the drawings (npm), the rasteriser and Pillow (PyPI) and the licence texts (npm) go into a
temporary folder, at the versions below. The files are committed: this is run again only when a version or the
choice of drawings changes.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PYPI = {"resvg-py": "0.5.0", "pillow": "13.0.0", "numpy": "2.4.6"}
LICENCE_TEXTS = ("spdx-license-list", "6.10.0")
# npm version of @iconify-json/SET, and the holder of the copyright.
SETS = {
    "noto": ("1.2.9", "Google Inc."),
    "noto-v1": ("1.2.5", "Google Inc."),
    "twemoji": ("1.2.5", "Twitter, Inc. and other contributors"),
    "fluent-emoji": ("1.2.7", "Microsoft Corporation"),
    "fluent-emoji-flat": ("1.2.6", "Microsoft Corporation"),
    "fxemoji": ("1.2.2", "Mozilla Foundation"),
    "emojione": ("1.2.3", "EmojiOne (now EmojiTwo)"),
}
# Names as the sets spell them (fxemoji writes them without hyphens and has names of its own); a set that lacks a
# name is passed over.
CLASSES = {
    "apple": "red-apple green-apple redapple greenapple",
    "bus": "bus oncoming-bus oncomingbus trolleybus",
    "cake": "birthday-cake shortcake cupcake birthdaycake",
    "car": "automobile oncoming-automobile oncomingautomobile sport-utility-vehicle taxi oncoming-taxi oncomingtaxi "
    "police-car policecar",
    "cat": "cat cat-face catside black-cat grinning-cat grinning-cat-face pouting-cat",
    "chick": "baby-chick babychick hatching-chick hatchingchick front-facing-baby-chick frontfacingchick",
    "cup": "hot-beverage teacup-without-handle teacupwithouthandle",
    "dog": "dog dog-face dogside poodle guide-dog service-dog",
    "fish": "fish tropical-fish tropicalfish blowfish",
    "flower": "tulip sunflower hibiscus rose blossom cherry-blossom cherryblossom",
    "house": "house house-with-garden housebuilding housewithgarden derelict-house",
    "monkey": "monkey monkey-face monkeyface",
    "pig": "pig pig-face pigside",
    "plane": "airplane small-airplane",
    "rabbit": "rabbit rabbit-face bunny bunnyside",
    "tree": "deciduous-tree deciduoustree evergreen-tree evergreentree palm-tree palmtree christmas-tree christmastree",
}
# Drawings that do not show their class, or repeat another one of their set.
LEFT_OUT = {
    ("noto-v1", "oncoming-automobile"),  # as tall as its bus
    ("noto-v1", "oncoming-taxi"),
    ("noto-v1", "sport-utility-vehicle"),
    ("noto-v1", "derelict-house"),  # a cupboard
    ("fluent-emoji", "grinning-cat"),
    ("fluent-emoji", "pouting-cat"),
    ("noto-v1", "grinning-cat"),
    ("emojione", "pouting-cat"),
}
# Name, class, set and drawing that the photos show. Never trained on are all drawings of the class in the set.
SUBJECTS = [
    ("apple", "apple", "fxemoji", "redapple"),
    ("bus", "bus", "emojione", "bus"),
    ("cake", "cake", "twemoji", "birthday-cake"),
    ("cat", "cat", "emojione", "cat-face"),
    ("dog", "dog", "fxemoji", "dog"),
    ("fish", "fish", "twemoji", "tropical-fish"),
    ("house", "house", "noto", "house"),
    ("monkey", "monkey", "noto-v1", "monkey-face"),
    ("green-apple", "apple", "fxemoji", "greenapple"),
    ("trolleybus", "bus", "emojione", "trolleybus"),
    ("cupcake", "cake", "twemoji", "cupcake"),
    ("whole-cat", "cat", "emojione", "cat"),
    ("poodle", "dog", "fxemoji", "poodle"),
    ("plain-fish", "fish", "twemoji", "fish"),
    ("garden-house", "house", "noto", "house-with-garden"),
    ("whole-monkey", "monkey", "noto-v1", "monkey"),
]
# Names of single drawings, words of no language, so that a rare word before a class picks an individual.
NAMES = (
    "besk borp brav brub daint drirp droozz drosk durb ferf firk fleek flek foork garp gisk gloob gloont grerb grirk "
    "groorp gruv jarb jerp joop joorf klaimp kleent klirp klisk kloox kozz krask kremp krig kriv kuzz meemp moosk "
    "neek noork paix plaiv ploof praig prug prump pruv purb quailn quoop saik skeb skib slen slusk sneerk snoolk "
    "snoov snork surv toork trurf vask vood virk wark woov wuv zeeg zeep zint zlig zlolk zoolk trosk vleb wump yarp "
    "blick dorb fump glosk hurp laizz soolb kreern borb milb drisk kilb blairb grimp pren rurk plirk zeenk skeaft "
    "froft prousk mouf glurk yeed kreank broond geeg glalb smuk stealb grourd trairk skoulk foomp voulb zuft naist "
    "healb vaink maix smaift hoonk prouk blolk speast klid zarb staip drealt kraib reemp smev zaid zean flurn vairt "
    "naift geerb yaird glisk skeark jisk faift yind skeerb greask plurk nirk brift slark yoump kroozz brork toust "
    "fraz yaisk noub staink floult teerk beert zoond yirb kluft blaix frosk spilk heezz gresk fleex freesk troonk "
    "nirt vurn zeam kruft nouk kraird skik blaif brelb frousk stoond floub gleet klef trok skaift krund neelb soud "
    "dred brilt jark taib snoon stelt glif tirn lemp grut krark braiz bloork glezz plurd klesk slait pird krit kast "
    "stard brouft weank flem trerk dost doop smoon dalt houst slorn klend vilk zorm plon skelm gloft drazz snarb "
    "frelk twimp breft zomp vork klorf"
).split()
RENDERED, TILE, LONGEST = 256, 64, 60


def install(folder):
    """Puts the pinned packages into `folder` and makes the Python ones importable."""
    packages = [f"@iconify-json/{name}@{version}" for name, (version, _) in SETS.items()]
    packages.append("@".join(LICENCE_TEXTS))
    npm = ["npm", "install", "--prefix", str(folder), "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(npm + packages, check=True, stdout=sys.stderr)
    pins = [f"{name}=={version}" for name, version in PYPI.items()]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder / "python")]
    subprocess.run(pip + pins, check=True, stdout=sys.stderr)
    sys.path.insert(0, str(folder / "python"))


def render(icons, name):
    """The drawing at RENDERED pixels, RGBA; None where the set has no such drawing."""
    import resvg_py
    from PIL import Image

    icon = icons["icons"].get(name)
    if icon is None:
        return None
    side = [icon.get(key, icons.get(key, default)) for key, default in
            (("left", 0), ("top", 0), ("width", 16), ("height", 16))]
    view = " ".join(str(number) for number in side)
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
           f'width="{RENDERED}" height="{RENDERED}" viewBox="{view}">{icon["body"]}</svg>')
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")


def tile(drawing):
    """Crops to what is not transparent, averages down to LONGEST pixels, centres in a TILE x TILE image."""
    import numpy as np
    from PIL import Image

    drawing = drawing.crop(drawing.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox())
    scale = LONGEST / max(drawing.size)
    size = [max(1, round(side * scale)) for side in drawing.size]
    pixels = np.asarray(drawing, dtype=np.float32)
    # Colours are averaged by their share of ink: what lies under transparent pixels must not bleed in.
    planes = [pixels[..., c] * pixels[..., 3] / 255 for c in range(3)] + [pixels[..., 3]]
    small = [np.asarray(Image.fromarray(plane).resize(size, Image.BOX)) for plane in planes]
    alpha = small[3]
    ink = np.maximum(alpha, 1e-6) / 255
    colours = [np.where(alpha > 0.5, plane / ink, 0) for plane in small[:3]]
    out = np.clip(np.rint(np.stack([*colours, alpha], -1)), 0, 255).astype(np.uint8)
    image = Image.new("RGBA", (TILE, TILE))
    image.paste(Image.fromarray(out, "RGBA"), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return image


def licence(name, folder):
    """The licence of a set with whom and what it belongs to."""
    version, author = SETS[name]
    info = json.loads((folder / "node_modules/@iconify-json" / name / "info.json").read_text())
    spdx = info["license"]["spdx"]
    text = json.loads((folder / "node_modules" / LICENCE_TEXTS[0] / "licenses" / f"{spdx}.json").read_text())
    body = text["licenseText"].replace("<year> ", "").replace("<copyright holders>", author)
    head = [
        f"The images in this folder are made from the emoji set \"{info['name']}\".",
        f"Author: {author}, {info['author']['url']}",
        f"Licence: {spdx}, {info['license']['url']}",
        f"Source: npm package @iconify-json/{name} {version}",
        f"Changes: drawings chosen, rasterised, cropped and scaled to {LONGEST} pixels.",
    ]
    return "\n".join(head) + "\n\n" + "-" * 80 + "\n\n" + body.strip() + "\n"


def name_individuals(sprites):
    """Calls three in four drawings of each class by a name, held-out ones left aside."""
    held = {(name, group) for _, name, group, _ in SUBJECTS}
    names = iter(NAMES)
    trained = {name: [s for s in sprites if s["class"] == name and (name, s["set"]) not in held] for name in CLASSES}
    for first in (1, 2, 3):
        for members in trained.values():
            for sprite in members[first::4]:
                sprite["called"] = next(names)


def sheet(sprites, out, path):
    """All sprites on one image, one row a class."""
    from PIL import Image, ImageDraw

    rows = {name: [sprite for sprite in sprites if sprite["class"] == name] for name in CLASSES}
    cell = TILE + 2
    image = Image.new("RGB", (64 + cell * max(map(len, rows.values())), cell * len(rows)), (150, 175, 150))
    draw = ImageDraw.Draw(image)
    held = {(name, group) for _, name, group, _ in SUBJECTS}
    for row, (name, members) in enumerate(rows.items()):
        draw.text((4, row * cell + 26), f"{name} {len(members)}", fill=0)
        for column, sprite in enumerate(members):
            at = (64 + column * cell, row * cell)
            drawing = Image.open(out / sprite["file"])
            image.paste(drawing, at, drawing)
            if (name, sprite["set"]) in held:
                draw.rectangle([*at, at[0] + TILE, at[1] + TILE], outline=(255, 0, 0))
    image.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=Path, default=root / "assets/sprites")
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet")
    parser.add_argument("--packages", type=Path, help="keep the packages here and use them again")
    args = parser.parse_args()

    folder = args.packages or Path(tempfile.mkdtemp())
    if not (folder / "python").exists():
        folder.mkdir(parents=True, exist_ok=True)
        install(folder)
    sys.path.insert(0, str(folder / "python"))

    shutil.rmtree(args.out, ignore_errors=True)
    sprites = []
    for group in SETS:
        icons = json.loads((folder / "node_modules/@iconify-json" / group / "icons.json").read_text())
        os.makedirs(args.out / group)
        (args.out / group / "LICENSE").write_text(licence(group, folder))
        for name, drawings in CLASSES.items():
            for drawing in drawings.split():
                image = None if (group, drawing) in LEFT_OUT else render(icons, drawing)
                if image is None:
                    continue
                file = f"{group}/{name}--{drawing}.png"
                tile(image).save(args.out / file, optimize=True)
                sprites.append({"class": name, "set": group, "name": drawing, "file": file})
    sprites.sort(key=lambda sprite: (sprite["class"], list(SETS).index(sprite["set"])))
    name_individuals(sprites)
    for subject in SUBJECTS:
        assert any((s["class"], s["set"], s["name"]) == subject[1:] for s in sprites), subject
    index = {
        "classes": list(CLASSES),
        "subjects": [dict(zip(("name", "class", "set", "drawing"), subject, strict=True)) for subject in SUBJECTS],
        "sprites": sprites,
    }
    lines = [f'  "{key}": [\n' + ",\n".join("    " + json.dumps(entry) for entry in entries) + "\n  ]"
             for key, entries in index.items()]
    (args.out / "index.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    if args.sheet:
        sheet(sprites, args.out, args.sheet)
    if not args.packages:
        shutil.rmtree(folder)


main()
