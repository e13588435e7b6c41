#!/usr/bin/env bash
# The tests that need CUDA and the benchmark of one big GPU, in under ten minutes.
#
#     benchmarks/gpu.sh [DIR]
#
# DIR (default runs/gpu) gets tests.txt, gpu.json and bench/. It needs an environment with skipkv's
# extras `dev` in it, 40 GB of GPU memory, and no weights: those are random.
# PYTHON names the interpreter (default: python), CONFIG another architecture.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/gpu}
python=${PYTHON:-python}
config=${CONFIG:-benchmarks/configs/deepseek-r1-distill-qwen-7b.json}
mkdir -p "$out"

"$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "No GPU: torch.cuda.is_available() is False.")'

# A test that fails does not stop the measurements; the script fails at its end.
failed=0
"$python" -m pytest -m cuda -rs -q 2>&1 | tee "$out/tests.txt" || failed=1

"$python" benchmarks/gpu.py --config "$config" --output "$out/gpu.json"

"$python" -m skipkv bench --model "random:$config" --device cuda --dtype bfloat16 \
	--policies full,streaming_llm,snapkv,rkv,skipkv --baselines floor,generate_dynamic \
	--batch-sizes 10 --budgets 1024 --interval 128 --prompt-tokens 1024 --new-tokens 512 \
	--repeats 1 --output "$out/bench"

echo "Results: $out/gpu.json, $out/bench/summary.json, $out/tests.txt"
exit $failed
