# Everything on a fresh machine with Python 3.10-3.13 and a C compiler: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/test-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: $(VENV)/installed
	mkdir -p build
	$(BIN)/optc models/fashion_cnn.onnx -o build/fashion_cnn.optc
	$(BIN)/optc verify build/fashion_cnn.optc models/fashion_cnn.onnx --data models/fashion_test_64.npz
	$(BIN)/optc bench build/fashion_cnn.optc models/fashion_cnn.onnx --vs onnxruntime --threads 1,2

test: $(VENV)/test-installed
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/test-installed
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf $(VENV) build
