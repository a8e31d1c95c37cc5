# Two commands do everything on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
# TORCH=cpu takes PyTorch's CPU build from PyTorch's own index: smaller, on a Linux computer without a GPU.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SHARED ?= ../shared/data
DATA ?= matloop-data/public
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format unit bench data docs-check docs clean

help:  ## list what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## set up .venv from pinned versions

$(INSTALLED): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--index-url https://download.pytorch.org/whl/cpu torch
endif
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(INSTALLED)

demo: NAME := perovskites-$(shell date +%Y%m%d-%H%M%S)
demo: $(INSTALLED)  ## run the main job to its report: stable perovskites by a graph network and a real potential
	$(BIN)/matloop run campaigns/perovskites.yaml --name $(NAME) --store matloop-data/demo.db
	$(BIN)/matloop report $(NAME) --store matloop-data/demo.db --out matloop-data/$(NAME).html

test: lint unit docs-check  ## everything that must hold before a change lands

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

unit: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist loadfile

format: $(INSTALLED)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## every measurement against peers; runs only what is missing or stale
	@for work in crash crash_flow overhead discovery discovery_hits phonons perovskites prospective_calibration \
		explanation speed screening transfer crossed_barrel agnp perovskite_films oer redoxmers direct_arylation \
		test_functions async_lab pool_scaling conformance wire_chaos lab_acceptance schedule \
		fault_matrix; do $(MAKE) --no-print-directory bench-$$work || exit 1; done

bench-%: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.$* --data $(DATA)

bench-pool_scaling: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.pool_scaling

data: $(INSTALLED)  ## public data of the benchmarks: copied where it lies beside the project, else fetched and checked
	$(BIN)/python -m tests.benchmarks.data --beside $(SHARED) --to $(DATA)

docs-check: $(INSTALLED)  ## README's figures are those of tests/benchmarks/results
	$(BIN)/python -m tests.benchmarks.tables --check README.md

docs: $(INSTALLED)  ## write README's figures anew
	$(BIN)/python -m tests.benchmarks.tables --write README.md

clean:  ## remove the environment and what runs left behind
	rm -rf $(VENV) matloop-data
