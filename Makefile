# `make demo` and `make test` set up everything they need in .venv.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup tools demo test gpu-test check clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or 3.12 is needed and neither was found; set PYTHON=/path/to/python3.12"; exit 2; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version): a few minutes and several GB the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[builder,server,dev]'
	@# Not in site-packages, where they would pass for TensorRT.
	rm -rf $(VENV)/stubs
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/stubs --constraint constraints.txt tensorrt-stubs
	@touch $(READY)

# NVIDIA's perf_analyzer, into .venv/tools, where there is none yet.
tools: $(READY)
	$(BIN)/python -m benchmarks.perf_tools

demo: $(READY)
	$(BIN)/python examples/shapes/demo.py

test: $(READY)
	@# Without a network its tests are skipped, with this reason.
	@$(BIN)/python -m benchmarks.perf_tools || true
	$(BIN)/python -m pytest

# What needs a GPU, with a report in benchmarks/reports; without a GPU each of these tests is named as not run.
gpu-test: $(READY)
	$(BIN)/python -m benchmarks.gpu_report

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/typing/tensorrt_stubs.py $(VENV)/stubs

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache *.egg-info
