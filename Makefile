# Every target sets up what it needs in .venv and build/; `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
SEEDS ?= 1000

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1 \t/p' Makefile | expand -t 18

.venv/ready: setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jobd needs Python 3.11 or newer")'
	@$(PYTHON) -m venv .venv || { echo 'python3-venv is missing: apt-get install python3-venv' >&2; exit 1; }
	@echo 'installing into .venv ...'
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[codes,dev]'
	@touch $@

.PHONY: agent
agent: .venv/ready ## build the agent, build/jobd-agent.pyz
	@$(BIN)/python deploy/build_agent.py

.PHONY: demo
demo: agent ## run the main job, as a user would; QUICK=1 for a short one
	@$(BIN)/python examples/demo.py $(if $(QUICK),--quick)

.PHONY: run
run: agent ## run the daemon on port 8080 with its state in build/state
	@$(BIN)/jobd --config deploy/jobd-dev.toml

.PHONY: check
check: .venv/ready ## lint, types, import rules, generated docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --python-version 3.10 schemas agents
	@$(BIN)/lint-imports
	@$(BIN)/python docs/generate.py --check

.PHONY: test
test: agent ## all tests, with real processes and real LAMMPS
	@$(BIN)/python -m pytest

.PHONY: simulate
simulate: .venv/ready ## the real daemon in virtual time; SEEDS=1000, or SEED=7 to replay one
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

.PHONY: clean
clean: ## remove what the targets made
	@rm -rf .venv build *.egg-info
