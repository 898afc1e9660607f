# One entry for people and for CI. `make quickstart` and `make test` install what is missing, so they work on a fresh
# clone with nothing but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
INSTALLED := $(VENV)/.installed

.PHONY: install engines quickstart quickstart-real test test-slow check docs bench bench-data clean

install: $(INSTALLED)

# The constraints hold the versions the tests pass on; torch comes first, alone, so that nothing pulls another build of it.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	touch $@

quickstart: install
	$(BIN)/python launch/quickstart.py --output quickstart

quickstart-real: install
	$(BIN)/python launch/quickstart_real.py --output quickstart-real

# Debian's packages with which tests try launchers and executors on real hosts and a real SLURM.
engines:
	.ci/packages

test: install engines
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --durations 30

test-slow: install engines
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[spectra]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --numprocesses auto --maxprocesses 4 --durations 30

# Scenes of all three sources with the labels of the six tasks, and their corpus of small chips.
bench-data: install
	$(BIN)/python data_prep/simulate.py --output bench-data/scenes --seed 0 --regions 21 --landsat_px 256 --sentinel2_px 240
	$(BIN)/python data_prep/shard.py --input bench-data/scenes --output bench-data/corpus --workers 2 \
	    --chip_px.sentinel2 32 --chip_px.landsat 32 --chip_px.modis 4

bench: bench-data
	for script in tests/bench/bench_*.py; do \
	    name=$$(basename $$script .py); \
	    $(BIN)/python $$script --output tests/bench/results/$${name#bench_}.json || exit 1; \
	done

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MKDOCS) --quiet

# Search needs a server: python -m http.server --directory site
docs: install
	$(BIN)/python -m docs.generate.pages
	$(MKDOCS)

clean:
	rm -rf quickstart quickstart-real bench-data site
