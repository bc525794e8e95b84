# make help
SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
RUNS ?= runs
WANDB ?= auto
CONSTRAINTS ?= constraints.txt
KILLS ?= 40
BIN := .venv/bin
READY := .venv/ready
PLAN_ONLY := $(filter-out 0 no false,$(DRY_RUN))
OLD := $(if $(filter-out 0 no false,$(KEEP)),--keep) $(if $(filter-out 0 no false,$(RETRAIN)),--retrain)

# `make ablation-losses alpha=0.99 seed=0,1` : everything that is not one of these is a setting for the suite.
OPTIONS := PYTHON CONSTRAINTS BIN READY PROFILE SEEDS LOOKS MINUTES TRIALS SWEEP WORKERS EXECUTOR SAMPLER PRUNER STORAGE RUNS OUT MARGIN WANDB ARTIFACTS KILLS DEVICE DRY_RUN KEEP RETRAIN WANDB_%
# A value goes to the shell in quotes as it was given, blanks, brackets, quotes and all.
quoted = '$(subst ','\'',$(value $(1)))'
NAMES := $(filter-out $(OPTIONS),$(foreach each,$(MAKEOVERRIDES),$(if $(findstring =,$(each)),$(firstword $(subst =, ,$(each))))))
SETTINGS := $(foreach each,$(NAMES),$(each)=$(call quoted,$(each)))
TRAINING := --wandb $(call quoted,WANDB) $(if $(WORKERS),--workers $(call quoted,WORKERS)) $(if $(EXECUTOR),--executor $(call quoted,EXECUTOR)) $(if $(TRIALS),--trials $(call quoted,TRIALS)) $(if $(SAMPLER),--sampler $(call quoted,SAMPLER)) $(if $(PRUNER),--pruner $(call quoted,PRUNER)) $(if $(PLAN_ONLY),--dry-run) $(if $(filter-out 0 no false,$(ARTIFACTS)),--artifacts) $(OLD)
AUTO := $(filter auto,$(SEEDS))
ONE_SWEEP = $(if $(AUTO),$(error SEEDS=auto is for one sweep: make ablation-NAME SEEDS=auto))
EQUAL := $(if $(MARGIN),--margin $(call quoted,MARGIN))
LOOKING := $(if $(LOOKS),--looks $(call quoted,LOOKS)) $(if $(MINUTES),--minutes $(call quoted,MINUTES)) $(EQUAL)
PLACE := $(if $(OUT),--out $(call quoted,OUT)) $(EQUAL)
REPORTING := $(PLACE) $(if $(filter online offline,$(WANDB)),--wandb $(WANDB))
# In the environment, so that no sign of a password needs quoting and no other user sees it in a list of processes.
ifdef STORAGE
export SEMINAR_STORAGE := $(value STORAGE)
endif
GIVEN := $(if $(PROFILE),profile=$(call quoted,PROFILE)) $(SETTINGS) --runs $(call quoted,RUNS) $(if $(AUTO),,$(if $(SEEDS),--seeds $(call quoted,SEEDS)))

.PHONY: help setup paper agent report status test test-all drill bench gpu-check lint types

help: ## Show this list
	@echo "make TARGET [PROFILE=creatures] [SEEDS=4|auto] [LOOKS=2,4,8,16] [MINUTES=60] [TRIALS=24] [WORKERS=2] [EXECUTOR=local] [SAMPLER=tpe] [PRUNER=none] [STORAGE=URL] [RUNS=runs] [OUT=reports/PROFILE] [MARGIN=1] [WANDB=auto] [ARTIFACTS=1] [name=value ...]"
	@echo
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22
	@echo
	@echo "Sweeps (sweeps/NAME.yaml; make ablation-NAME or make sweep-NAME):"
	@for file in sweeps/*.yaml; do \
	  printf '  %-19s %s\n' "$$(basename $$file .yaml)" "$$(sed -n 's/^description: //p' $$file)"; done
	@echo "Profiles: $$(ls seminar/profiles | sed 's/\.yaml//' | tr '\n' ' ')"
	@echo "KEEP=1 takes trainings that another version of a loss, data set or network has made; RETRAIN=1 trains them again."
	@echo "WANDB=online (or offline) sends the report to W&B as well, ARTIFACTS=1 the weights; WANDB=disabled turns it off."
	@echo "DRY_RUN=1 shows the plan and its cost, and trains nothing."

setup: $(READY) ## Create .venv and install everything (done by the other targets when needed)

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "Python 3.11 to 3.13 is needed; name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "setting up .venv (several GB with torch; once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint $(CONSTRAINTS)
	@touch $(READY)

ablation-%: $(READY) ## Train every cell of sweeps/%.yaml, then write and print its report
ifdef AUTO
	@status=0; \
	$(BIN)/python -m analysis.auto sweeps/$*.yaml $(GIVEN) $(LOOKING) -- $(TRAINING) || status=$$?; \
	$(if $(PLAN_ONLY),,test $$status -gt 1 || $(BIN)/python -m analysis sweeps/$*.yaml $(GIVEN) $(REPORTING) || status=$$?;) \
	exit $$status
else
	@$(BIN)/seminar sweep sweeps/$*.yaml $(GIVEN) $(TRAINING) --report $(PLACE)
endif

sweep-%: ablation-% ## The same, by its other name
	@true

paper: $(READY) ## Everything: all sweeps in one plan, then every table and figure (index.html)
	@$(ONE_SWEEP)$(BIN)/seminar sweep $(sort $(wildcard sweeps/*.yaml)) $(GIVEN) $(TRAINING) --report $(PLACE)

wandb-%: $(READY) ## Start a W&B sweep of sweeps/%.yaml with these settings, for `make agent`
	@$(ONE_SWEEP)mkdir -p $(call quoted,RUNS)
	@$(BIN)/seminar sweep sweeps/$*.yaml $(GIVEN) $(if $(TRIALS),--trials $(call quoted,TRIALS)) --save-as $(call quoted,RUNS)/wandb-$*.yaml
	@$(if $(PLAN_ONLY),,$(BIN)/wandb sweep $(call quoted,RUNS)/wandb-$*.yaml)

agent: $(READY) ## Work for a W&B sweep: make agent SWEEP=ENTITY/PROJECT/ID (see make wandb-losses)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/wandb agent --forward-signals $(SWEEP)

report: $(READY) ## Rebuild tables and figures from the records; trains nothing
	@$(BIN)/python -m analysis $(GIVEN) $(REPORTING)

status: $(READY) ## Show every training in RUNS
	@$(BIN)/seminar status --runs $(call quoted,RUNS)

test: $(READY) ## Run the quick tests, in a few minutes
	@$(BIN)/python -m pytest -n 2 -m 'not slow'

test-all: test ## Run all tests: the quick ones, then those that start processes and servers
	@$(BIN)/python -m pytest -n 2 -m slow

drill: $(READY) ## Kill workers, agents and sweeps KILLS times, finish, and compare with an undisturbed run
	@$(BIN)/python -m tests.drill --kills $(KILLS)

bench: $(READY) ## Measure speed and its growth: tables, JSON and a figure in reports/bench-local (DEVICE=cuda on a GPU)
	@$(BIN)/python -m tests.bench $(if $(DEVICE),--device $(DEVICE))

gpu-check: $(READY) ## Prove the suite on this CUDA card in ten minutes: table and JSON in reports/bench-local
	@$(BIN)/python -m tests.gpu_check

lint: $(READY) ## Check style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(READY) ## Check types
	@$(BIN)/mypy
