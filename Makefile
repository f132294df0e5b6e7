# Every target sets up what it needs in .venv and build/; `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
SEEDS ?= 1000
C_CODES := build/codes/heat
C_LIBRARIES := hdf5 jansson libpng
C_PACKAGES := gcc libc6-dev make pkgconf libhdf5-dev libjansson-dev libpng-dev

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1 \t/p' Makefile | expand -t 18

.venv/ready: setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jobd needs Python 3.11 or newer")'
	@$(PYTHON) -m venv .venv || { echo 'python3-venv is missing: apt-get install python3-venv' >&2; exit 1; }
	@echo 'installing into .venv ...'
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[codes,dev]'
	@touch $@

.PHONY: agent
agent: .venv/ready ## build the agent, build/jobd-agent.pyz
	@$(BIN)/python deploy/build_agent.py

.PHONY: codes
codes: .venv/ready ## build the codes written in C, and put them into .venv/bin
	@mkdir -p build
	@if ! { command -v cc && pkg-config --exists $(C_LIBRARIES); } > /dev/null 2>&1; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    echo 'installing $(C_PACKAGES) ...'; \
	    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $(C_PACKAGES); } \
	      > build/apt.log 2>&1 || { tail -n 5 build/apt.log >&2; exit 1; }; \
	  else echo 'a C compiler or a library is missing: apt-get install $(C_PACKAGES)' >&2; exit 1; fi; fi
	@$(MAKE) -s -C deploy/codes/heat OUT=$(CURDIR)/$(C_CODES)
	@install $(C_CODES)/heat $(C_CODES)/heat-worker $(BIN)

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
test: agent codes ## all tests, with real processes and real codes
	@$(BIN)/python -m pytest

.PHONY: simulate
simulate: .venv/ready ## the real daemon in virtual time; SEEDS=1000, or SEED=7 to replay one
	@$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

.PHONY: bench
bench: agent ## measure speed and memory beside baselines: a table, and build/bench.json (5 minutes, on a quiet machine)
	@$(BIN)/python -m tests.bench

.PHONY: soak
soak: agent codes ## the long tests: 10,000 seeds, many requests from the API's own document, a canary under attack
	@$(BIN)/python -m tests.simulation --seeds 10000
	@JOBD_SOAK=1 $(BIN)/python -m pytest -s --timeout 1800 tests/real/test_openapi.py tests/adversary/test_floods.py

.PHONY: testbed
testbed: codes ## start a Docker engine of our own in build/testbed, with images of the codes; the tests do so themselves
	@deploy/testbed/engine.sh install
	@deploy/testbed/engine.sh up
	@deploy/testbed/images.sh build
	@deploy/testbed/engine.sh status

.PHONY: testbed-down
testbed-down: ## stop it
	@deploy/testbed/engine.sh down

.PHONY: clean
clean: ## remove what the targets made
	@rm -rf .venv build *.egg-info
