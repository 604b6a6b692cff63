# People and CI type the same words. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
# The exact versions that are tested; CONSTRAINTS= takes the newest that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
# PyTorch goes first: where an index offers several builds, name the one for your card or for the CPU,
# e.g. make install TORCH="torch==2.13.0 --index-url URL" with the URL that PyTorch's own page gives for it.
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
WITH := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
# Two test processes with one thread each beat one process with two.
export OMP_NUM_THREADS ?= 1
TEST_PROCESSES ?= 2

help: ## list these words
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -e . $(WITH)
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]' $(WITH)
	@touch $@

install: $(VENV)/.installed ## put sdtune into .venv

demo: $(VENV)/.installed ## train on examples/fluent-3d with the built-in model, draw before and after
	rm -rf runs/demo
	env -u OMP_NUM_THREADS $(BIN)/sdtune train-lora examples/fluent-3d --rank 8 --preset examples/demo.toml --out runs/demo
	cp runs/demo/before-after.png demo.png
	@echo "look at   demo.png: subjects that the training never saw, before and after"
	@echo "to type sdtune as it stands:  . $(BIN)/activate"

test: $(VENV)/.installed-dev ## run all tests
	$(BIN)/python -m pytest -n $(TEST_PROCESSES)

test-gpu: $(VENV)/.installed-dev ## run the tests that need a CUDA card
	$(BIN)/python -m pytest -m gpu tests/gpu

check: $(VENV)/.installed-dev ## format, lint, types, and which layer imports which
	$(BIN)/ruff format --check sdtune tests tools
	$(BIN)/ruff check sdtune tests tools
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev ## put the code into its format
	$(BIN)/ruff format sdtune tests tools
	$(BIN)/ruff check --fix sdtune tests tools

mini: $(VENV)/.installed-dev ## train the built-in model from scratch; goes on where it stopped
	env -u OMP_NUM_THREADS $(BIN)/python -m tools.mini

mini-smoke: $(VENV)/.installed-dev ## the whole recipe of the built-in model, tiny
	$(BIN)/python -m tools.mini --smoke

bench: $(VENV)/.installed-dev ## how fast it is beside the plain way
	$(BIN)/python -m tools.bench.prepare
	$(BIN)/python -m tools.bench.feeding steps
	$(BIN)/python -m tools.bench.sampling

torture: $(VENV)/.installed-dev ## the proofs of docs/reliability.md, whole (an hour or two)
	$(BIN)/python -m tools.torture

torture-sample: $(VENV)/.installed-dev ## a tenth of them
	$(BIN)/python -m tools.torture --share 0.1

clean: ## remove what was built, but no run
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis demo.png

.PHONY: help install demo test test-gpu check format mini mini-smoke bench torture torture-sample clean
