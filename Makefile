# make demo: prune, fine-tune, compile and measure a network on real data; writes demo/report.html
# make test: ruff, mypy and all tests
# Each creates what it needs: a virtual environment in .venv with the versions of constraints.txt.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test clean

demo: $(VENV)/.demo
	$(BIN)/flexgroup demo --out demo --force

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[demo,bench]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[demo,bench,data,train,transformers,lightning,test,lint,gpu]' pocl-binary-distribution
	touch $@

clean:
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
