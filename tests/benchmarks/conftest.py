"""The benchmarks are scripts beside the package, and import one another as such."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
