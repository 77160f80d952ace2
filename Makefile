# Everything a visitor needs: `make demo` shows what it does, `make test` checks that it does it.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test quick lint types check zoo clean

demo: $(READY)
	$(BIN)/secateur demo

test: lint types check

# What is quick, without benchmarks, pages and other people's trainers: while working on the code.
quick: $(READY)
	$(BIN)/pytest -n 2 -m "not slow" tests --ignore=tests/benchmarks --ignore=tests/docs --ignore=tests/integrations

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/basedpyright

check: $(READY)
	$(BIN)/pytest -n 2

$(READY): pyproject.toml setup.py $(wildcard src/secateur/kernels/_*.[ch]) constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Shrinks 127 architectures and writes docs/zoo.md; finished ones are skipped.
zoo: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[zoo]'
	PYTHONPATH=benchmarks $(BIN)/python -m zoo

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache
