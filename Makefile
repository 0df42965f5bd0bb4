# The front door. `make` alone lists what there is. stdout is the answer, stderr the story:
#     IMAGE=$(make -s image ARCH=h100)
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
SHELL := /bin/sh
RUNNER := .venv/bin/runner
PYTEST := .venv/bin/python -m pytest

# What was given on the command line or in the environment reaches a recipe as an environment variable with the
# very characters that were typed: make does not expand it, and no shell line is ever made from it.
GIVEN := ARCH LINE BASE ENGINE FORMAT BY PUSH PLATFORM YES LIST TO
$(foreach name,$(GIVEN),$(if $(filter-out undefined,$(origin $(name))),\
	$(eval override $(name) := $$(value $(name)))$(eval export $(name))))
# A name that is misspelt would otherwise build the default without a word.
$(foreach name,$(filter-out $(GIVEN) CI RUNNER PYTEST MAKEFLAGS MFLAGS,$(foreach word,$(MAKEOVERRIDES),$(firstword $(subst =, ,$(word))))),\
	$(if $(filter command line,$(origin $(name))),$(error unknown variable $(name): expected one of $(GIVEN))))
# The last: thousands of programs begin in a run of the tests, and each would compile the kit anew.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PYTHONDONTWRITEBYTECODE
RECIPE = "$${ARCH:-cpu}" $${LINE:+--line="$$LINE"} $${BASE:+--base="$$BASE"} $${PLATFORM:+--platform="$$PLATFORM"}
BUILD = $(RUNNER) image build $(RECIPE) $${ENGINE:+--engine="$$ENGINE"} $${FORMAT:+--format="$$FORMAT"} \
	$${BY:+--by="$$BY"} $${PUSH:+--push="$$PUSH"}

# Without apt no base can be bootstrapped: there the demo stands on the one that is pulled.
PULLED = $$(command -v apt-get >/dev/null || echo base=python312)

.PHONY: help kit image sif shell prebuild key render reference lock skyrl-keys pins demo test check lint types unit golden doctor bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo '  variables: ARCH LINE BASE ENGINE FORMAT BY PUSH PLATFORM LIST TO, as in: make image ARCH=gh200 LINE=cu12'

demo: ## set up, build the image for cpu, and run examples/hello-grpo in it
	@./setup.sh demo && $(RUNNER) submit examples/hello-grpo/job.yaml $(PULLED) --cluster local \
		$${ENGINE:+--engine="$$ENGINE"}

image: kit ## build the image for ARCH (default cpu), or find the one that is built
	@$(BUILD)

sif: kit ## the same as a SIF file for Apptainer
	@FORMAT=sif; $(BUILD)

shell: kit ## open a shell in the image for ARCH, with Slurm at hand
	@$(RUNNER) shell "$${ARCH:-cpu}" $${LINE:+--line="$$LINE"} $${BASE:+--base="$$BASE"} $${ENGINE:+--engine="$$ENGINE"}

prebuild: kit ## bake the agent-server into the images of LIST, into the registry and namespace TO
	@$(RUNNER) prebuild plan "$${LIST:?a file with images: make prebuild LIST=… TO=…}" --to "$${TO:?registry and namespace: make prebuild LIST=… TO=…}" $${PLATFORM:+--platform="$$PLATFORM"} \
		&& $(RUNNER) prebuild run --to "$$TO" $${PLATFORM:+--platform="$$PLATFORM"}

key: kit ## print what goes into the image for ARCH, and the hash of it
	@$(RUNNER) image key $(RECIPE) --explain

render: kit ## write definitions/rendered from the data
	@$(RUNNER) image render

reference: kit ## write docs/reference from the code
	@.venv/bin/python -m runner.reference

golden: render reference ## write every committed file that is generated: read the diff
	@.venv/bin/python -m tests.golden.commands
	@.venv/bin/python -m tests.golden.slurm_scripts
	@.venv/bin/python -m tests.golden.examples
	@.venv/bin/python -m tests.golden.skyrl_commands

lock: kit ## write the hash locks of the stacks (ARCH, LINE: only those)
	@$(RUNNER) lock $${ARCH:+--arch="$$ARCH"} $${LINE:+--line="$$LINE"}

skyrl-keys: kit ## write what SkyRL's configurations know, from the wheels of its versions
	@.venv/bin/python -m runner.skyrl.snapshot

pins: kit ## ask the registries for the digests of the bases, and write them down
	@$(RUNNER) pins

doctor: kit ## list what this machine has and lacks
	@$(RUNNER) doctor

test: ## set up what the tests need (YES=1: all of it), and run everything
	@./setup.sh test $${YES:+--yes} && { $(MAKE) -k lint types; quality=$$?; $(PYTEST) -n auto && exit $$quality; }

check: lint types unit ## the quick part: lint, types, unit tests

lint: kit ## ruff, and shellcheck where it is installed
	@.venv/bin/ruff check -q . && .venv/bin/ruff format --check -q .
	@! command -v shellcheck >/dev/null || shellcheck setup.sh .ci/run tests/live/*.sh

types: kit ## mypy, strict
	@.venv/bin/mypy

unit: kit ## unit tests
	@$(PYTEST) tests/unit

bench: kit ## measure what is quick to measure, beside its baselines
	@.venv/bin/python tests/bench/quick.py

clean: ## remove .venv and what tools left in this checkout (built images stay; see `runner config` for where)
	@rm -rf .venv .venv.lock build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

kit:
	@./setup.sh kit

requirements.lock: pyproject.toml
	@UV_CUSTOM_COMPILE_COMMAND='make requirements.lock' .venv/bin/uv pip compile pyproject.toml --group dev --group datasets \
		--universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links -q -o $@
