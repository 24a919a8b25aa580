# Every target does its own set-up on a fresh Debian machine with Python 3.11.

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Test files at a time; 0: one after the other, in one process.
WORKERS ?= 2
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: demo test check simulate bench install servers postgres clean

demo: install servers
	PATH="$(CURDIR)/$(BIN):$$PATH" docs/demo.sh

test: install servers postgres check
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

simulate: install
	cd tests/unit && ../../$(BIN)/python simulation.py --seeds $(or $(SEEDS),1000)

bench: install servers
	$(BIN)/python -m benchmarks

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(SUDO) apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive $(SUDO) -E apt-get install -q -y --no-install-recommends python3-venv; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,mysql]'
	touch $@

# A real MariaDB to rehearse on. Nothing is started: the lab starts its own servers.
servers:
	@if ! PATH="$$PATH:/usr/sbin" command -v mariadbd >/dev/null || ! command -v mariadb-backup >/dev/null; then \
	  $(SUDO) apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive $(SUDO) -E apt-get install -q -y --no-install-recommends \
	    mariadb-server mariadb-backup; \
	fi

# For the tests of several workers, which start a Postgres of their own.
postgres:
	@if ! PATH="$$PATH:$$(echo /usr/lib/postgresql/*/bin)" command -v postgres >/dev/null; then \
	  $(SUDO) apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive $(SUDO) -E apt-get install -q -y --no-install-recommends postgresql; \
	fi

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
