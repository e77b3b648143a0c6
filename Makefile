PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CODE := unimp modeling_unimp processing training spaces_demo examples tests benchmarks setup.py

.PHONY: quickstart test quality style

# Made once, and again whenever what it is made from changes. torch comes first: asked for by another package alone, it
# would be the newest build there is.
$(VENV)/.installed: requirements.txt setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

quickstart: $(VENV)/.installed
	$(BIN)/unimp quickstart --output_dir outputs/quickstart

# In two processes, as each test has one thread; a file's tests stay together.
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile

quality: $(VENV)/.installed
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

style: $(VENV)/.installed
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)
