# `make study` and `make test` are the two that matter; `make help` lists the others.
VENV   ?= .venv
NEWEST ?= .venv-newest
LOWEST ?= .venv-lowest
DATA   ?= glyphs
PRESET ?= quick
OUT    ?= studies/$(DATA)-$(PRESET)

BIN  := $(VENV)/bin
DEPS := settings.ini setup.py pyproject.toml constraints.txt tools/env.sh

.PHONY: help study test test-newest test-lowest docs check export readme constraints dist clean clean-env
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "VENV=folder (now $(VENV)) and PYTHON=/path/to/python choose the environment; UV=no goes without uv."
	@echo "DATA=$(DATA) PRESET=$(PRESET) OUT=$(OUT) choose the study."

# editable, so these change only when the dependencies do; each contains those above it
$(VENV)/.run: $(DEPS)
	@sh tools/env.sh "$(VENV)" run
$(VENV)/.dev: $(DEPS)
	@sh tools/env.sh "$(VENV)" dev
$(VENV)/.docs: $(DEPS)
	@sh tools/env.sh "$(VENV)" docs

study: $(VENV)/.run  ## the main job: pretrain at every granularity, transfer, plot; started again it goes on where it was
	"$(BIN)/granularity" study --data $(DATA) --preset $(PRESET) --out "$(OUT)"

test: $(VENV)/.dev  ## everything: generated files in sync, every notebook runs, pytest
	@sh tools/test.sh "$(BIN)/python"

test-newest:  ## pytest against the newest release of every dependency, in an environment without nbdev
	@sh tools/env.sh "$(NEWEST)" newest
	@sh tools/test.sh "$(NEWEST)/bin/python" pytest

test-lowest:  ## pytest with the lowest version of every dependency that settings.ini allows (needs uv)
	@sh tools/env.sh "$(LOWEST)" lowest
	@sh tools/test.sh "$(LOWEST)/bin/python" pytest

docs: $(VENV)/.docs  ## the documentation site into _docs/, from the notebooks; `make test` then also looks at it in a browser
	@"$(BIN)/python" docs/build.py
	@echo "open _docs/index.html"

check: $(VENV)/.dev  ## only: are package, notebooks and README in sync?
	@"$(BIN)/python" tools/check.py

export: $(VENV)/.dev  ## write the package and README.md from the notebooks, clean the notebooks
	@"$(BIN)/nbdev_export"
	@"$(BIN)/nbdev_clean"
	@"$(BIN)/python" tools/readme.py

readme: $(VENV)/.dev  ## write README.md from nbs/index.ipynb
	@"$(BIN)/python" tools/readme.py

constraints:  ## renew constraints.txt: newest versions that settings.ini allows, for Python 3.10 to 3.13 (needs uv)
	uv pip compile --quiet --universal --upgrade --python-version 3.10 --extra dev --extra docs --no-annotate \
	    --custom-compile-command 'make constraints' --output-file constraints.txt pyproject.toml

dist: $(VENV)/.dev  ## sdist and wheel into dist/
	@rm -rf build dist
	@"$(BIN)/python" -m build --quiet
	@ls dist

clean:  ## remove what builds and tests leave behind; studies stay
	rm -rf build dist _docs _proc *.egg-info .pytest_cache .hypothesis
	find granularity_nb nbs tests tools docs \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

clean-env: clean  ## also remove the environments
	for o in "$(VENV)" "$(NEWEST)" "$(LOWEST)"; do if [ -e "$$o/pyvenv.cfg" ]; then rm -rf "$$o"; fi; done
