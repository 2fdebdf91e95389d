# Every target sets itself up; there is nothing else to know.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PY := .venv/bin/python
PYTEST := $(PY) -m pytest
WORKERS ?= 2
EPISODES ?= 500
SEEDS ?= 20000

.PHONY: help setup demo up test test-fresh unit e2e chaos-short sim chaos lint fmt bench deb lock crds clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1	\2/' | expand -t 24

setup: .venv/.dev ## make .venv/ with everything that tests and tools need

.venv/.run: requirements/run.txt pyproject.toml deploy/setup.sh
	@deploy/setup.sh run

.venv/.dev: .venv/.run requirements/dev.txt
	@deploy/setup.sh dev

demo: .venv/.run ## the whole story on this machine, explained, under a minute (KEEP=1 leaves it running)
	@$(PY) -m deploy.demo $(if $(KEEP),--keep)

up: .venv/.run ## the same platform in the foreground: API, broker, cloudcore and one edge
	@$(PY) -m deploy.up

test: .venv/.dev ## everything that checks this project
	@deploy/parts.sh
	@$(MAKE) --no-print-directory lint unit e2e

unit:
	@$(PYTEST) -q -n $(WORKERS) --dist worksteal tests/unit tests/sim tests/conformance

e2e:
	@$(PYTEST) -q tests/e2e tests/chaos

test-fresh: ## make demo and make test in a new Debian 12 root (root and debootstrap needed)
	@tests/fresh.sh

sim: .venv/.dev ## the link's simulator, SEEDS=20000
	@$(PY) -m tests.sim --seeds $(SEEDS)

chaos: .venv/.dev ## real processes under seeded faults, EPISODES=500
	@deploy/parts.sh
	@$(PY) -m tests.chaos --episodes $(EPISODES)

bench: .venv/.dev ## measure, print a table, keep JSON in build/bench/
	@deploy/parts.sh
	@$(PY) -m tests.bench

lint: .venv/.dev
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo

fmt: .venv/.dev ## format the code
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

deb: .venv/.dev ## build the Debian packages of both daemons into build/deb/
	@$(PY) -m deploy.deb.build

lock: .venv/.dev ## write requirements/*.txt anew: hashes for all platforms, no URLs
	@deploy/lock.sh

clean:
	@rm -rf .venv .cache .state build .pytest_cache .mypy_cache .ruff_cache .hypothesis
