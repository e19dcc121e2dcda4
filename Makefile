# make setup: .venv from the lock.  make mini: the whole method in miniature.  make test: lint and all tests.
# make base: the base checkpoint of the miniature again.  make bench: our speed against TRL and transformers.
# make gpu: what an accelerator makes of it, in under ten minutes; without one, at tiny size, it tries itself.
# make lowest, make newest: the quick tests with the lowest and the newest versions that pyproject.toml allows.
# make faults: kill, stop and starve every stage at random moments, and count what is lost (nothing).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 1

.PHONY: setup mini test lint base bench gpu faults lowest newest clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# One rounding on every x86 processor: two threads, and kernels that all of them have; no slower at this size.
mini: export OMP_NUM_THREADS = 2
ifeq ($(shell uname -m),x86_64)
mini: export ATEN_CPU_CAPABILITY = avx2
mini: export ONEDNN_MAX_CPU_ISA = AVX2
mini: export MKL_CBWR = AVX2
endif
mini: setup
	$(BIN)/rationale experiment=mini trainer=cpu seed=$(SEED)
	@$(BIN)/python -m rationale.reporting runs/mini/report

base: setup
	$(BIN)/rationale --config-dir experiments/mini_base/conf experiment=mini_base

bench: setup
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	for name in dpo_vs_trl sft_vs_trl score_candidates sample_vs_generate utilisation growth; do \
	  $(BIN)/python experiments/speed/$$name.py --json experiments/speed/$$name.json || exit 1; done
	$(BIN)/python experiments/speed/summary.py

# With the packages of the machine's own Python where there is no .venv: it may have no network.
gpu:
	$(firstword $(wildcard $(BIN)/python) $(PYTHON)) experiments/gpu/run.py

faults: setup
	$(BIN)/python experiments/faults/campaign.py --json experiments/faults/counts.json

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Two processes, each taking the next file when it is free, so that what a file shares is made once.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --requirement requirements.lowest
	.venv-lowest/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -m "not slow"

newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[dev,sweeps,qlora]' 'hydra-core>=1.4.0rc1'
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -m "not slow"

clean:
	rm -rf runs .pytest_cache .ruff_cache .hypothesis
