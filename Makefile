# Everything is done inside .venv, made on first use. Pass other pip options with PIP, for example
#   make demo PIP='--extra-index-url https://download.pytorch.org/whl/cpu'
PYTHON ?= python3
PIP ?=
BIN = .venv/bin
STAMP = .venv/.installed
JOBS ?= 2

.PHONY: demo test check bench results kills clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --no-compile --prefer-binary $(PIP) -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/genloom compare digits --out runs/demo
	$(BIN)/python -m genloom.cli.show runs/demo/report.html

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --no-compile --prefer-binary $(PIP) -c constraints.txt -e '.[bench]'
	$(BIN)/python bench/flows.py
	$(BIN)/python bench/vae.py
	$(BIN)/python bench/density.py
	$(BIN)/python bench/pixelcnn_training.py
	$(BIN)/python bench/pixelcnn_sampling.py
	$(BIN)/python bench/unet.py
	$(BIN)/python bench/transformers_gpt.py
	$(BIN)/python bench/diffusers_unet.py

results: $(STAMP)
	$(BIN)/genloom reproduce --quick

kills: $(STAMP)
	$(BIN)/python bench/kills.py

clean:
	rm -rf .venv build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
