# make demo: the whole pipeline on configs/local.yaml. make test: everything that is checked before a change is in.
# make fuzz: 100,000 plans, states and frames from a hostile model (FUZZ=N for another number), half an hour on one core.
# All set up .venv first. PYTHON chooses the interpreter (3.11 to 3.13), EXTRA the kind of installation (cpu or gpu).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Without the bytecode cache every process of a run compiles its imports again, minutes in all.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(firstword $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p; done) python3)
EXTRA ?= cpu
BIN := .venv/bin
STAMP := .venv/.installed-$(EXTRA)
PINS := constraints/$(EXTRA).txt constraints/overrides.txt
INSTALL := pip install --python $(BIN)/python -c constraints/$(EXTRA).txt --overrides constraints/overrides.txt \
	-e ".[$(EXTRA),dev]"

.PHONY: help demo test fuzz lint types directions .venv clean

help:
	@grep -E '^# make' Makefile

demo: $(STAMP)
	$(BIN)/agentmill run configs/local.yaml

# Every check is made even where one fails; pytest comes last, so that its closing line ends the output.
test: $(STAMP)
	@status=0; \
	for check in lint types directions; do $(MAKE) --no-print-directory $$check || status=1; done; \
	$(BIN)/python -m pytest || status=$$?; \
	exit $$status

FUZZ ?= 100000
fuzz: $(STAMP)
	AGENTMILL_FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/unit/test_fuzz_plans.py tests/unit/test_fuzz_frames.py --timeout=0

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

directions: $(STAMP)
	$(BIN)/lint-imports

.venv: $(STAMP)

# uv does not read pip's configuration: where pip is told of a folder of wheels, uv is told of it too and finds the CPU
# build of torch there; elsewhere uv takes that build from torch's own index.
$(STAMP): pyproject.toml $(PINS)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
		"agentmill needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is %d.%d; call make with PYTHON=python3.12" % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip --upgrade >/dev/null
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet -c constraints/$(EXTRA).txt uv
	@if [ "$(EXTRA)" != cpu ]; then \
		$(BIN)/uv $(INSTALL); \
	elif [ -n "$${PIP_FIND_LINKS:-}" ]; then \
		UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv $(INSTALL); \
	else \
		$(BIN)/uv $(INSTALL) --torch-backend=cpu; \
	fi
	@rm -f .venv/.installed-* && touch $@

clean:
	rm -rf .venv build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
