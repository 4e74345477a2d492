# `make` lists the targets. Each makes .venv by itself when it is missing or older than requirements.txt.
# The stages call `python`: .venv comes first on PATH, absolutely, so that it is also found from DVC's temporary copies.

PYTHON ?= python3
VENV   := $(CURDIR)/.venv
STAMP  := $(VENV)/.installed
export PATH := $(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1

.DEFAULT_GOAL := help
.PHONY: help install check demo repro parallel verify pin clean-checkpoints remote push fsck submission table readme test faults lint format

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

install: $(STAMP) ## Make .venv and install requirements.txt into it

$(STAMP): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python %d.%d found, 3.11 or newer needed: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

check: $(STAMP) ## Check params.yaml, catalog.yaml and published.yaml
	@python -m stages.check

# `-S` settings and not a second params file: the demo is the same pipeline as a DVC experiment, run in a temporary copy.
# Smaller batches and fewer epochs than SST-2's, for minutes on two cores; chosen on 320 sentences held out of train.
DEMO := -S dataset=pocket -S 'models=[minilm]' -S 'seeds=[1,2]' -S finetune.batch_size=16 -S finetune.epochs=1 \
        -S finetune.warmup_steps=10 -S finetune.log_every=5 -S overrides.minilm.learning_rate=2e-4 -S benchmark.passes=1

demo: $(STAMP) ## The whole pipeline on the embedded corpus: no GPU, no Hub, minutes; the workspace stays as it is
	@git rev-parse --quiet --verify HEAD >/dev/null || { echo "error: make demo needs a git clone: it runs a DVC experiment" >&2; exit 1; }
	@dvc exp remove --quiet demo 2>/dev/null || true
	dvc exp run --temp --name demo $(DEMO)
	@rm -rf demo && dvc get --quiet . report --rev demo -o demo
	@cat demo/comparison.md
	@echo "report: demo/comparison.md, demo/report.html, demo/slides.html (and .pt-BR.html)      compare with other experiments: dvc exp show"

repro: check ## The real experiment: what is not up to date, with a GPU if there is one
	dvc --wait-for-lock repro

# How many at a time, here and in the tests.
JOBS ?= 2

# What the trainings share, then the trainings side by side, then the rest. Each takes a GPU of its
# own and waits for a free one. Without a LAUNCHER each gets its share of the cores that this process
# may use; with one, what the scheduler gives it. A run that fails (DVC says 255, at which xargs would
# start no other) does not keep the others from being trained.
define CORES_EACH
import os
cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
print(max(1, len(cores) // $(JOBS)))
endef
export CORES_EACH

parallel: check ## Train JOBS runs at a time: make parallel JOBS=2 (docs/cluster.md: on a cluster)
	@test "$(JOBS)" -gt 0 2>/dev/null \
	  || { echo "error: JOBS=$(JOBS) is not a number of runs, 1 or more" >&2; exit 1; }
	dvc --wait-for-lock repro download_dataset download_tokenizer download_weights tokenize
	@test -n "$$LAUNCHER" || export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$(python -c "$$CORES_EACH")}; \
	  dvc stage list --name-only | grep '^finetune@' \
	  | xargs -P $(JOBS) -I{} sh -c 'dvc --wait-for-lock repro -s {} || exit 1' \
	  || { echo "error: not all trainings ended (see above); the same command goes on with them" >&2; \
	       exit 1; }
	dvc --wait-for-lock repro

verify: $(STAMP) ## Run a stage again elsewhere and compare it with dvc.lock: make verify STAGE=tokenize@minilm
	@python -m tools.verify $(or $(STAGE),$(error say which stage: make verify STAGE=tokenize@minilm (dvc stage list shows them)))

pin: $(STAMP) ## Download a new entry of catalog.yaml once and write its bytes and sha256: make pin DATASET=rte (or MODEL=small)
	@python -m tools.pin $(if $(MODEL),--model '$(MODEL)',--dataset '$(or $(DATASET),$(error say which entry of catalog.yaml: make pin DATASET=rte, or make pin MODEL=small))')

clean-checkpoints: $(STAMP) ## Say what killed trainings left on the disk, ask, delete it (YES=1: do not ask)
	@python -m tools.clean_checkpoints $(if $(YES),--yes)

remote: $(STAMP) ## Make a directory or URL the DVC remote of this clone: make remote URL=s3://bucket/folder
	@python -m tools.remotes set '$(or $(URL),$(error say where: make remote URL=/a/directory, or s3://..., ssh://..., https://...))'

push: $(STAMP) ## Push all results to the remote, with what a restore needs
	@python -m tools.remotes push

fsck: $(STAMP) ## Hash everything in DVC's cache and name what is damaged (REMOTE=1: in the remote; DELETE=1: delete it)
	@python -m tools.remotes fsck $(if $(REMOTE),--remote) $(if $(DELETE),--delete)

# DVC's own table of these columns is 137 characters wide: the names are shortened.
KEEP ?= .*median|params.yaml:dataset|finetune.epochs
define SHORTEN
import pandas, sys
table = pandas.read_csv(sys.stdin, dtype=str, keep_default_na=False).replace("", "-")
print(table.rename(columns=lambda name: name.removeprefix("models.").removesuffix(".median").split(":")[-1]).to_string(index=False))
endef
export SHORTEN

table: $(STAMP) ## The experiments side by side: make table KEEP='.*median|finetune.batch_size'
	@shown=$$(dvc exp show --csv --hide-workspace --drop '.*' --keep 'rev|Experiment|$(KEEP)') && echo "$$shown" | python -c "$$SHORTEN"

submission: $(STAMP) ## Predict the hidden test set in the form that GLUE's server takes: make submission MODEL=minilm
	@python -m tools.submission --model $(or $(MODEL),$(error say which model: make submission MODEL=minilm))

readme: $(STAMP) ## Write the measured numbers of README.md and README.pt-BR.md anew
	@python -m reproduce.readme

# A file's tests share what they made, so one worker runs them; files in the order that tests/conftest.py gives them, long ones early.
PYTEST := python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: $(STAMP) ## The tests: no network, no Hub, no GPU
	$(PYTEST)

faults: $(STAMP) ## Break everything again and write down what happened: docs/faults.md
	records=$$(mktemp) && FAULT_RECORD=$$records $(PYTEST) --faults $$(grep -l '^from faults import' tests/test_*.py) \
	  && python tests/fault_table.py $$records > docs/faults.md; ended=$$?; rm -f $$records; exit $$ended

lint: $(STAMP) ## ruff (style, likely bugs) and mypy (types)
	ruff check .
	ruff format --check .
	mypy

format: $(STAMP) ## Let ruff format the code
	ruff check --fix .
	ruff format .
