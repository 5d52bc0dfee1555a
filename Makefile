# Everything runs from its own virtual environment, on the CPU: make demo, make test, make lint.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# The arguments of pip that bring PyTorch. Where the plain name brings a CUDA build and that is not wanted, give the CPU
# build's: make TORCH="torch==2.13.0 --index-url ADDRESS"
TORCH ?= torch==2.13.0
# Idle worker threads of PyTorch would otherwise spin and slow whatever runs beside them.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup demo test lint bench clean
.DELETE_ON_ERROR:

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml anycost/_version.py
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed: install Python 3.11 or later, or run make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing packages (PyTorch for the CPU, ONNX Runtime, OpenVINO) into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@# TensorRT's types. Its libraries, which they ask for, cannot be installed everywhere.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps "tensorrt-stubs>=10.13,<12"
	@touch $@

demo: setup
	@$(BIN)/python -m anycost.demo --output demo

# On all processors, a file of tests at a time: what a file's tests share is made once.
test: setup
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# mypy reads the folders as the installed package names them.
lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@rm -rf $(VENV)/typing && mkdir -p $(VENV)/typing && cp -r anycost $(VENV)/typing/anycost
	@for folder in networks weights kernels export runtime editing benchmarks; do cp -r $$folder $(VENV)/typing/anycost/$$folder; done
	@cd $(VENV)/typing && MYPYPATH=. ../bin/mypy --config-file ../../pyproject.toml -p anycost

bench: setup
	@$(BIN)/python -m benchmarks.latency --output benchmarks/results

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache
