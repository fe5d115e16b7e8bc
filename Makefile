# Every verb works on a fresh clone: the first one makes the virtual environment.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# faiss-cpu and faiss-gpu install the same package: take exactly one (make quickstart EXTRA=gpu).
EXTRA ?= cpu

.PHONY: help install install-dev quickstart check test test-faults wheels torture reference docs lock sizes \
	sbom audit images manifests bench bench-e2e bench-gpu bench-scale bench-forecast rehearse clean

help: ## Show this list.
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# Where Python writes no bytecode (PYTHONDONTWRITEBYTECODE), every process and every Ray worker would
# compile the package again: 0.4 s of a core each.
COMPILE = @$(BIN)/python -m compileall -q pipelines

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml constraints/py311.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints/py311.txt -e '.[$(EXTRA)]'
	$(COMPILE)
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints/py311.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints/py311.txt -e '.[$(EXTRA),dev]'
	$(COMPILE)
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## Install into .venv what running needs.

install-dev: $(VENV)/.installed-dev ## Install into .venv what developing needs too.

quickstart: install ## Rank 100 questions over the documentation of Python's standard library, on Ray.
	$(BIN)/nightrank quickstart

check: install-dev ## Formatter, linter, types, dependency directions, rules of the source.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --verbose > .lint-imports.log 2>&1 || (cat .lint-imports.log; exit 1)
	@rm -f .lint-imports.log
	$(BIN)/python -m pytest --numprocesses 0 tests/test_rules.py

# In three processes on two cores, since tests wait for Ray or a socket for a third of their time.
PYTEST := $(BIN)/python -m pytest --numprocesses 3 --dist loadgroup --no-loadscope-reorder

test: install-dev ## All tests: real Ray, a real S3 API over HTTP, the built-in models.
	$(PYTEST) --ignore=tests/faults --ignore=tests/packaging

test-faults: install-dev ## Kills, full disks, broken replies, damaged files, hostile input.
	$(PYTEST) tests/faults

# In one process: each test needs the environment of the one before.
wheels: install-dev ## Build the wheel and the sdist into dist/; run the wheel on each Python of this machine.
	rm -rf dist/nightrank-*
	$(BIN)/python -m pytest -rs tests/packaging --distributions dist

MINUTES ?= 30
torture: install-dev ## The same without end: random kills, fuzzing, simulated nights, for MINUTES=30.
	$(BIN)/python -m benchmarks.torture --minutes $(MINUTES) --out $(RESULTS)

reference: install-dev ## Write docs/configuration.md and the editors' schema from the configuration's models.
	$(BIN)/python -m nightrank.config.reference docs

$(VENV)/.installed-docs: pyproject.toml constraints/py311.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints/py311.txt -e '.[$(EXTRA),docs]'
	@touch $@ $(VENV)/.installed

# Strict: a broken link, a broken anchor or a page outside the navigation is an error.
docs: $(VENV)/.installed-docs ## Build the documentation as a site: build/site/index.html.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock: install-dev ## Write constraints/*.lock again, with the hashes of PyPI's files.
	$(BIN)/python constraints/lock.py

WHEELS ?= build/wheels
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
sizes: install-dev ## Download the wheels of all locks (5 GB) and write what images weigh: constraints/sizes.json.
	for lock in constraints/*.lock; do $(BIN)/pip download --quiet --require-hashes --no-deps \
		--only-binary :all: --dest $(WHEELS) --requirement $$lock || exit 1; done
	$(BIN)/pip download --quiet --no-deps --dest $(WHEELS) --index-url $(TORCH_INDEX) \
		"$$(grep '^torch==' constraints/py311.txt)+cpu"
	$(BIN)/python constraints/sizes.py $(WHEELS)

# In an environment of their own, which what they look at shares nothing with.
RELEASE := build/release
$(RELEASE)/.installed: constraints/release.txt
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/pip install --quiet -r constraints/release.txt
	@touch $@

# torch stands in gpu.lock alone; an image for CPUs takes the same version.
CYCLONEDX := $(RELEASE)/bin/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml \
	--output-reproducible --mc-type application
sbom: $(RELEASE)/.installed ## CycloneDX bills of what the locks install: dist/sbom-cpu.json and so on.
	@mkdir -p dist
	for lock in cpu gpu-index; do (cat constraints/$$lock.lock; grep '^torch==' constraints/py311.txt) \
		| $(CYCLONEDX) - -o dist/sbom-$$lock.json || exit 1; done
	$(CYCLONEDX) constraints/gpu.lock -o dist/sbom-gpu.json

audit: $(RELEASE)/.installed ## Ask PyPI for known advisories of what the locks name; fails where there is one.
	$(RELEASE)/bin/pip-audit --strict --progress-spinner off --require-hashes --disable-pip \
		-r constraints/gpu.lock -r constraints/cpu.lock -r constraints/gpu-index.lock

# e.g. make images IMAGE=registry.example.com/nightrank PYTHON_IMAGE=docker.io/library/python@sha256:...
IMAGE ?= nightrank
PYTHON_IMAGE ?= docker.io/library/python:3.11-slim-bookworm
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BUILD := docker build --file infra/images/Dockerfile --build-arg PYTHON_IMAGE=$(PYTHON_IMAGE)

images: ## Build the images: for CPUs, for models and for indexes on GPUs.
	$(BUILD) --tag $(IMAGE):$(VERSION)-cpu .
	$(BUILD) --build-arg LOCK=gpu --build-arg TORCH_INDEX= --tag $(IMAGE):$(VERSION)-gpu .
	$(BUILD) --build-arg LOCK=gpu-index --tag $(IMAGE):$(VERSION)-gpu-index .

manifests: ## Print what `kubectl apply -k infra/kubernetes/aws` would apply.
	kubectl kustomize infra/kubernetes/aws

# Collections in BEIR layout (DATA/NAME/corpus.jsonl[.gz], queries.jsonl[.gz], qrels/SPLIT.tsv) make
# better texts than docstrings: make bench DATA=folder. bench-e2e takes one collection itself.
DATA ?=
BENCH_WORK ?= bench
WITH_DATA := $(if $(DATA),--data $(DATA))
RESULTS := benchmarks/results

bench: install-dev ## Ratios beside peers on this machine, about 15 minutes on two cores.
	$(BIN)/python -m benchmarks.scoring $(WITH_DATA) --out $(RESULTS)
	$(BIN)/python -m benchmarks.encoding $(WITH_DATA) --out $(RESULTS)
	$(BIN)/python -m benchmarks.retrieval $(WITH_DATA) --quick --cache $(BENCH_WORK)/vectors --out $(RESULTS)
	$(BIN)/python -m benchmarks.growth $(WITH_DATA) --work $(BENCH_WORK)/growth --out $(RESULTS)

bench-e2e: install-dev ## The whole on SciFact (DATA=folder of it) beside the script one would write.
	rm -rf $(BENCH_WORK)/end-to-end/lake
	$(BIN)/python -m benchmarks.end_to_end $(WITH_DATA) --work $(BENCH_WORK)/end-to-end --out $(RESULTS)

bench-gpu: install-dev ## Three sizes of cross-encoders with random weights on the GPU.
	$(BIN)/python -m benchmarks.gpu --out $(RESULTS)

bench-scale: install-dev ## A million documents by 100,000 queries at depth 100; the same command resumes.
	$(BIN)/python -m benchmarks.scale --work $(BENCH_WORK)/scale --out $(RESULTS)

bench-forecast: install-dev ## What `plan` foretells beside what comes, for a run and one 8 times as large.
	$(BIN)/python -m benchmarks.forecast $(WITH_DATA) --work $(BENCH_WORK)/forecast --out $(RESULTS)

rehearse: install-dev ## 64,200 units that compute nothing through the control plane, killed half-way.
	rm -rf $(BENCH_WORK)/rehearse
	$(BIN)/python -m benchmarks.rehearse --work $(BENCH_WORK)/rehearse --out $(RESULTS)

clean: ## Remove environments and what quickstart, benchmarks and releases made.
	rm -rf $(VENV) quickstart $(BENCH_WORK) build dist
