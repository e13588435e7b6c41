#!/usr/bin/env bash
# The tests that need CUDA and the benchmark of one GPU.
#
#     benchmarks/gpu.sh [DIR [SECONDS]]
#
# DIR (default runs/gpu) gets tests.txt and gpu.jsonl, a line per part, the most telling first. The
# same command goes on where a run was stopped. SECONDS (default 1800) ends it in time: no part
# begins later, and one that does not end is killed. It needs an environment with torch,
# transformers, pytest, hypothesis and jaxtyping, 40 GB of GPU memory, and no weights: those are
# random. PYTHON names the interpreter (default: python).
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/gpu}
seconds=${2:-1800}
python=${PYTHON:-python}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$out"

# Importing torch takes seconds, which a short run does not have.
command -v nvidia-smi >/dev/null ||
	"$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "No GPU: torch.cuda.is_available() is False.")' ||
	exit 1

left() { echo $((seconds - SECONDS)); }

# Tests and the loading of the first model go on side by side; nothing is timed before the tests end.
if [ ! -e "$out/tests.done" ]; then
	(
		timeout -k 3 $((seconds / 4 > 300 ? 300 : seconds / 4)) "$python" -m pytest \
			-o addopts= -p no:cacheprovider -m cuda -rA -v --tb=short --durations=10 \
			tests/runtime/test_cuda.py >"$out/tests.txt" 2>&1
		echo $? >"$out/tests.done"
	) &
fi

# A part may end the process; the next one goes on after it.
for _ in 1 2 3 4 5 6; do
	[ "$(left)" -gt 10 ] || break
	timeout -k 3 "$(left)" "$python" benchmarks/gpu.py --output "$out" \
		--seconds $(($(left) - 8)) --wait-for "$out/tests.done" >>"$out/gpu.log" 2>&1 && break
done
wait
tail -n 40 "$out/tests.txt" | cut -c1-200
"$python" benchmarks/gpu_table.py "$out/gpu.jsonl" 2>&1 | tee "$out/gpu.md"
echo "Results: $out/gpu.jsonl, $out/gpu.md, $out/tests.txt, $out/gpu.log"
exit "$(cat "$out/tests.done")"
