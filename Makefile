# Dethrone: every command a person or CI needs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := all
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell command -v python3.11 || echo python3)
UV_VERSION := 0.13.8
UV := .venv/bin/uv
BIN := .venv/bin
STATE := $(or $(DETHRONE_HOME),.dethrone)
LABELER ?= scripted
SIZE ?=
SAMPLE ?=
SOURCE ?=
AUDIT_ARGS ?=
PYTEST_ARGS ?=
# Suites that start databases and stores but no servers under load: they may run beside each other.
SIDE_BY_SIDE := tests/crashes tests/unit tests/contract tests/model \
	$(addprefix tests/reported/test_,decode.py monitor.py sources_hostile.py sources_sql.py)

# uv does not read pip's settings: hand over those that say where packages come from.
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
# TORCH_BACKEND=cpu, =auto or =cu128 takes torch from its own index instead of the package index.
ifdef TORCH_BACKEND
export UV_TORCH_BACKEND := $(TORCH_BACKEND)
endif
# Compiled bytecode halves the start of every process; the environments are the only ones these variables touch.
export UV_COMPILE_BYTECODE := 1
export UV_HTTP_TIMEOUT ?= 180
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE CONDA_PREFIX

.PHONY: help all install install-dev demo up down status doctor clean format-check lint types test coverage test-all test-services test-stores test-gpu test-docker test-servers test-loop test-compose test-protections test-crashes lock lock-check audit advisories format serving-base

##@ Help, and what CI runs first

all: format-check lint types test ## format check, lint, types, tests: what CI runs

help: ## list every target, by what it is for
	@awk -F ':.*## ' '/^##@ / { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Install

install: .venv/.installed .venv-label-studio/.installed ## create both environments from the locks

install-dev: .venv/.installed-dev ## add what tests, linters and types need

##@ Run

demo: ## the whole loop on real images; LABELER=me to label yourself, SIZE=small or full
	@$(MAKE) -j2 install
	$(BIN)/dethrone demo --labeler $(LABELER) $(if $(SIZE),--size $(SIZE))

up: ## start the stack, or what of it does not run
	@$(MAKE) -j2 install
	$(BIN)/dethrone up

down: ## stop everything that was started
	@if [ -x $(BIN)/dethrone ]; then $(BIN)/dethrone down; else echo "nothing is installed, so nothing runs"; fi

status: ## each part's state, address and health
	$(BIN)/dethrone status

doctor: ## look for what would break
	$(BIN)/dethrone doctor

clean: down ## stop everything, then remove the state folder (.dethrone or DETHRONE_HOME)
	@if [ -d "$(STATE)/secrets" ]; then rm -rf -- "$(STATE)"; echo "removed $(STATE)"; else echo "no state folder at $(STATE)"; fi

##@ Build

serving-base: .venv/.installed ## build the image that releases stand on; VARIANT=cuda, OS_BASE=..., PUSH=registry/path
	$(BIN)/dethrone serving-base $(if $(VARIANT),--variant $(VARIANT)) $(if $(OS_BASE),--os-base $(OS_BASE)) $(if $(PUSH),--push $(PUSH))

##@ Look at the code

format-check: .venv/.installed-dev ## fail when a file is not formatted
	$(BIN)/ruff format --check .

format: .venv/.installed-dev ## format every file
	$(BIN)/ruff format .

lint: .venv/.installed-dev ## ruff, with a reason for each ignore
	$(BIN)/ruff check .

types: .venv/.installed-dev ## mypy, strict
	$(BIN)/mypy

##@ Tests

test: .venv/.installed-dev ## unit, contract, DAG, model and service tests: no network, no Docker, no GPU
	$(BIN)/pytest -n auto --maxprocesses 4 $(FILES) $(PYTEST_ARGS)

coverage: .venv/.installed-dev ## the same, with the share of lines that they run: 1.7 times the CPU time
	$(BIN)/pytest -n auto --maxprocesses 4 --cov --cov-report=term:skip-covered $(FILES) $(PYTEST_ARGS)

test-all: test test-services ## the fast tests, then the suites that start real services

test-services: test-stores test-docker test-servers test-loop ## integration, Docker, slow and end-to-end suites; they start what they need

test-stores: .venv/.installed-dev .venv-label-studio/.installed ## those of them that start no servers under load, side by side
	$(BIN)/pytest -m "(integration or slow) and not docker and not e2e" -n auto --maxprocesses 4 --dist loadfile $(or $(FILES),$(SIDE_BY_SIDE)) $(PYTEST_ARGS)

test-gpu: .venv/.installed-dev ## those that need a GPU
	$(BIN)/pytest -m gpu $(or $(FILES),tests/unit) $(PYTEST_ARGS)

test-docker: .venv/.installed-dev ## those that take a Docker engine
	$(BIN)/pytest -m docker $(or $(FILES),tests/docker tests/unit/stack) $(PYTEST_ARGS)

test-servers: .venv/.installed-dev .venv-label-studio/.installed ## those that start servers, one after the other
	$(BIN)/pytest -m "(integration or slow) and not docker and not e2e" $(addprefix --ignore ,$(SIDE_BY_SIDE)) $(FILES) $(PYTEST_ARGS)

test-loop: .venv/.installed-dev .venv-label-studio/.installed ## the whole loop on the whole stack
	$(BIN)/pytest -m e2e $(or $(FILES),tests/e2e) $(PYTEST_ARGS)

test-compose: .venv/.installed-dev ## the production stack of docker-compose.yml, built and started as a whole; not in CI
	$(BIN)/pytest -m compose tests/compose $(PYTEST_ARGS)

test-protections: .venv/.installed-dev ## switch each protection off, in a copy, and see its tests fail; SAMPLE=8 for some
	$(BIN)/python -m tests.protections.run $(if $(SAMPLE),--sample $(SAMPLE))

test-crashes: .venv/.installed-dev .venv-label-studio/.installed ## kill -9 at every crash point of every task, and of every process role; not in CI
	$(BIN)/pytest -m "crashes or slow or docker" $(or $(FILES),tests/crashes tests/docker/test_ship_on_docker.py) $(PYTEST_ARGS)

##@ Dependencies

audit: .venv/.installed ## known holes of locked and installed versions, by the stored list; AUDIT_ARGS="--max-age-days 60"
	$(BIN)/python requirements/audit.py $(AUDIT_ARGS)

advisories: .venv/.installed ## write that list anew from OSV; SOURCE=all.zip or a clone's folder where that is not reachable
	$(BIN)/python requirements/audit.py refresh $(SOURCE)

lock: $(UV) ## resolve the newest versions anew and write requirements/*.lock
	rm -f requirements/*.lock
	@./requirements/compile $(UV) requirements

# Without torch's own line: a kept `2.13.0` would mean the build with CUDA where the other one is offered.
lock-check: $(UV) ## fail when the locks do not follow from pyproject.toml and requirements/*.in
	@work=$$(mktemp -d) && trap 'rm -rf "$$work"' EXIT && cp requirements/*.lock "$$work"/ \
	&& sed -i '/^torch==/d' "$$work"/*.lock \
	&& ./requirements/compile $(UV) "$$work" && for lock in requirements/*.lock; do diff -u "$$lock" "$$work/$${lock##*/}"; done \
	&& echo "the locks are up to date"

$(UV):
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	|| { echo "PYTHON must be Python 3.11 (got $$("$(PYTHON)" --version 2>&1)). Install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@"$(PYTHON)" -m venv .venv \
	|| { echo "python3.11 must be able to make environments (it cannot). On Debian: apt install python3.11-venv" >&2; exit 2; }
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.installed: requirements/pipeline.lock pyproject.toml | $(UV)
	$(UV) pip install --quiet --python $(BIN)/python -r requirements/pipeline.lock
	UV_COMPILE_BYTECODE=0 $(UV) pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

.venv/.installed-dev: requirements/dev.lock requirements/cluster.lock .venv/.installed
	$(UV) pip install --quiet --python $(BIN)/python -r requirements/cluster.lock -r requirements/dev.lock
	@touch $@

.venv-label-studio/.installed: requirements/label-studio.lock | $(UV)
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-label-studio
	$(UV) pip install --quiet --python .venv-label-studio/bin/python -r requirements/label-studio.lock
	@./requirements/label-studio-template .venv-label-studio
	@touch $@
