# make env CPU=1 TORCH_WHEELS=PLACE: the environment without CUDA. PLACE is a folder or a page with the CPU's wheels of
# torch and torchvision, in the versions of the lock (pip's --find-links), as pip's default index has none for Linux.
# make demo: everything from a fresh clone to scored masks of the embedded footage.
# make test: the quick tests, by two processes; make test-all adds the slow ones; make lint; make params composes params.yaml from conf/;
# make deps writes the deps of dvc.yaml from the imports.
# make bench: times and memory against what one would do otherwise, side by side (under 15 minutes on two cores).
# make ablations: the grids of benchmarks/ablation_grids.py as DVC experiments, into docs/ablations.md (hours; goes on where it was stopped).
PYTHON ?= python3.11
VENV := .venv
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

CUDA := nvidia-cu|nvidia-nccl|nvidia-nv|cuda-|triton=|torch=|torchvision=

.PHONY: env demo test test-all lint params deps ablations bench clean

env: $(VENV)/ready

# opencv-python is left out of the lock on purpose (opencv-contrib-python owns the folder cv2), hence --no-deps.
$(VENV)/ready: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not on PATH; install Python 3.11 or run make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
ifdef CPU
	@test -n "$(TORCH_WHEELS)" || { echo "error: CPU=1 needs TORCH_WHEELS=PLACE, a folder or page with PyTorch's CPU wheels (README.md)"; exit 1; }
	$(MAKE) --no-print-directory $(VENV)/cpu.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $(VENV)/cpu.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-index --find-links "$(TORCH_WHEELS)" $$(grep -oE '^(torch|torchvision)==[0-9.]+' requirements.lock)
else
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
endif
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# The lock without CUDA's packages, and without PyTorch's.
$(VENV)/cpu.lock: requirements.lock
	@mkdir -p $(VENV)
	awk '/^[a-z]/ { left_out = /^($(CUDA))/ } !left_out' requirements.lock > $@

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
