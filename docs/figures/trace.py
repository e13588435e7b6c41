"""Makes the example page of docs/traces.md and the picture of it: `python docs/figures/trace.py`.

The picture needs Chromium on the path and playwright: `make trace-figures` installs the latter.
"""

import os
import shutil
from pathlib import Path

from skipkv import Engine, tiny
from skipkv.compositions import model_settings, resolve_policy
from skipkv.trace import Recorder, page

PROMPT = "f:e+9; b:a+5; a:7; d:c-b; i:e+h; c:a+a; g:f-2; h:g+b; e:d+d. Start at a, find b and i."
IMAGES = Path(__file__).parents[1] / "images"
BUDGET = 96


def example() -> str:
    """The page of the embedded model under R-KV and SkipKV."""
    model, tokenizer = tiny.load(device="cpu")
    traces = []
    for name in ("rkv", "skipkv"):
        policy = resolve_policy(name, settings=model_settings("tiny"), budget=BUDGET)
        engine = Engine(model, tokenizer, policy)
        recorder = Recorder(engine, scores=True)
        chat = [{"role": "user", "content": PROMPT}]
        list(engine.generate([chat], max_new_tokens=640, observers=[recorder], progress=False))
        traces += recorder.traces
    return page(traces, [f"rkv, budget {BUDGET}", f"skipkv, budget {BUDGET}"])


def picture(source: Path, target: Path) -> None:
    """A picture of a page, in the middle of the decode."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium is None:
        raise SystemExit("No Chromium is on the path; on Debian: apt-get install chromium")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=options)
        view = browser.new_page(viewport={"width": 1280, "height": 760}, device_scale_factor=1.5)
        view.goto(source.as_uri())
        view.wait_for_function("window.skipkvTrace && skipkvTrace.frames.count > 0")
        # the time that a frame took differs from run to run
        view.evaluate("skipkvTrace.go(8); document.getElementById('frame').hidden = true")
        view.wait_for_timeout(300)
        view.screenshot(path=target)
        browser.close()


def main() -> None:
    """Write both."""
    source = IMAGES / "trace.html"
    source.write_text(example(), encoding="utf-8")
    picture(source, IMAGES / "trace.png")
    print(source, IMAGES / "trace.png", sep="\n")


if __name__ == "__main__":
    main()
