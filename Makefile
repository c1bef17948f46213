# Each target does its own set-up first. What they run is the command line of nbs/19_cli.ipynb: .venv/bin/sftrepro --help
PROFILE ?= micro
# Whoever kills make means what it started as well.
export SFTREPRO_PARENT := $(shell echo $$PPID)

.PHONY: book rebuild test test-all setup lock
.SILENT:

book: setup  ## the rendered book, from committed bases and results
	.venv/bin/sftrepro book --profile $(PROFILE)

rebuild: setup  ## the book and everything below it: bases, data, runs, results
	.venv/bin/sftrepro rebuild --profile $(PROFILE)

test test-all: setup  ## everything that must hold before a change lands; test-all: what only a release needs as well
	./setup.sh chromium
	.venv/bin/pip install --quiet --no-input --disable-pip-version-check --no-deps --requirement requirements-small.lock
	bash tests/run $(if $(filter test-all,$@),--all)

setup:  ## .venv and the system's packages
	./setup.sh bubblewrap g++

lock: setup  ## requirements*.lock from what is installed in .venv
	.venv/bin/python tools/lock.py
