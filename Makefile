# The one vocabulary. `make help` lists it; continuous integration says the same words.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= banana
RUN ?= $(RECIPE)
ARGS ?=
IMAGES := localhost/remote-rewards
ENGINE ?= $(shell docker info >/dev/null 2>&1 && echo docker || command -v podman || echo docker)
COMPOSE ?= $(if $(findstring podman,$(ENGINE)),podman-compose,docker compose)
BUILD_ARGS ?=
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install format lint types unit integration e2e test coverage mutants check serve train report demo bench bench-engines bench-slo bench-step soak images up down audit sbom test-containers lock clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Make .venv and install everything, at the pinned versions

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (about 2 minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11 …")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[service,onnxruntime,openvino,trainer,dev]'
	@touch $@

format: install ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: install ## Check style, of the Docker files too
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@test ! -x $(BIN)/hadolint || $(BIN)/hadolint Dockerfile.reward Dockerfile.trainer
	@if $(COMPOSE) version >/dev/null 2>&1; then \
	   COMPOSE_PROFILES=monitoring $(COMPOSE) -f compose.yaml -f compose.gpu.yaml config >/dev/null; \
	 else echo "compose.yaml is not checked: there is no container engine"; fi

types: install ## Check types
	$(BIN)/mypy

unit: install ## Run the unit and contract tests
	$(BIN)/pytest tests/unit tests/contract

integration: install ## Run the tests against real services
	$(BIN)/pytest tests/integration

e2e: install ## Run the tests that train
	$(BIN)/pytest tests/e2e

test: install lint types ## Run everything that continuous integration runs
	$(BIN)/pytest --durations=15

coverage: install ## Run everything, and tell which lines and branches no test goes through
	$(BIN)/pytest --cov --cov-report=term-missing:skip-covered

check: lint types unit ## Run what is quick

serve: install ## Serve the package's rewards at port 8088; ARGS="--config my-rewards.yaml" serves yours
	$(BIN)/reward-service serve $(ARGS)

train: install ## Train RECIPE=banana against the service at REWARD_URL; ARGS="--output_dir …" adds flags
	$(BIN)/reward-trainer train --config $(RECIPE) $(ARGS)

report: install ## Write the report of RECIPE=banana anew
	$(BIN)/reward-trainer report runs/$(RECIPE)

demo: ## From nothing to two trained policies and their reports
	@$(MAKE) --no-print-directory install
	@$(BIN)/python scripts/demo.py

bench: install ## Compare the service with other serving stacks, installed beside it (about 30 minutes, nothing else running)
	$(BIN)/python -m bench.serving

bench-engines: install ## Measure each engine by itself, 8-bit integers too: speed and error
	$(BIN)/python -m bench.engines

bench-slo: install ## Measure latency, fairness under load, caching, replicas, errors, memory
	$(BIN)/python -m bench.slo

bench-step: install ## Measure what HTTP adds to a training step
	$(BIN)/python -m bench.train_step

soak: install ## Break the service in every way, in full (about 2 hours, nothing else running); the table is in docs/reliability.md
	$(BIN)/python -m tests.soak $(ARGS)
	REMOTE_REWARDS_SOAK=1 $(BIN)/pytest tests/e2e/test_interruptions.py tests/contract/test_openapi.py

images: ## Build both images, and the one that prepares models; BUILD_ARGS="--build-arg TORCH_INDEX_URL=…"
	$(ENGINE) build $(BUILD_ARGS) -f Dockerfile.reward --target prepare -t $(IMAGES)/prepare .
	$(ENGINE) build $(BUILD_ARGS) -f Dockerfile.reward -t $(IMAGES)/reward .
	$(ENGINE) build $(BUILD_ARGS) -f Dockerfile.trainer -t $(IMAGES)/trainer .
	$(ENGINE) images --format '{{.Repository}} {{.Size}}' | grep $(IMAGES)

secrets/reward_api_key:
	@mkdir -p -m 700 secrets
	@$(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(32))' > $@
	@chmod 644 $@  # the containers' user reads it; nobody else comes through the folder

up: secrets/reward_api_key ## Serve and train in containers; RECIPE=optimist RUN=second, ARGS="--scale reward=2"
	RECIPE=$(RECIPE) RUN=$(RUN) $(COMPOSE) up -d $(ARGS)
	@echo "the service: $$($(COMPOSE) port reward 8088), key in secrets/reward_api_key; the run: $(COMPOSE) logs -f trainer"

down: ## Stop the containers; volumes with models and runs stay
	$(COMPOSE) down

test-containers: install ## Build the images and try them out, where there is a container engine
	REMOTE_REWARDS_CONTAINERS=1 ENGINE="$(ENGINE)" COMPOSE="$(COMPOSE)" $(BIN)/pytest tests/containers

audit: install ## Look for known weaknesses in the locked packages
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --require-hashes --disable-pip -r locks/reward.txt
	$(BIN)/pip-audit --strict --require-hashes --disable-pip -r locks/trainer.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r locks/torch.txt

mutants: install ## Change queue, batcher and client in every small way, and tell which change no test notices
	$(BIN)/python -m pip install --quiet mutmut
	rm -rf mutants  # what it remembers of which test goes where is wrong once the code has changed
	$(BIN)/mutmut run $(ARGS)
	$(BIN)/mutmut results

sbom: install ## List what each image holds, as CycloneDX in dist/
	$(BIN)/python -m pip install --quiet cyclonedx-bom
	@mkdir -p dist
	cat locks/torch.txt locks/reward.txt | $(BIN)/cyclonedx-py requirements - -o dist/reward.cdx.json
	cat locks/torch.txt locks/trainer.txt | $(BIN)/cyclonedx-py requirements - -o dist/trainer.cdx.json

lock: install ## Pin the versions that are installed now, for the images with hashes
	$(BIN)/python -m pip install --quiet uv
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python scripts/lock.py

clean: ## Remove .venv, caches and runs/ with its trained policies; prepared models in the cache stay
	rm -rf $(VENV) runs dist mutants bench/.peers bench/.logs .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
