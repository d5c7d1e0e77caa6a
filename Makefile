# Each target is what a person could type. The virtual environment is made anew when a requirements file changes.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-fast lint bench clean

demo: .venv/report
	PATH="$(CURDIR)/$(BIN):$$PATH" bash recipes/demo.sh

test: .venv/dev
	$(BIN)/python -m pytest -n auto --dist worksteal

test-fast: .venv/dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: .venv/run
	$(BIN)/python benchmarks/bench.py $(if $(QUICK),--quick)

.venv/run: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c "import torch" 2> /dev/null || echo "Installing PyTorch and the rest into .venv: about 4 minutes and 6 GB, and pip says nothing until it is done."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/report: requirements-report.txt .venv/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-report.txt
	touch $@

.venv/dev: requirements-dev.txt requirements-report.txt .venv/run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv runs
