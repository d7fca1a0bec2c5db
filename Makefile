# Two commands matter: `make demo` and `make test`. Everything lives in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# uv from PATH when it is there, else from pip inside the virtual environment.
UV = $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)

.PHONY: demo demo-faults docs test cover test-all check faults soak foreign bench bench-quick pins clean

demo: $(VENV)/.run
	$(BIN)/python -m examples.notes_bot

# Three nights in which a bot breaks, and what the commands say in the morning: docs/debugging.md.
demo-faults: $(VENV)/.run
	$(BIN)/python -m examples.night

test: $(VENV)/.bench
	$(BIN)/python -m pytest

# The same, and which lines no test reaches.
cover: $(VENV)/.bench
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

# The same tests on the oldest Python that is supported and on the newest that is here.
PYTHONS ?= python3.11 python3.13
test-all:
	for python in $(PYTHONS); do $(MAKE) test PYTHON=$$python VENV=.venv-$$python || exit 1; done

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: $(VENV)/.dev
	$(BIN)/python -m pytest tests/faults --faults=full --timeout=1200

# Half an hour of random units under faults: nothing grows, no unit lies; writes docs/soak.json.
MINUTES ?= 30
soak: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m soak --minutes $(MINUTES)

# The tests of SQLAlchemy's asyncio extension on our lanes, and aiogram's on attached dispatchers:
# make foreign SQLALCHEMY=path AIOGRAM=path. The paths lead to the files of the installed versions.
foreign:
	@$(MAKE) --no-print-directory .venv-foreign/.foreign VENV=.venv-foreign
	@PYTHONPATH=tests .venv-foreign/bin/python -m foreign \
		$(if $(SQLALCHEMY),--sqlalchemy $(SQLALCHEMY)) $(if $(AIOGRAM),--aiogram $(AIOGRAM))

# Writes docs/performance.md and its plots; on a server of one's own with URLS=postgresql://…
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks $(if $(URLS),--urls $(URLS))

# Sees that everything works, and prints; its numbers are not for quoting.
bench-quick: $(VENV)/.bench
	$(BIN)/python -m benchmarks --quick --print $(if $(URLS),--urls $(URLS))

# The tables of README.md, docs/events.md and docs/architecture.md, from the code, and what the
# commands show in docs/debugging.md, from real runs.
docs: $(VENV)/.dev
	$(BIN)/python docs/generate.py
	$(BIN)/python -m examples.night --write docs/debugging.md

# Pins carry exact versions and no registry hosts; uv.lock would record hosts.
pins: $(VENV)/.uv
	$(UV) pip compile -q --universal --python-version 3.11 --no-header pyproject.toml \
		-o requirements/run.txt
	$(UV) pip compile -q --universal --python-version 3.11 --no-header --all-extras \
		--group test --group lint pyproject.toml -o requirements/dev.txt
	$(UV) pip compile -q --universal --python-version 3.11 --no-header --all-extras \
		--group bench -c requirements/dev.txt pyproject.toml -o requirements/bench.txt
	$(UV) pip compile -q --universal --python-version 3.11 --no-header \
		--group foreign -c requirements/dev.txt pyproject.toml -o requirements/foreign.txt

clean:
	rm -rf $(VENV)

$(VENV)/.uv:
	@if command -v uv >/dev/null 2>&1; then uv venv -q --allow-existing --python $(PYTHON) $(VENV); \
	else $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install -q uv; fi
	@touch $@

$(VENV)/.run: $(VENV)/.uv requirements/run.txt pyproject.toml
	@test -e $(VENV)/.dev || { $(UV) pip install -q --python $(BIN)/python -r requirements/run.txt && \
	$(UV) pip install -q --python $(BIN)/python --no-deps -e . ; }
	@touch $@

$(VENV)/.dev: $(VENV)/.uv requirements/dev.txt pyproject.toml
	@$(UV) pip install -q --python $(BIN)/python -r requirements/dev.txt
	@$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

$(VENV)/.bench: $(VENV)/.dev requirements/bench.txt
	@$(UV) pip install -q --python $(BIN)/python -r requirements/bench.txt
	@touch $@

$(VENV)/.foreign: $(VENV)/.dev requirements/foreign.txt
	@$(UV) pip install -q --python $(BIN)/python -r requirements/foreign.txt
	@touch $@
