# Two environments are made when they are needed: .venv serves and has no torch; .venv-dev trains and tests.
# ARGS passes options on: make serve ARGS="--model bundles/mnist --port 9000"

PYTHON ?= python3
DATA_DIR ?= data
RUN ?= runs/mnist
ARGS ?=
DEV := .venv-dev/bin

.DEFAULT_GOAL := help
.PHONY: help serve train evaluate figures export dev test test-docker bench bench-training check format openapi docs lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

serve: .venv/.installed ## serve the bundle that ships on http://127.0.0.1:8000
	.venv/bin/vae serve $(ARGS)

train: .venv-dev/.installed ## train, measure and export bundles/mnist; after an interruption type it again
	$(DEV)/vae train mnist --resume --publish bundles --data-dir $(DATA_DIR) $(ARGS)

evaluate: .venv-dev/.installed ## measure RUN (runs/mnist) on its test images
	$(DEV)/vae evaluate $(RUN) --data-dir $(DATA_DIR) $(ARGS)

figures: .venv-dev/.installed ## draw samples, reconstructions and curves of RUN
	$(DEV)/vae figures $(RUN) --data-dir $(DATA_DIR) $(ARGS)

export: .venv-dev/.installed ## export RUN to bundles/
	$(DEV)/vae export $(RUN) -o bundles/$(notdir $(RUN)) --replace --data-dir $(DATA_DIR) $(ARGS)

dev: .venv-dev/.installed ## make .venv-dev, which trains and tests

# A file's tests share what its fixtures train, and stay in one process. ARGS="-n 0" has all in one, as a debugger wants.
test: .venv-dev/.installed ## run the tests, a process a core, up to four
	$(DEV)/pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-docker: .venv-dev/.installed ## run the tests of compose.yaml and the image, in an engine of their own if none runs
	.ci/engine $(DEV)/pytest -m docker tests/deployment $(ARGS)

bench: .venv-dev/.installed ## measure the server beside other model servers and the limits of the machine
	$(DEV)/python -m benchmarks.serving $(ARGS)

bench-training: .venv-dev/.installed ## measure the training loop beside pythae's trainer
	$(DEV)/python -m benchmarks.training $(ARGS)

check: .venv-dev/.installed ## lint, formatting, types and import arrows
	$(DEV)/ruff check
	$(DEV)/ruff format --check
	$(DEV)/mypy
	$(DEV)/lint-imports

format: .venv-dev/.installed ## format and fix what can be fixed
	$(DEV)/ruff check --fix
	$(DEV)/ruff format

openapi: .venv-dev/.installed ## regenerate openapi.json
	$(DEV)/python -m app.documentation > openapi.json.new
	mv openapi.json.new openapi.json

docs: .venv-dev/.installed ## regenerate the tables of README.md and the pictures of docs/theory.md
	$(DEV)/python -m tests.support.tables
	$(DEV)/python -m training.figures.estimators docs/images/theory

lock: .venv-dev/.installed ## regenerate constraints.txt
	$(DEV)/python .ci/lock > constraints.txt.new
	mv constraints.txt.new constraints.txt

clean: ## delete both environments
	rm -rf .venv .venv-dev

# An environment is made anew when what it should hold has changed, and only then.
.venv/.installed: extras =
.venv-dev/.installed: extras = [training,compression,tensorboard,telemetry,dev]
.venv/.installed .venv-dev/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is not Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "make: $(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.$(extras)'
	@touch $@
