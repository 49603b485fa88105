# `make demo` and `make test` do all the set-up they need in .venv and .harness.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests start processes of two threads each: four workers keep eight cores busy, and one more
# worker than there are cores makes two of them no faster.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

# Others' readers of what we write, which tests ask; their pins are not ours.
READERS := .readers-venv

.PHONY: demo test tasks soak slow attacks lint install readers lock clean

demo: install
	$(BIN)/harness demo --task llm-pretrain-residual

test: lint
	$(BIN)/pytest $(PARALLEL)

# Every shipped task is sound, its baselines too: a real session of each on its smallest profile.
tasks: install
	$(BIN)/harness task check --all

# Every edit that tries to spoil a score, and every kind of edit that must be accepted.
attacks: install
	$(BIN)/pytest $(PARALLEL) tests/test_attacks.py tests/test_contract.py -m "attacks or not attacks"

# Agents at work on a server that is killed 200 times; everything is compared afterwards.
soak: install
	$(BIN)/python tests/soak.py --rounds 200

# What takes minutes and measures time: on a machine that does nothing else.
slow: install
	$(BIN)/pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

readers: $(READERS)/.installed

$(READERS)/.installed: tests/readers.lock
	$(PYTHON) -m venv $(READERS)
	$(READERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --ignore-requires-python -r tests/readers.lock
	@touch $@

# The newest versions that pyproject.toml allows, tried in a venv of their own.
lock:
	$(PYTHON) -m venv .lock-venv
	.lock-venv/bin/python -m pip install --quiet ".[dev]"
	@{ echo "# Exact versions for pip, made by \`make lock\`; pyproject.toml says what is wanted and why."; \
	  .lock-venv/bin/python -m pip freeze --exclude harness | sed 's/+cpu$$//'; } > requirements.lock
	rm -rf .lock-venv

clean:
	rm -rf $(VENV) $(READERS) .harness
