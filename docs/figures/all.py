"""Draws every figure of the concept pages: `python docs/figures/all.py [FOLDER] [--png]`.

Each is made from objects of the library, most from a run of the embedded model; the same code gives
the same files. FOLDER is docs/images by default; `--png` draws bitmaps, to look at.
"""

import argparse
from pathlib import Path

import evictor
import inside
import pipeline
import scheduler
import scorer
import segmenter
import steerer
import token_life
from style import save

FIGURES = {
    "concept-pipeline": pipeline.draw,
    "concept-segmenter": segmenter.draw,
    "concept-scorer": scorer.draw,
    "concept-evictor": evictor.draw,
    "concept-steerer": steerer.draw,
    "concept-scheduler": scheduler.draw,
    "concept-token": token_life.draw,
    "concept-inside": inside.draw,
}


def main() -> None:
    """Draw all of them, or those named."""
    options = argparse.ArgumentParser(description="Draw the figures of the concept pages.")
    images = Path(__file__).parents[1] / "images"
    options.add_argument("folder", nargs="?", type=Path, default=images)
    options.add_argument("--only", action="append", choices=list(FIGURES))
    options.add_argument("--png", action="store_true", help="bitmaps in the place of SVG")
    chosen = options.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for name in chosen.only or FIGURES:
        path = chosen.folder / f"{name}.{'png' if chosen.png else 'svg'}"
        save(FIGURES[name](), path)
        print(path)


if __name__ == "__main__":
    main()
