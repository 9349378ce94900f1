"""Are the chat templates that TRL ships rendered as transformers renders them?

    python tests/python/chat_templates.py [FOLDER ...]

Renders every template of the installed TRL (`trl/chat_templates/*.jinja`), and of further folders, with each chat of
`tests/golden/templates.py` by transformers, and lets a test of preftune render the same. All that transformers renders must be
equal; what it refuses is counted. The templates are read where they are installed; none is kept here. Needs transformers and
trl, which need not bring torch. Exits with 1 and the differences where something does not agree.
"""
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/golden"))
from templates import CHATS, NAMES, TOKENS, case  # noqa: E402

TEST = "chat_templates::renderings_of_a_file"

if __name__ == "__main__":
    trl = importlib.util.find_spec("trl").submodule_search_locations[0]
    folders = [pathlib.Path(trl) / "chat_templates", *map(pathlib.Path, sys.argv[1:])]
    files = [file for folder in folders for file in sorted(folder.glob("*.jinja"))]
    cases = [case(f"{file.name}, {chat}", file.read_text(encoding="utf-8"), messages, variables, opened)
             for file in files for chat, messages, variables, opened in CHATS]
    print(f"{len(files)} templates x {len(CHATS)} chats")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "renderings.json"
        path.write_text(json.dumps({"names": NAMES, "tokens": TOKENS, "cases": cases}), encoding="utf-8")
        ran = subprocess.run(["cargo", "test", "--quiet", TEST, "--", "--exact", "--ignored", "--nocapture"], cwd=ROOT,
                             env=os.environ | {"PREFTUNE_RENDERINGS": str(path)})
    sys.exit(ran.returncode and 1)
