# `make` lists the targets. Each first makes .venv, or makes it anew when the requirements changed.
# Only relative paths in targets and prerequisites: make splits them at blanks, and so would a
# clone in a folder with a blank in its name. The stages call `python`: .venv comes first on PATH,
# absolutely, so that it is also found from DVC's temporary copies.

PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

# What is written behind a target, `make verify STAGE=...`, is handed over in the environment, as it
# is: pasted into a command, blanks, quotes and dollars in it would become part of the command.
# Variables of the same names that the environment happens to have are not meant.
from_user = $(filter command,$(origin $(1)))
GIVEN := CUDA DATASET DELETE FRESH KEEP MODEL REMOTE STAGE URL YES
$(foreach name,$(GIVEN),$(if $(call from_user,$(name)),\
  $(eval override $(name) := $$(value $(name))),$(eval override $(name) :=))$(eval export $(name)))

.DEFAULT_GOAL := help
.PHONY: help install environment constraints check demo repro parallel reference verify pin \
        clean-checkpoints clean-experiments remote push fsck submission table \
        test test-all test-gpu lint format

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort \
	  | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

install: ## Make .venv for this machine's GPU driver (CUDA=cpu, 12.6, 12.9, 13.0: choose; FRESH=1)
	@$(PYTHON) tools/install.py --cuda "$$CUDA" $(if $(filter 1,$(FRESH)),--fresh)

environment:
	@$(PYTHON) tools/install.py --keep --cuda "$$CUDA"

constraints: environment ## Pin anew all that requirements.txt brings along: constraints.txt
	@python tools/install.py --constraints

check: environment ## Check params.yaml, catalog.yaml and published.yaml
	@python -m stages.check

# Settings and no second params file: the demo is the same pipeline, as an experiment. Smaller
# batches and fewer epochs than SST-2's, chosen on 320 sentences held out of train.
DEMO := -S dataset=pocket -S 'models=[minilm]' -S 'seeds=[1,2]' -S finetune.batch_size=16 \
        -S finetune.epochs=1 -S finetune.warmup_steps=10 -S finetune.log_every=5 \
        -S overrides.minilm.learning_rate=2e-4 -S benchmark.passes=3 -S benchmark.sentences=30

demo: environment ## The pipeline on a small corpus: no GPU, no Hub; the workspace stays as it is
	@python -m tools.experiments demo $(DEMO)

repro: check ## The real experiment: what is not up to date, with a GPU if there is one
	dvc --wait-for-lock repro

# How many at a time, here and in the tests.
JOBS ?= 2
export JOBS

# What the trainings share, then the trainings side by side, then the rest. Each takes a GPU of its
# own and waits for a free one. Without a LAUNCHER each gets its share of the cores that this
# process may use; with one, what the scheduler gives it. A run that fails (DVC says 255, at which
# xargs would start no other) does not keep the others from being trained.
parallel: check ## Train JOBS runs at a time: make parallel JOBS=2 (docs/cluster.md: on a cluster)
	@test "$$JOBS" -gt 0 2>/dev/null \
	  || { echo "error: JOBS=$$JOBS is not a number of runs, 1 or more" >&2; exit 1; }
	dvc --wait-for-lock repro download_dataset download_tokenizer download_weights tokenize
	@cores=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN); each=$$((cores / JOBS)); \
	  test -n "$$LAUNCHER" || export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$((each ? each : 1))}; \
	  dvc stage list --name-only | grep '^finetune@' \
	  | xargs -P "$$JOBS" -I{} sh -c 'dvc --wait-for-lock repro -s {} || exit 1' \
	  || { echo "error: not all trainings ended (see above); the same command goes on with them" >&2; \
	       exit 1; }
	dvc --wait-for-lock repro

reference: environment ## Evaluate the authors' own checkpoint: does our count equal theirs?
	dvc --wait-for-lock repro reference/dvc.yaml

verify: environment ## Run a stage again elsewhere, compare with dvc.lock: make verify STAGE=compare
	@python -m tools.verify -- "$$STAGE"

pin: environment ## Write the pins of a new entry of catalog.yaml: make pin DATASET=rte (MODEL=...)
	@python -m tools.pin $(if $(MODEL),--model="$$MODEL",--dataset="$$DATASET")

clean-checkpoints: environment ## Say what killed trainings left, ask, delete it (YES=1: do not ask)
	@python -m tools.clean_checkpoints $(if $(filter 1,$(YES)),--yes)

clean-experiments: environment ## The same for killed `dvc exp run --temp` and `make demo`
	@python -m tools.experiments clean $(if $(filter 1,$(YES)),--yes)

remote: environment ## Set this clone's DVC remote: make remote URL=s3://bucket/folder (or a folder)
	@python -m tools.remotes set -- "$$URL"

push: environment ## Push all results to the remote, with what a restore needs
	@python -m tools.remotes push

fsck: environment ## Hash DVC's cache, name what is damaged (REMOTE=1: the remote's; DELETE=1)
	@python -m tools.fsck $(if $(filter 1,$(REMOTE)),--remote) $(if $(filter 1,$(DELETE)),--delete)

table: environment ## The experiments side by side: make table KEEP='minilm|finetune.batch_size'
	@python -m tools.experiments table $(if $(KEEP),--keep="$$KEEP")

submission: environment ## Predict the test set for GLUE's server: make submission MODEL=bert
	@python -m tools.submission --model="$$MODEL"

# A file's tests share what they made, so one worker runs them.
PYTEST := python -m pytest -n "$$JOBS" --dist loadfile --no-loadscope-reorder

test: environment ## The tests but for the slow ones: no network, no Hub, no GPU
	$(PYTEST) -m "not slow"

test-all: environment ## All tests
	$(PYTEST)

test-gpu: environment ## The tests of a GPU, on a machine that has one; the other tests see none
	$(PYTEST) -m gpu

lint: environment ## Style and likely bugs (ruff), types (mypy), the pages' numbers (cog)
	ruff check .
	ruff format --check .
	mypy
	cog -I . --check README.md README.pt-BR.md docs/error_rates.md

format: environment ## Let ruff format the code, and cog fill in the pages
	ruff check --fix .
	ruff format .
	cog -I . -r README.md README.pt-BR.md docs/error_rates.md
