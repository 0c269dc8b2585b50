# Everything sets itself up in .venv with pip; a second call starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := $(VENV)-oldest
ARGS ?=

.PHONY: demo test test-oldest coverage test-browser test-pretended test-slow test-fuzz test-perf check docs dist full-size-check gpu-check format model clean

demo: $(READY)
	@$(BIN)/coinage demo $(ARGS)

test: $(READY)
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# The same tests, without those of the page and the documentation, with the oldest versions that
# pyproject.toml admits. Libraries of that age warn of things that are gone by now: no errors here.
test-oldest: $(OLDEST)/.ready
	@$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -W default --disable-warnings \
		--ignore tests/ui --ignore tests/test_docs.py --ignore tests/test_translations.py $(ARGS)

# The same tests; fails where they run fewer of the lines than pyproject.toml asks for.
coverage: $(READY)
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

# The page of `coinage ui` and the report, as people use them, in the system's Chromium.
test-browser: $(READY)
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "browser and not slow" tests/ui tests/report $(ARGS)

# Every kind of step on a pretended GPU: the numbers of a CPU, the rules of CUDA.
test-pretended: $(READY)
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "pretended and not slow" tests/pretended_gpu $(ARGS)

test-slow: $(READY)
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-fuzz: $(READY)
	@$(BIN)/python -m pytest -n 2 -m fuzz $(ARGS)

# On an idle machine.
test-perf: $(READY)
	@$(BIN)/python -m pytest -m perf $(ARGS)

check: $(READY)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python tools/flag_page.py --check
	@$(BIN)/python tools/messages_page.py --check
	@$(BIN)/python tools/compared_page.py --check

# Without network; a broken link or a name that is gone is an error.
docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Builds into dist/, and uses the wheel outside the checkout; ARGS=--full installs all it needs anew.
dist: $(READY)
	@$(BIN)/python tools/dist_check.py $(ARGS)

full-size-check: $(READY)
	@$(BIN)/python tools/full_size_check.py $(ARGS)

# Without network, and without .venv where there is none: then with $(PYTHON) as it is.
gpu-check:
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) tools/gpu_check.py $(ARGS)

format: $(READY)
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/python tools/flag_page.py
	@$(BIN)/python tools/messages_page.py
	@$(BIN)/python tools/compared_page.py

model: $(READY)
	@$(BIN)/python tools/build_demo_world.py --out build/demo_world $(ARGS)

# torch goes first and alone, so that pip takes the pinned build wherever it lies ready.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed\nhint: make PYTHON=python3.12 ...")'
	@echo "setting up $(VENV) (once, a few minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

$(OLDEST)/.ready: $(READY)
	@echo "setting up $(OLDEST) (once, some minutes)"
	@$(PYTHON) -m venv $(OLDEST)
	@$(BIN)/python tools/oldest_versions.py > $(OLDEST)/constraints.txt
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(OLDEST)/constraints.txt torch
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint $(OLDEST)/constraints.txt --editable '.[optimizers,test,ui,wandb]'
	@touch $(OLDEST)/.ready

clean:
	rm -rf $(VENV) $(VENV)-oldest build demo_output .coverage* .pytest_cache .mypy_cache .ruff_cache
