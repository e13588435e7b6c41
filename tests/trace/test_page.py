"""The page of a trace: safe against what a model writes, and in a browser as the masks say."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from made_traces import made

from skipkv import Engine, presets
from skipkv.errors import InputError
from skipkv.testing import toy_model, toy_tokenizer
from skipkv.trace import Recorder, Trace, listing, page

HOSTILE = [
    "</script><img src=x onerror=\"document.title='hit'\">",
    "<!--<script>",
    "@DATA@",
    "]]>&amp;\u2028\x00\x1b[2J\ud800",
]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


def hostile() -> Trace:
    trace = made(tokens=40, layers=2, heads=2, events=3, sentences=4, terms=1)
    return attrs.evolve(
        trace,
        pieces=[HOSTILE[n % len(HOSTILE)] for n in range(40)],
        terms=[HOSTILE[0]],
        about={"policy": "\ud800" + HOSTILE[0], "model": HOSTILE[1]},
    )


def recorded(policy: Any, *, scores: bool = True, tokens: int = 60) -> Trace:
    engine = Engine(toy_model(layers=3), toy_tokenizer(), policy)
    recorder = Recorder(engine, scores=scores)
    prompt = "one plus two.\n\none plus two.\n\nso\n\n"
    list(engine.generate([prompt], max_new_tokens=tokens, observers=[recorder]))
    return recorder.traces[0]


def test_no_text_of_a_model_is_markup() -> None:
    text = page([hostile()])
    assert text.count("</script>") == text.count("<script") == 2
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert data
    assert "<" not in data[1]
    [shown] = json.loads(data[1])
    assert shown["pieces"] == list(hostile().pieces)
    assert "<img" not in text
    assert text.encode()


def test_a_page_loads_nothing() -> None:
    text = page([hostile()])
    assert "default-src 'none'" in text
    assert not re.search(r"(?:src|href)=[\"']|url\(|@import|fetch\(|https?:", text)


def test_the_example_of_the_docs_is_a_page_as_it_is_made_now() -> None:
    def frame(text: str) -> str:
        return re.sub(r'id="data">.*?</script>|<title>.*?</title>', "", text, flags=re.S)

    example = Path(__file__).parents[2] / "docs" / "images" / "trace.html"
    assert frame(example.read_text()) == frame(page([made(tokens=4)])), "make trace-figures"


def test_a_page_shows_one_trace_or_two() -> None:
    trace = made(tokens=4)
    assert "A and B" in page([trace, trace], ["A", "B"])
    for traces in ([], [trace] * 3):
        with pytest.raises(InputError, match="one trace or 2 side by side"):
            page(traces)
    with pytest.raises(InputError, match="1 traces and 2 labels"):
        page([trace], ["A", "B"])


def test_the_listing_says_what_the_masks_say() -> None:
    trace = recorded(presets.skipkv(24, threshold=0.5, interval=8))
    own = trace.sentences
    for event in (None, 0, -1):
        share = trace.kept(event).mean(axis=(0, 1))
        number = trace.events - 1 if event is None else event % trace.events
        head, _, _, *lines = listing(trace, event).splitlines()
        assert f"{share.sum():.1f} of " in head
        starts = [0, *own.ends.tolist()]
        for row, line in enumerate(lines[:-1]):
            percent, position = re.findall(r"\d+", line)[:2]
            assert int(position) == starts[row]
            assert int(percent) == round(100 * share[starts[row] : starts[row + 1]].mean())
            known = own.twins[row] >= 0 and own.redundant_at[row] <= number
            assert known == line.endswith(f"  -> {starts[own.twins[row]]}")
    assert (own.twins >= 0).any()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is on the path; on Debian: apt-get install chromium")
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install 'skipkv[browser]'"
    )
    # as root Chromium refuses to start with its sandbox
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


class Opened:
    """A page in a browser, with all that went wrong in it."""

    def __init__(self, browser: Any, folder: Path, *traces: Trace, **options: Any) -> None:
        path = folder / "page.html"
        path.write_text(page(traces), encoding="utf-8")
        self.page = browser.new_page(**{"viewport": {"width": 1000, "height": 800}} | options)
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type == "error" else None)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("window.skipkvTrace && skipkvTrace.frames.count > 0")

    def pixels(self, number: int = 0) -> list[list[int] | None]:
        """The colour of each token's box, beside its text; None for one that is scrolled away."""
        return self.page.evaluate(
            """(number) => {
                skipkvTrace.drawNow();
                const pane = skipkvTrace.panes[number], own = pane.canvas.getBoundingClientRect();
                const context = pane.canvas.getContext("2d"), ratio = devicePixelRatio;
                return pane.record.pieces.map((_, i) => {
                    const box = pane.box(i);
                    if (!box) return null;
                    const x = (box.x - own.left + box.width / 2) * ratio;
                    const y = (box.y - own.top + 0.5) * ratio;
                    return [...context.getImageData(x, y, 1, 1).data];
                });
            }""",
            number,
        )


def shows(opened: Opened, held: np.ndarray, seen: int, number: int = 0) -> None:
    """Assert that the colours on the screen are those of a mask `[heads, N]`."""
    share = held.mean(axis=0)
    looked = 0
    for position, pixel in enumerate(opened.pixels(number)):
        if pixel is None:
            continue
        looked += 1
        if position < seen and share[position] > 0:
            expected = opened.page.evaluate(f"skipkvTrace.shade({share[position]})")
            assert pixel == [*expected, 255], position
        else:  # the ground, or that of the prompt
            assert pixel[3] == 0 or pixel[:3] in ([0xEC, 0xEE, 0xF2], [0x23, 0x26, 0x2D]), position
    assert looked > 30


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shading_follows_the_masks_as_the_slider_moves_and_the_head_is_switched(
    chromium: Any, tmp_path: Path, scheme: str
) -> None:
    trace = recorded(presets.rkv(20, window=4, interval=8))
    opened = Opened(chromium, tmp_path, trace, color_scheme=scheme)
    view = opened.page
    view.uncheck("#outlines")
    shows(opened, trace.kept().reshape(6, -1), trace.stored)
    view.focus("#step")
    for back in range(1, trace.events + 1):
        view.keyboard.press("ArrowLeft")
        event = trace.events - back
        shows(opened, trace.kept(event).reshape(6, -1), int(trace.seen[event]))
        assert f"event {event + 1} of {trace.events}" in view.inner_text("#now")
    view.keyboard.press("End")
    view.keyboard.press("[")
    last = trace.events - 1
    for layer, head in [("1", ""), ("1", "1"), ("", "0"), ("2", "0")]:
        view.select_option("#layer", layer)
        view.select_option("#head", head)
        kept = trace.kept(last)
        kept = kept if layer == "" else kept[int(layer)][None]
        kept = kept if head == "" else kept[:, int(head)][:, None]
        shows(opened, kept.reshape(-1, kept.shape[-1]), int(trace.seen[last]))
    assert opened.faults == []
    assert all(url.startswith("file:") for url in opened.requests)


@pytest.mark.browser
def test_hostile_text_is_shown_as_text(chromium: Any, tmp_path: Path) -> None:
    opened = Opened(chromium, tmp_path, hostile())
    view = opened.page
    view.click("#plain summary")
    view.mouse.move(*view.evaluate("(({x, y}) => [x + 2, y + 2])(skipkvTrace.panes[0].box(0))"))
    view.wait_for_function("document.getElementById('tip').style.visibility == 'visible'")
    assert view.locator("img").count() == 0
    assert HOSTILE[0] in view.inner_text("#plain pre")
    assert HOSTILE[0] in view.inner_text("#tip")
    assert view.title() != "hit"
    assert opened.faults == []


@pytest.mark.browser
def test_the_keyboard_reaches_tokens_and_the_sentence_that_repeats_one(
    chromium: Any, tmp_path: Path
) -> None:
    trace = recorded(presets.skipkv(24, threshold=0.5, interval=8))
    opened = Opened(chromium, tmp_path, trace)
    view = opened.page
    row = int(np.flatnonzero(trace.sentences.twins >= 0)[0])
    start = [0, *trace.sentences.ends.tolist()]
    view.focus(".scroll")
    view.keyboard.press("ArrowRight")
    for _ in range(start[row]):
        view.keyboard.press("ArrowRight")
    said = view.inner_text("#said")
    assert f"position {start[row]}," in said
    assert f"sentence {row + 1}," in said
    assert "WindowAttention" in said
    view.keyboard.press("Enter")
    assert f"position {start[trace.sentences.twins[row]]}," in view.inner_text("#said")
    view.keyboard.press("Escape")
    assert view.evaluate("skipkvTrace.panes[0].cursor") is None


@pytest.mark.browser
def test_two_traces_are_shown_side_by_side_with_the_first_token_that_differs(
    chromium: Any, tmp_path: Path
) -> None:
    traces = [
        recorded(presets.rkv(20, interval=8)),
        recorded(presets.streaming_llm(20, interval=8)),
    ]
    opened = Opened(chromium, tmp_path, *traces)
    first, second = (trace.ids for trace in traces)
    differs = int(np.flatnonzero(first != second)[0])
    assert f"token {differs}" in opened.page.inner_text("#differ")
    opened.page.uncheck("#outlines")
    opened.page.evaluate("skipkvTrace.state.differs = null")  # its mark would cover a pixel
    opened.page.evaluate("skipkvTrace.go(1)")
    for number, trace in enumerate(traces):
        shows(opened, trace.kept(1).reshape(6, -1), int(trace.seen[1]), number)


@pytest.mark.browser
@pytest.mark.parametrize("traces", [1, 2])
def test_a_frame_of_16000_tokens_takes_less_than_50_ms(
    chromium: Any, tmp_path: Path, traces: int
) -> None:
    trace = made(tokens=16000, layers=28, heads=4, events=125, sentences=600)
    pieces = [(" word", "ing", ".\n\n" if n % 27 == 0 else " then")[n % 3] for n in range(16000)]
    trace = attrs.evolve(trace, pieces=pieces)
    opened = Opened(chromium, tmp_path, *[trace] * traces, viewport={"width": 1400, "height": 900})
    # a pixel is read, so that all drawing of the frame is done
    took = opened.page.evaluate(
        """() => Array.from({length: 60}, (_, k) => {
            const before = performance.now(), pane = skipkvTrace.panes[0];
            skipkvTrace.go(2 * k);
            pane.scroll.scrollTop = 150 * k;
            skipkvTrace.drawNow();
            pane.canvas.getContext("2d").getImageData(0, 0, 1, 1);
            return performance.now() - before;
        })"""
    )
    print(f"{traces} x 16,000 tokens: median {np.median(took):.1f} ms, at most {max(took):.1f} ms")
    assert np.median(took) < 50
