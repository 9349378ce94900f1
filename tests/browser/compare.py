"""Does `preftune compare` work in a browser as people use it?

    python tests/browser/compare.py target/debug/preftune [--out FOLDER]

Makes pictures of three prompts and files of answers, starts the program, and judges in Debian's chromium without a window: by
every key, by mouse and by touch, at 1280 and 400 pixels, in light and dark. Keys are saved as they are pressed; what is taken
back, a page that is loaded anew, a program that is killed and started again, and a second page of the same session change
nothing that was said. Nothing on the console, no request but to the program itself, nothing too wide, no button too small to
touch. Screenshots go to `--out`.

Needs chromium and Python's standard library. Exits with 1 and a message where something is not as it should be.
"""
import argparse
import base64
import json
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

from report import SCHEMES, WIDTHS, Browser

KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "z": 90, "s": 83, "f": 70, " ": 32}
PROBE = """(() => {
  const box = element => element.getBoundingClientRect();
  const shown = [...document.querySelectorAll('button')].filter(button => button.checkVisibility());
  return {
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    small: shown.filter(button => box(button).height < 36 || box(button).width < 36).map(button => button.textContent),
    out: shown.filter(button => box(button).right > innerWidth + 1 || box(button).left < -1).map(button => button.textContent),
    choices: [...document.querySelectorAll('#bar button')].filter(button => button.checkVisibility() &&
      (box(button).height < 44 || box(button).bottom > innerHeight + 1)).map(button => button.textContent),
    pictures: [...document.querySelectorAll('.side img')].map(image => [image.complete && image.naturalWidth > 0, box(image).width, box(image).height]),
  };
})()"""


class Program:
    """The program with a page, as a terminal runs it."""

    def __init__(self, binary, arguments, folder):
        self.errors = open(folder / "errors.txt", "w+", encoding="utf-8")
        self.process = subprocess.Popen([binary, "compare", *arguments, "--no-open"], cwd=folder, stderr=self.errors,
                                        stdout=subprocess.PIPE, text=True)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            found = re.search(r"http://\S+", (folder / "errors.txt").read_text(encoding="utf-8"))
            if found:
                self.address = found[0]
                return
            if self.process.poll() is not None:
                break
            time.sleep(.1)
        sys.exit("the program did not start: " + (folder / "errors.txt").read_text(encoding="utf-8"))

    def end(self, how):
        self.process.send_signal(how)
        said, _ = self.process.communicate(timeout=120)
        return said


class Page:
    """A tab of the browser."""

    def __init__(self, browser):
        self.browser = browser
        self.session = browser.session

    def another(self):
        browser = self.browser
        browser.session = None
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        browser.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.call(domain + ".enable")
        return Page(browser)

    def call(self, method, **parameters):
        self.browser.session = self.session
        return self.browser.call(method, **parameters)

    def look(self, expression):
        self.browser.session = self.session
        return self.browser.evaluate(expression)

    def wait(self, expression, what):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self.look(f"!!({expression})"):
                return
            time.sleep(.05)
        sys.exit(f"{what}: not so after 30 s; the page says: {self.look('document.body.innerText')[:600]!r}")

    def open(self, address):
        self.call("Page.navigate", url=address)
        self.wait("typeof state !== 'undefined' && state && (ready || !end.hidden)", f"{address} is shown")

    def ready(self):
        self.wait("!busy && (ready || !end.hidden)", "the next pair is shown")

    def key(self, key):
        code = KEYS[key]
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def judge(self, key):
        """Presses a key that decides something, and waits for what it changes."""
        ticket = self.look("state.ticket")
        self.key(key)
        self.wait(f"state.ticket !== {ticket}", f"the key {key!r} was taken")
        self.ready()

    def middle(self, selector):
        return self.look(f"(() => {{ const {{left, top, width, height}} = document.querySelector({json.dumps(selector)})"
                         ".getBoundingClientRect(); return [left + width / 2, top + height / 2]; })()")

    def click(self, selector):
        x, y = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def tap(self, selector):
        x, y = self.middle(selector)
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def size(self, width, scheme="light", height=900):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setTouchEmulationEnabled", enabled=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def shot(self, path):
        self.look("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        shot = self.call("Page.captureScreenshot")
        path.write_bytes(base64.b64decode(shot["data"]))


def make(binary, folder):
    """Pictures of three prompts, one of them long and with what looks like HTML, and two files of answers."""
    prompts = ["a red dog on the beach", "a <b>cup</b> on a very long cobblestone street in the rain at night, seen from above, with "
               "a cat that looks at it", "a house"]
    subprocess.run([binary, "world", "--out", "out", "--count", "21"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    rows = [{"file_name": f"{number:06}.png", "prompt": prompts[number // 7]} for number in range(21)]
    (folder / "out/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    answers = {"before": "It is a cup. " * 30, "after": "A cup is a thing to drink from.\n\n- It holds tea.\n- It has a handle."}
    for name, answer in answers.items():
        rows = [{"prompt": f"What is cup number {number}?", "text": answer + str(number)} for number in range(4)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def keys_of(folder):
    """What was said and not taken back."""
    rows = [json.loads(line) for line in (folder / "keys.jsonl").read_text(encoding="utf-8").splitlines()]
    gone = {row["undoes"] for row in rows if row["kind"] == "undo"}
    return [row for row in rows if row["kind"] == "choice" and row["number"] not in gone]


class Check:
    def __init__(self):
        self.wrong = []

    def __call__(self, holds, what):
        if not holds:
            self.wrong.append(what)
            print("WRONG:", what, flush=True)

    def events(self, browser, address, what):
        """Nothing on the console and no request to anybody else, since the last look."""
        for event in browser.events:
            parameters = event.get("params", {})
            if event.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                text = json.dumps(parameters)
                # A key of a page that another one has overtaken is answered by 409, which chromium notes.
                self("409 (Conflict)" in text, f"{what}: on the console: {text[:500]}")
            if event.get("method") == "Network.requestWillBeSent":
                url = parameters["request"]["url"]
                self(url.startswith((address, "data:", "about:")), f"{what}: asks for {url}")
        browser.events.clear()

    def layout(self, page, what):
        found = page.look(PROBE)
        for name in ("wide", "small", "out", "choices"):
            self(found[name] in ([], 0) or (name == "wide" and found[name] <= 0), f"{what}: {name}: {found[name]}")
        for complete, width, height in found["pictures"]:
            self(complete and width > 150 and height > 300, f"{what}: a picture of {width} x {height}, shown: {complete}")


def images(binary, folder, browser, out, check):
    kept = folder / "session"
    arguments = ["out", "--session", "session", "--judge", "ann"]
    program = Program(binary, arguments, folder)
    page = Page(browser)
    page.size(1280)
    page.open(program.address)
    check(page.look("document.querySelector('#prompt').textContent === state.pair.prompt"), "the prompt is on top")
    check(page.look("[...document.querySelectorAll('*')].every(one => !(one.textContent || '').includes('.png'))"), "names are hidden")
    for number, (key, choice) in enumerate([("ArrowLeft", "left"), ("ArrowRight", "right"), ("ArrowDown", "tie"),
                                            ("ArrowUp", "both_bad"), ("s", "skip")], 1):
        page.judge(key)
        said = keys_of(kept)
        check(len(said) == number and said[-1]["choice"] == choice, f"{key} is saved as {choice}: {said[-1:]}")
    check(all(0 < row["seconds"] < 60 for row in said), "with the time that it took")

    # What is taken back is shown again, and a page that is loaded anew shows the same.
    shown = "JSON.stringify([state.ticket, state.pair.left, state.pair.right])"
    before = page.look("state.pair.left.item")
    page.judge("z")
    check(len(keys_of(kept)) == 4, "Z takes the last key back")
    again = page.look(shown)
    page.open(program.address)
    check(page.look(shown) == again, "a page that is loaded anew shows the same pair on the same sides")
    page.judge("s")
    check(page.look("state.pair.left.item") == before, "after which the order is as it was")

    # Both are zoomed at the same point, by key, and by mouse at another one.
    transforms = "JSON.stringify([...document.querySelectorAll('.side img')].map(one => [getComputedStyle(one).transform, one.style.transformOrigin]))"
    page.key(" ")
    one, other = json.loads(page.look(transforms))
    check(one == other and one[0].startswith("matrix(3"), f"space zooms both at the same point: {one} {other}")
    page.key(" ")
    check(json.loads(page.look(transforms))[0][0] == "none", "space again shows all")
    x, y = page.middle("#left")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x - 100, y=y - 100)
    page.key(" ")
    moved, other = json.loads(page.look(transforms))
    check(moved == other and moved[1] != one[1], f"at the place of the mouse: {moved}")
    page.shot(out / "compare-zoomed-1280.png")
    page.key(" ")

    # Flickering at one place.
    page.key("f")
    visible = "['left', 'right'].filter(side => getComputedStyle(document.getElementById(side)).visibility === 'visible').join()"
    seen = set()
    end = time.monotonic() + 5
    while len(seen) < 2 and time.monotonic() < end:
        seen.add(page.look(visible))
    check(seen == {"left", "right"}, f"flickering shows one at a time: {seen}")
    places = page.look("JSON.stringify(['left', 'right'].map(side => { const {x, y, width} = document.getElementById(side).getBoundingClientRect(); return [x, y, width]; }))")
    check(json.loads(places)[0] == json.loads(places)[1], f"at one place: {places}")
    page.key("f")
    page.click("#bar button[data-choice=tie]")
    page.wait("state.done === 6", "the mouse judges too")
    page.ready()
    check.events(browser, program.address, "images, 1280 pixels")

    # Two pages of one session.
    second = page.another()
    second.size(1280)
    second.open(program.address)
    page.judge("ArrowLeft")
    second.key("ArrowRight")
    second.wait("!message.hidden && !busy", "the page that was overtaken says so")
    second.ready()
    check(len(keys_of(kept)) == 7, "and its key is not taken")
    check(second.look(shown) == page.look(shown), "both show the same pair now")
    second.judge("ArrowRight")
    check(len(keys_of(kept)) == 8, "after which it goes on")
    check.events(browser, program.address, "two pages")
    second.call("Page.close")
    page.call("Page.bringToFront")
    page.open(program.address)

    # Killed and started again.
    program.end(signal.SIGKILL)
    page.key("ArrowLeft")
    page.wait("!message.hidden", "a page without its program says so")
    browser.events.clear()
    pair = [row["left"] for row in keys_of(kept)]
    program = Program(binary, arguments, folder)
    page.open(program.address)
    check(page.look("state.done") == 8 and [row["left"] for row in keys_of(kept)] == pair, "a new start goes on")

    for width in WIDTHS:
        for scheme in SCHEMES:
            page.size(width, scheme)
            page.open(program.address)
            check.layout(page, f"judging at {width} pixels, {scheme}")
            page.shot(out / f"compare-judge-{width}-{scheme}.png")
    above, below = (page.middle(f"#{side} img") for side in ("left", "right"))
    check(above[0] == below[0] and above[1] < below[1], "on a phone one stands above the other")
    page.look("document.getElementById('show').click()")
    page.shot(out / "compare-figures-400.png")
    page.look("document.getElementById('show').click()")
    ticket = page.look("state.ticket")
    page.tap("#bar button[data-choice=left]")
    page.wait(f"state.ticket !== {ticket}", "a touch judges")
    page.ready()
    page.tap("#left img")
    one, other = json.loads(page.look(transforms))
    check(one == other and one[0].startswith("matrix(3"), f"a touch zooms both: {one}")
    page.tap("#left img")
    check(json.loads(page.look(transforms))[0][0] == "none", "a touch again shows all")
    check(page.look("state.ticket") == ticket + 1, "and judges nothing")

    page.size(1280)
    count = 0
    while page.look("end.hidden"):
        page.judge(("ArrowLeft", "ArrowRight", "ArrowLeft", "ArrowDown")[count % 4])
        count += 1
        check(count < 200, "the session ends")
        if count >= 200:
            return
    check(page.look("state.done === state.total && !state.pair"), "all pairs are done")
    for config in ("image/dpo_sd15_lora", "reward/images"):
        check(f"preftune train configs/{config}.toml" in page.look("end.innerText"), f"the command of {config} is shown")
    check(sum(row["repeat"] for row in keys_of(kept)) >= 5, "a tenth came again")
    rows = [json.loads(line) for line in (kept / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    check(len(rows) == sum(row["choice"] != "skip" for row in keys_of(kept)), "pairs are written when all are done")
    for width in WIDTHS:
        for scheme in SCHEMES:
            page.size(width, scheme)
            page.open(program.address)
            check.layout(page, f"the end at {width} pixels, {scheme}")
            page.shot(out / f"compare-end-{width}-{scheme}.png")
    check.events(browser, program.address, "images to the end")
    said = program.end(signal.SIGINT)
    check("train on them: preftune train" in said and "ann" in said, f"the terminal says what came out: {said}")
    check(program.process.returncode == 0, f"exit code {program.process.returncode}")
    print(f"images: {len(keys_of(kept))} keys")


def texts(binary, folder, browser, out, check):
    program = Program(binary, ["before.jsonl", "after.jsonl", "--session", "texts", "--judge", "ann"], folder)
    page = Page(browser)
    for width in WIDTHS:
        page.size(width)
        page.open(program.address)
        check.layout(page, f"texts at {width} pixels")
        check(page.look("document.querySelectorAll('.answer').length === 2"), "two answers")
        page.shot(out / f"compare-texts-{width}.png")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowLeft"):
        page.judge(key)
    page.wait("!end.hidden", "the end of the texts")
    for config in ("text/dpo", "reward/language_model"):
        check(f"configs/{config}.toml" in page.look("end.innerText"), f"the command of {config} for texts")
    check("after.jsonl against before.jsonl" in page.look("end.innerText"), "names are told at the end")
    page.shot(out / "compare-texts-end.png")
    check.events(browser, program.address, "texts")
    program.end(signal.SIGTERM)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    check = Check()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        out = arguments.out or folder / "screenshots"
        out.mkdir(parents=True, exist_ok=True)
        make(arguments.binary.resolve(), folder)
        browser = Browser(folder / "profile")
        images(arguments.binary.resolve(), folder, browser, out, check)
        texts(arguments.binary.resolve(), folder, browser, out, check)
        browser.close()
    if check.wrong:
        sys.exit(f"{len(check.wrong)} things are not as they should be")
    print("compare works as it should")


if __name__ == "__main__":
    main()
