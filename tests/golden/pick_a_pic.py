"""Pairs of images in the columns of Pick-a-Pic's Parquet files, the images within.

Sixteen images from dark to light, of which the lighter one is preferred, as `tests/reward_images.rs` makes them in files
(so their cells hold PNG, which loses nothing; a cell's content says what it is). After every ninth row comes a tie.
`pick_a_pic.parquet` has plain bytes, as the published data set; `hub_images.parquet` the hub's images, bytes with a path.
"""
import io

import pyarrow
import pyarrow.parquet
from PIL import Image


def image(number):
    light = 16 * number
    picture = Image.new("RGB", (64, 64))
    picture.putdata([(light, (light + (x + y) // 8) % 256, light) for y in range(64) for x in range(64)])
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()


def rows():
    images = [image(number) for number in range(16)]
    for place in range(40):
        one, two = place * 7 % 16, (place * 5 + 3) % 16
        two = (two + 1) % 16 if one == two else two
        first = float(one > two)
        yield {"caption": "a light", "jpg_0": images[one], "jpg_1": images[two], "label_0": first, "label_1": 1 - first}
        if place % 9 == 8:
            yield {"caption": "a tie", "jpg_0": images[two], "jpg_1": images[one], "label_0": 0.5, "label_1": 0.5}


def make(out):
    table = pyarrow.Table.from_pylist(list(rows()))
    pyarrow.parquet.write_table(table, out / "pick_a_pic.parquet", row_group_size=7)
    hub = lambda name, content: {"bytes": content, "path": name}
    few = [row | {name: hub(name, row[name]) for name in ("jpg_0", "jpg_1")} for row in list(rows())[:3]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(few), out / "hub_images.parquet")

