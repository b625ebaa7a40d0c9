# The commands of this project. Set-up is plain pip and venv: `make quickstart` on a fresh machine.
PYTHON ?= python3
PY := .venv/bin/python
export PROMPT
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help quickstart rlhf overoptimise setup test test-slow test-whole faults test-gpu gpu-check test-engines test-clients ablations pictures lint format chat web serve tensorboard lock clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

quickstart: setup ## set up, then train a tiny GPT-2 on the embedded corpus: offline, CPU, minutes
	HF_HUB_OFFLINE=1 $(PY) -m src.train experiment=quickstart

rlhf: setup      ## after quickstart: InstructGPT's steps, and what each gains by a known taste: offline, CPU, minutes
	HF_HUB_OFFLINE=1 $(PY) -m src.rlhf

overoptimise: setup ## what goes wrong without KL: the reward rises while true quality falls
	HF_HUB_OFFLINE=1 $(PY) -m src.rlhf pipeline=overoptimise

test: setup      ## the test suite: minutes, no network
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist worksteal

test-slow: setup ## the tests of seconds to minutes: whole trainings, several processes, faults
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -m "slow and not whole" -n auto --dist loadfile

test-whole: setup ## whole sweeps, searches and pipelines that are killed, an installed wheel, the benchmark, TensorBoard in a browser, siblings of slow tests: half an hour at least
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -m whole -n auto --dist loadfile

faults: setup    ## the fault suite whole: kills, full disks, damage, signals; hours on few cores (test-slow runs a part)
	FAULTS=full HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(PY) -m pytest -m slow -n auto --dist loadfile --timeout=7200 tests/faults

test-gpu: setup  ## the tests that need a CUDA device
	HF_HUB_OFFLINE=1 $(PY) -m pytest -m gpu

gpu-check: setup ## with a CUDA card: tests, quickstart and speeds, in a quarter of an hour; ROWS=rows.jsonl TOKENIZER=FOLDER for real rows
	.ci/gpu-check

test-engines: setup ## compile llama.cpp (minutes; a C++ compiler and cmake), ask it what we ask ours
	CMAKE_ARGS=-DLLAVA_BUILD=OFF $(PY) -m pip install --quiet --disable-pip-version-check --editable '.[engines]'
	HF_HUB_OFFLINE=1 $(PY) -m pytest -m engines

test-clients: setup ## install the client libraries that people have into .clients (pip; npm where node is), let them ask our server
	test -x .clients/python/bin/python || $(PYTHON) -m venv .clients/python
	.clients/python/bin/python -m pip install --quiet --disable-pip-version-check openai litellm langchain-openai llm huggingface_hub
	test -x .clients/llama-index/bin/python || $(PYTHON) -m venv .clients/llama-index
	.clients/llama-index/bin/python -m pip install --quiet --disable-pip-version-check llama-index-llms-openai-like
	if command -v npm; then mkdir -p .clients/node && npm install --prefix .clients/node --silent --no-fund --no-audit openai ai @ai-sdk/openai-compatible; fi
	$(PY) -m pytest -m clients

# Of the first 1,200 rows. Started again after a kill it goes on: each sweep where it stood.
ABLATIONS := outputs/ablations
ABLATED := data=file data.path=$(ABLATIONS)/rows.jsonl
SWEEP = $(PY) -m src.train -m $(if $(wildcard $(ABLATIONS)/$(1)/multirun.yaml),resume=$(ABLATIONS)/$(1),$(2) $(ABLATED) hydra.sweep.dir=$(ABLATIONS)/$(1))
ablations: setup ## what each part brings, three seeds each: 45 runs, 20 minutes of a core; ROWS=alpaca.jsonl.gz
	mkdir -p $(ABLATIONS)
	test -s $(ABLATIONS)/rows.jsonl || gzip -cdf "$(ROWS)" | head -n 1200 > $(ABLATIONS)/rows.jsonl
	$(call SWEEP,single,sweep=ablations)
	$(call SWEEP,grid,experiment=ablations/base sweep=ablations_lr_batch_size)
	rm -rf $(ABLATIONS)/evaluation
	$(PY) -m src.evaluate model_path=$$(ls -dv $(ABLATIONS)/single/*/model $(ABLATIONS)/grid/*/model | paste -sd,) $(ABLATED) data.validation_fraction=0.05 data.test_fraction=0.3 num_replies=0 output=$(ABLATIONS)/evaluation
	GPT2_CHAT_ABLATIONS=$(ABLATIONS)/evaluation/results.json .venv/bin/jupyter execute notebooks/04_ablations.ipynb

pictures: setup  ## the pictures of the pages anew, of the newest quickstart: minutes, Chromium; or some: PICTURES="page sweep"
	HF_HUB_OFFLINE=1 PYTHONPATH=. $(PY) .assets/pictures.py $(PICTURES)

lint: setup      ## format, lint and types, check only
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

format: setup    ## format and mend what can be mended
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

chat: setup      ## talk to the newest model; for one answer: make chat PROMPT="Who are you?"
	@$(PY) -m src.chat $(if $(PROMPT),prompt="$$PROMPT")

web: setup       ## a page to talk to the newest model, at http://localhost:7860
	@$(PY) -m src.web

serve: setup     ## an OpenAI-compatible API of the newest model, at http://localhost:8000/v1
	@$(PY) -m src.serve

tensorboard: setup ## the curves of all runs, at http://localhost:6006/#custom_scalars&_smoothingWeight=0
	$(PY) -m tensorboard.main --logdir outputs/train --load_fast=false

setup: .venv/installed

# Exactly the locked versions; `pip check` refuses a lock that contradicts pyproject.toml.
.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "gpt2-chat needs Python 3.11 or 3.12; this is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(PY) -m pip check
	touch $@

lock:            ## write requirements.lock anew from pyproject.toml's ranges
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0 setuptools --editable '.[dev,peers,lora,web,gguf,sentencepiece,eval,sweep]'
	.venv-lock/bin/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/+cpu$$//' > requirements.lock
	rm -rf .venv-lock

clean:           ## remove the environment; runs in outputs/ stay
	rm -rf .venv .clients .pytest_cache .ruff_cache .mypy_cache
