# Two commands matter: `make demo` and `make test`. Everything lives in .venv.
# A target with a sentence after `##` is listed by `make help`.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# uv from PATH when it is there, else from pip inside the virtual environment.
UV = $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)
# Tests start many processes: each would compile anew what it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-faults test quick cover test-all test-uvloop test-lowest check hooks docs \
	pictures site faults soak foreign bench bench-quick pins clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## Run a bot with two plugins, offline; BOT_TOKEN=… runs it on Telegram.
	$(BIN)/python -m examples.notes_bot

demo-faults: $(VENV)/.run ## Play the three nights of docs/debugging.md, in which a bot breaks.
	$(BIN)/python -m examples.night

# Half of its time a test waits, for a server or a deadline: WORKERS=3 keeps two cores busy.
WORKERS ?= 0
IN_PARALLEL = -n $(WORKERS) --dist worksteal
# WITH=dev goes without the group `bench`: the tests of the benchmarks are not run then.
WITH ?= bench
test: $(VENV)/.$(WITH) ## Run all tests, on SQLite and PostgreSQL: WORKERS=… at a time.
	$(BIN)/python -m pytest $(IN_PARALLEL)

# Units, runtime and observers on SQLite; what starts processes or waits for deadlines is left out.
QUICK = uow lanes endings callbacks factory statements giving_back read_only database pool engine \
	sqlite schema plugin middleware \
	application managed machine wiring tasks context recorder journal bus \
	logs forms metrics spans setup timeline unit_writer unit_reader
quick: $(VENV)/.dev ## Run the tests of units, runtime and observers on SQLite, in under a minute.
	$(BIN)/python -m pytest -q -rfE -k "not postgres and not asyncpg and not psycopg" \
		$(foreach name,$(QUICK),$(shell find tests -name test_$(name).py))

cover: $(VENV)/.bench ## Run all tests, and show which lines none of them reaches.
	$(BIN)/python -m pytest $(IN_PARALLEL) --cov --cov-report=term:skip-covered

PYTHONS ?= python3.11 python3.13
test-all: ## Run all tests on the oldest supported Python and on the newest: PYTHONS=…
	for python in $(PYTHONS); do $(MAKE) test PYTHON=$$python VENV=.venv-$$python || exit 1; done

# What an event loop decides: ends, cancellations, deadlines, signals, and when messages are looked for.
ON_UVLOOP = endings callbacks runners timers fuzzed_units failed_rollbacks signals outbox inbox
test-uvloop: $(VENV)/.dev ## Run the tests that the event loop matters to on uvloop.
	$(BIN)/python -m pytest --loop uvloop $(IN_PARALLEL) \
		$(foreach name,$(ON_UVLOOP),$(shell find tests -name test_$(name).py))

test-lowest: ## Run all tests on the oldest packages that pyproject.toml allows.
	@$(MAKE) --no-print-directory .venv-lowest/.lowest VENV=.venv-lowest
	.venv-lowest/bin/python -m pytest $(IN_PARALLEL)

check: $(VENV)/.dev ## Check form, types, import directions, documents and their site.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/mkdocs build --strict --quiet

hooks: $(VENV)/.dev ## Let git run what `make check` runs before each commit.
	$(BIN)/pre-commit install

docs: $(VENV)/.dev ## Write what documents say of the code, and of real runs, anew.
	$(BIN)/python docs/generate.py
	$(BIN)/python -m examples.night --write docs/debugging.md

pictures: $(VENV)/.dev ## Draw the picture of the READMEs anew, from a run of the demo's bot.
	$(BIN)/python docs/picture.py

site: $(VENV)/.dev ## Build the site of docs/, with a reference from the docstrings, in site/.
	$(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html; to search in it: $(BIN)/mkdocs serve"

# A scene of durable delivery in full takes both cores to be through in time. What has passed is left
# out by the next run of the same tree, also when this one is broken off (5: nothing is left).
faults: $(VENV)/.dev ## Run what is left of the whole fault matrix; writes docs/faults.md.
	$(BIN)/python -m pytest tests/faults/test_delivering_*.py --faults=full --timeout=1200 || [ $$? -eq 5 ]
	$(BIN)/python -m pytest tests/faults $$(grep -rl --include='test_*.py' 'mark.matrix(' tests) \
		--faults=full --timeout=1200 -n 2 --dist worksteal || [ $$? -eq 5 ]

MINUTES ?= 30
soak: $(VENV)/.dev ## Run random units under faults for MINUTES=30; writes docs/soak.json.
	PYTHONPATH=tests $(BIN)/python -m soak --minutes $(MINUTES)

# The paths lead to the files of the installed versions.
foreign: ## Run SQLAlchemy's and aiogram's own tests on our parts: SQLALCHEMY=path AIOGRAM=path.
	@$(MAKE) --no-print-directory .venv-foreign/.foreign VENV=.venv-foreign
	@PYTHONPATH=tests .venv-foreign/bin/python -m foreign \
		$(if $(SQLALCHEMY),--sqlalchemy $(SQLALCHEMY)) $(if $(AIOGRAM),--aiogram $(AIOGRAM))

# About 15 minutes on two quiet cores. DB_MANAGER_BENCH_REDIS_URL=redis://… adds rows beside Redis.
bench: $(VENV)/.bench ## Measure; writes docs/performance.md. URLS=postgresql://… for your server.
	$(BIN)/python -m benchmarks $(if $(URLS),--urls $(URLS))

bench-quick: $(VENV)/.bench ## See that the benchmarks work; the numbers are not for quoting.
	$(BIN)/python -m benchmarks --quick --print $(if $(URLS),--urls $(URLS))

# Pins carry exact versions and no registry hosts; uv.lock would record hosts.
pins: $(VENV)/.uv ## Write requirements/*.txt anew from pyproject.toml.
	$(UV) pip compile -q --universal --python-version 3.11 --no-header --extra migrate \
		pyproject.toml -o requirements/run.txt
	$(UV) pip compile -q --universal --python-version 3.11 --no-header --all-extras \
		--group test --group jobs --group lint --group site pyproject.toml -o requirements/dev.txt
	$(UV) pip compile -q --universal --python-version 3.11 --no-header --all-extras \
		--group bench -c requirements/dev.txt pyproject.toml -o requirements/bench.txt
	$(UV) pip compile -q --universal --python-version 3.11 --no-header \
		--group foreign -c requirements/dev.txt pyproject.toml -o requirements/foreign.txt
# The oldest of what we need, and around it what is in the other files, as far as that agrees.
	$(UV) pip compile -q --universal --python-version 3.11 --no-header --no-annotate --all-extras \
		--resolution lowest-direct pyproject.toml -o $(VENV)/lowest.txt
	cp requirements/dev.txt requirements/lowest.txt
	$(UV) pip compile -q --universal --python-version 3.11 --no-header --no-annotate --all-extras \
		--group test --group site -c $(VENV)/lowest.txt pyproject.toml -o requirements/lowest.txt

clean: ## Remove the virtual environment.
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

$(VENV)/.lowest: $(VENV)/.uv requirements/lowest.txt pyproject.toml
	@$(UV) pip install -q --python $(BIN)/python -r requirements/lowest.txt
	@$(UV) pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

$(VENV)/.foreign: $(VENV)/.dev requirements/foreign.txt
	@$(UV) pip install -q --python $(BIN)/python -r requirements/foreign.txt
	@touch $@
