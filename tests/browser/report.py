"""Does a browser show the pages of `preftune report` as they are meant?

    python tests/browser/report.py target/debug/preftune [--run FOLDER ...] [--out FOLDER]

Writes small run folders (a finished run, one that was killed, one of another task), lets `preftune report` make pages
of them, and opens these in Debian's chromium without a window, in light and dark, 1280 and 400 pixels wide: no message
on the console, no script, no request but the page itself and data URIs, every image decoded, a chart of visible size
with readable text for every metric that varies, and nothing that makes the page scroll sideways, not even with all
details open. A table that is wider than the screen says so. `--run` adds pages of real runs, one page of all of them. Screenshots go to `--out`.

Needs chromium and Python's standard library. Exits with 1 and a message where a page is not as it should be.
"""
import argparse
import base64
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

WIDTHS = (1280, 400)
SCHEMES = ("light", "dark")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
]
# Smaller text in a chart is not read.
LEAST_TEXT = 9.0

PROBE = """(() => {
  const box = element => element.getBoundingClientRect();
  const named = element => element.closest('figure').dataset.metric || element.getAttribute('aria-label');
  const wide = [...document.querySelectorAll('main *')].filter(element =>
    !element.closest('.scroll, pre, svg') && box(element).width > 0 && box(element).right > innerWidth + 1);
  const charts = [...document.querySelectorAll('svg')];
  const texts = charts.flatMap(chart => [...chart.querySelectorAll('text')].map(text => ({chart, text})));
  const scrolls = [...document.querySelectorAll('.scroll')].filter(part => part.checkVisibility({contentVisibilityAuto: true}) && box(part).height > 0 && part.scrollWidth > part.clientWidth + 1);
  return {
    silent: scrolls.filter(part => getComputedStyle(part, '::before').height === '0px').length,
    loud: [...document.querySelectorAll('.scroll')].filter(part => part.scrollWidth <= part.clientWidth &&
      box(part).width > 0 && getComputedStyle(part, '::before').height !== '0px').length,
    scripts: document.scripts.length,
    broken: [...document.images].filter(image => !(image.complete && image.naturalWidth > 0)).map(image => image.alt),
    images: document.images.length,
    outside: [...document.images].filter(image => !image.src.startsWith('data:')).length,
    charts: charts.map(chart => ({metric: named(chart), width: box(chart).width, height: box(chart).height,
                                  shapes: chart.querySelectorAll('polyline, circle, rect').length})),
    small: texts.filter(({text}) => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a < LEAST)
                .map(({chart, text}) => named(chart) + ': ' + text.textContent),
    cut: texts.filter(({chart, text}) => box(text).left < box(chart).left - 2 || box(text).right > box(chart).right + 2)
              .map(({chart, text}) => named(chart) + ': ' + text.textContent),
    scrolls: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    wide: wide.slice(0, 5).map(element => element.tagName + '.' + element.className),
    height: document.documentElement.scrollHeight,
  };
})()"""


class Browser:
    """Chromium, spoken to over two pipes in the DevTools protocol."""

    def __init__(self, profile):
        program = shutil.which("chromium")
        if program is None:
            sys.exit("chromium is not installed: apt-get install chromium")
        commands, self.write = os.pipe()
        self.read, answers = os.pipe()

        def connect():
            # Chromium reads commands from 3 and writes answers to 4. The copies keep one from closing the other.
            one, two = os.dup(commands), os.dup(answers)
            os.dup2(one, 3)
            os.dup2(two, 4)

        self.process = subprocess.Popen([program, *FLAGS, f"--user-data-dir={profile}"], preexec_fn=connect,
                                        close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(commands)
        os.close(answers)
        self.buffer, self.number, self.events = b"", 0, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = None
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    def message(self):
        while b"\0" not in self.buffer:
            part = os.read(self.read, 1 << 16)
            if not part:
                sys.exit("chromium ended")
            self.buffer += part
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **parameters):
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if getattr(self, "session", None):
            command["sessionId"] = self.session
        os.write(self.write, json.dumps(command).encode() + b"\0")
        while True:
            answer = self.message()
            if answer.get("id") == self.number:
                if "error" in answer:
                    sys.exit(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, page):
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.message())

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            sys.exit(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def close(self):
        self.call("Browser.close")
        self.process.wait(timeout=30)


def png(path, side, colour, text):
    """A PNG file of one colour with text chunks, as preftune writes them."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(colour) * side) * side
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))]
    chunks += [chunk(b"iTXt", key.encode() + b"\0\0\0\0\0" + value.encode()) for key, value in text.items()]
    chunks += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def write_runs(root):
    """A finished image run, one that was killed while it wrote a row, and a run of text."""
    prompts = ["a [V] cup <b>on</b> a very long cobblestone street in the rain at night", "a red [V] cup"]
    for name in ("finished", "killed"):
        run = root / name
        for step in (0, 10, 20):
            for index in range(6):
                text = {"prompt": prompts[index // 3], "seed": str(1000 + index)}
                png(run / f"samples/step-{step:06}/{index:03}.png", 64, (60 + 8 * step, 40 * index, 120), text)
        for index in range(3):
            png(root / f"photos/{index}.png", 200 + index, (200, 60 * index, 40), {})
        rows = []
        for step in range(41):
            if step % 10 == 0 and (name == "finished" or step < 30):
                rows.append({"kind": "validation", "step": step, "reward": .6 + .01 * min(step, 20),
                             "image_similarity": .5 + .01 * step, "text_similarity": .7 - .002 * step})
            if step and (name == "finished" or step < 25):
                rows.append({"kind": "train", "step": step, "loss": 1 / step, "gradient_norm": 2 + step % 3,
                             "learning_rate": 1e-4})
        rows.append({"kind": "alarm", "step": 20, "during": "validation", "message": "images are <alike>"})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (run / "metrics.jsonl").write_text(text if name == "finished" else text[:-15])
        (run / "config.toml").write_text('[objective]\nkind = "rpo"\n\n[train]\nsteps = 100\n')
        manifest = {
            "preftune": "0.1.0", "status": "finished" if name == "finished" else "running", "base_model": "models/base",
            "base_unet_sha256": "0123456789abcdef" * 4, "adapter": "lora", "rank": 16, "alpha": 16.0, "device": "Cpu",
            "subject": {"name": "cup", "class": "cup", "token": "[V]",
                        "photos": [str(root / f"photos/{index}.png") for index in range(4)]},
            "labels": {"pairs": 12, "coin_flips": .25,
                       "histogram": [{"from": x / 10, "to": (x + 1) / 10, "count": x * x} for x in range(-3, 4)]},
            "oracle_image_similarity": .95, "steps": 40 if name == "finished" else 0,
            "best": [20, .8] if name == "finished" else None, "stopped_early": name == "finished",
            "seconds": {"load": 1.5, "train": 61.0}}
        (run / "manifest.json").write_text(json.dumps(manifest))
        png(run / "negatives/0000.png", 64, (10, 20, 30), {"prompt": "a cup", "seed": "1"})
    figures = {"clip_i": .71, "clip_t": .31, "harmonic_0.5": .66}
    (root / "finished/eval").mkdir()
    (root / "finished/eval/metrics.json").write_text(json.dumps({
        "mean": figures, "interval": {"low": {"clip_i": .7}, "high": {"clip_i": .72}}, "oracle": {"clip_i": .8},
        "base": {"mean": {"clip_i": .5, "clip_t": .32}}, "protocol": {"prompts": 2, "sampler": "ddim"},
        "prompts": [{"prompt": prompt, "figures": figures} for prompt in prompts]}))
    rounds = root / "rounds"
    for number in range(3):
        (rounds / f"round-{number}").mkdir(parents=True)
        row = {"line": 1, "prompt": "What is a cup? " * 12, "responses": ["A cup is a thing to drink from. " * 9],
               "rewards": [.1 * number], "wins": [.5]}
        (rounds / f"round-{number}/judged.jsonl").write_text(json.dumps(row) + "\n")
    (rounds / "config.toml").write_text("[rounds]\ncount = 2\n")
    rows = [{"kind": "validation", "step": number, "reward": .692 + 1e-6 * number} for number in range(3)]
    (rounds / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    standings = [{"rank": rank, "item": f"model {rank} of a name that is {'very ' * 3 * rank}long", "strength": 2.0 - rank,
                  "interval": [1.0 - rank, 3.0 - rank], "games": 4.0} for rank in range(1, 5)]
    (root / "ranking.json").write_text(json.dumps({"standings": standings, "comparisons": 8}))
    text = root / "text"
    text.mkdir()
    rows = [{"kind": "train", "step": step, "loss": .7 / step, "rewards/margins": step / 100} for step in range(1, 2000)]
    (text / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def varying(runs):
    """The metrics that have more than one value in these runs: each is to have a chart."""
    values = {}
    for run in runs:
        if run.is_file():
            values["ranking", "strength"] = {0, 1}
            continue
        for line in (run / "metrics.jsonl").read_text().splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            for key, value in row.items():
                if row["kind"] != "alarm" and key not in ("step", "seconds") and isinstance(value, (int, float)):
                    values.setdefault((row["kind"], key), set()).add(value)
    return sorted(key for (_, key), seen in values.items() if len(seen) > 1)


def check(browser, page, metrics, out):
    """Opens a page in every width and scheme and returns what is wrong with it."""
    wrong = []
    for width in WIDTHS:
        for scheme in SCHEMES:
            place = f"{page.name} at {width} pixels, {scheme}"
            browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
                         mobile=width < 600)
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            browser.open(page)
            for state in ("closed", "open"):
                if state == "open":
                    browser.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
                # What follows from scrolling is known a frame later.
                browser.call("Runtime.evaluate", awaitPromise=True, expression="new Promise(done => "
                             "requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")
                found = browser.evaluate(PROBE.replace("LEAST", str(LEAST_TEXT)))
                wrong += [f"{place}, details {state}: {fault}" for fault in faults(found, metrics)]
                shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip={
                    "x": 0, "y": 0, "width": width, "height": found["height"], "scale": 1})
                target = out / f"{page.stem}-{width}-{scheme}-{state}.png"
                target.write_bytes(base64.b64decode(shot["data"]))
            for event in browser.events:
                parameters = event.get("params", {})
                if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                    wrong.append(f"{place}: on the console: {parameters}")
                if event.get("method") == "Network.requestWillBeSent":
                    url = parameters["request"]["url"]
                    if not url.startswith("data:") and url != page.resolve().as_uri():
                        wrong.append(f"{place}: asks for {url}")
    return wrong


def faults(found, metrics):
    if found["scripts"]:
        yield f"{found['scripts']} scripts"
    if found["silent"] or found["loud"]:
        yield f"{found['silent']} tables scroll and do not say so, {found['loud']} say so and do not"
    for alt in found["broken"]:
        yield f"an image is not shown: {alt}"
    if found["outside"]:
        yield f"{found['outside']} images are not data URIs"
    shown = sorted(chart["metric"] for chart in found["charts"])
    for metric in set(metrics) - set(shown):
        yield f"no chart of {metric}"
    for chart in found["charts"]:
        if chart["width"] < 200 or chart["height"] < 100 or not chart["shapes"]:
            yield f"an empty chart: {chart}"
    for text in found["small"]:
        yield f"too small to read: {text}"
    for text in found["cut"]:
        yield f"cut off: {text}"
    if found["scrolls"] > 0:
        yield f"{found['scrolls']} pixels too wide: {found['wide']}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("preftune", type=pathlib.Path)
    parser.add_argument("--run", type=pathlib.Path, nargs="*", default=[])
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        out = arguments.out or root / "screenshots"
        out.mkdir(parents=True, exist_ok=True)
        write_runs(root)
        own = [root / name for name in ("finished", "killed", "text")]
        pages = [(run.name, [run]) for run in [*own, root / "rounds"]] + [("several", own)]
        pages.append(("ranking", [root / "ranking.json"]))
        pages += [(run.name, [run]) for run in arguments.run]
        if len(arguments.run) > 1:
            pages.append(("all", arguments.run))
        browser = Browser(root / "profile")
        wrong = []
        for name, runs in pages:
            page = out / f"{name}.html"
            subprocess.run([arguments.preftune.resolve(), "report", *runs, "--out", page], check=True,
                           stdout=subprocess.DEVNULL)
            metrics = varying(runs)
            wrong += check(browser, page, metrics, out)
            print(f"{name}: {len(metrics)} curves, {page.stat().st_size // 1024} KiB")
        browser.close()
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
