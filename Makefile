# Two commands do everything on a machine that has Python 3.12: `make demo` and `make test`.
# Python 3.12 is found as $PYTHON, as a working python3.12, or under pyenv.

# Writing byte code makes every start of Python, Ray's workers too, three times faster.
unexport PYTHONDONTWRITEBYTECODE
export CFGEN_SCALE_DATA ?= $(wildcard $(abspath ../shared/data))

VENV := .venv
BIN := $(VENV)/bin
LOCK := infra/requirements.lock

PYTHON ?= $(shell python3.12 -c 'import sys; print(sys.executable)' 2>/dev/null \
	|| { p="$$(pyenv prefix 3.12 2>/dev/null)/bin/python"; [ -x "$$p" ] && echo "$$p"; })

.PHONY: setup demo test test-all lint format bench bench-peers bench-loaders bench-training bench-scaling bench-gpu bench-generation peer-models trials lock clean

setup: $(VENV)/.complete

$(VENV)/.complete: $(LOCK) pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.12 was not found. Install it, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode -r $(LOCK)
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/cfgen-scale demo

test: setup lint
	$(BIN)/python -m pytest -m "not slow"

test-all: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: bench-loaders bench-training bench-scaling bench-drawing
	$(BIN)/python -m tests.benchmarks.pbmc3k

# About 5 GB of disk under BENCH_ROOT; BENCH_CELLS=10000 for a first look.
BENCH_CELLS ?= 200000
BENCH_ROOT ?= runs/loaders-$(BENCH_CELLS)

bench-loaders: bench-peers
	$(BIN)/python -m tests.benchmarks.loaders --root $(BENCH_ROOT) --cells $(BENCH_CELLS) --cores 1 2

bench-training: setup
	$(BIN)/python -m tests.benchmarks.training --root runs/training

bench-scaling: setup
	$(BIN)/python -m tests.benchmarks.scaling
	$(BIN)/cfgen-scale plan --measure --genes 5000

# A finished Zarr of 20,000 genes, beside the reference's recipe; GENERATION_CELLS=2000 for a first look. The
# velocity is that of a trained run of default sizes, such as tests.benchmarks.pbmc3k leaves.
GENERATION_CELLS ?= 20000
GENERATION_RUN ?= runs/pbmc3k/run

bench-generation: setup
	$(BIN)/python -m tests.benchmarks.generation --root runs/generation --run $(GENERATION_RUN) --cells $(GENERATION_CELLS)

bench-drawing: setup
	$(BIN)/python -m tests.benchmarks.drawing

# On a CUDA GPU; without one in small on the CPU, to see that it runs.
bench-gpu: setup
	$(BIN)/python -m tests.benchmarks.gpu

# Training and generation killed at random moments, in one process and in Ray workers.
trials: demo
	$(BIN)/python -m tests.faults.kill_trials --data demo/prepared --out runs/trials
	$(BIN)/python -m tests.faults.generation_trials --out runs/generation-trials

# Beside what the lock pins, which stays as it is.
bench-peers: setup
	$(BIN)/uv pip install --python $(BIN)/python --constraint $(LOCK) --editable '.[bench]'

# scVI, MultiVI, PeakVI and a baseline on the same split; scvi-tools in an environment of its own, which has
# what else is pinned. PEER_OPTIONS="--datasets pbmc3k --peers independent scvi" for a first look.
PEER_VENV := runs/peer-models-venv

peer-models: setup
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(PEER_VENV)
	$(BIN)/uv pip install --python $(PEER_VENV)/bin/python --constraint $(LOCK) --editable '.[peer-models]'
	$(BIN)/python -m tests.benchmarks.peer_models --peer-python $(PEER_VENV)/bin/python $(PEER_OPTIONS)

# Exact pins for every platform; no address of any index may stand in the lock.
lock: setup
	$(BIN)/uv pip compile --universal --python $(BIN)/python --no-annotate --no-header \
		--extra dev pyproject.toml --output-file $(LOCK)

clean:
	rm -rf $(VENV) demo runs build *.egg-info
