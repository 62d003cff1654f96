# make demo: everything from a fresh clone to scored masks of the embedded footage.
# make test: the quick tests, by two processes; make test-all adds the slow ones; make lint; make params composes params.yaml from conf/;
# make deps writes the deps of dvc.yaml from the imports.
# make bench: times and memory against what one would do otherwise, side by side (under 15 minutes on two cores).
# make ablations: the grid of conf/ablation/ as DVC experiments, into docs/ablations.md (hours; goes on where it was stopped).
PYTHON ?= python3.11
VENV := .venv
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

.PHONY: env demo test test-all lint params deps ablations bench clean

env: $(VENV)/ready

# opencv-python is left out of the lock on purpose (opencv-contrib-python owns the folder cv2), hence --no-deps.
$(VENV)/ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not on PATH; install Python 3.11 or run make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: env
	$(RUN) backdrop train

test: env
	$(RUN) python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: env
	$(RUN) python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "slow or not slow"

lint: env
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy backdrop stages benchmarks

ablations: env
	$(RUN) python -m benchmarks.ablations

bench: env
	$(RUN) python -m benchmarks.bench

deps: env
	$(RUN) python -m tests.graph

params: env
	$(RUN) python -m backdrop.params

clean:
	rm -rf runs
	find data models -mindepth 1 ! -name README.md ! -name .gitignore -delete
