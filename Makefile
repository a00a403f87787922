# make demo     a small network for handwritten digits, from the hypernetwork in zoo/
# make check    format, lint, types and the fast tests, in two minutes
# make test     all tests, with the operators if they can be built; make test TESTS=slow: some
# make kernels  build the compiled operators, if there is a C++ compiler (minutes)
# make docs     the documents as web pages in build/docs, with the API reference
# make clean    forget .venv, builds and caches
# All make .venv here first; another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/ready

KERNELS := $(VENV)/kernels
DOCS := $(VENV)/docs

.PHONY: demo check test kernels docs clean

demo: $(READY)
	$(VENV)/bin/pass-transfer adapt --hypernet zoo/r18_tinyimnet --task digits --macs 0.5 --epochs 12 --out runs/demo --force

check: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/clang-format --dry-run --Werror $(wildcard csrc/*)
	$(VENV)/bin/python tools/check_types.py
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal -m "not slow"

test: $(KERNELS)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal -m "$(TESTS)"

kernels: $(KERNELS)

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

$(READY): pyproject.toml setup.py tools/make_venv.py
	$(PYTHON) tools/make_venv.py $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $(READY)

# Without a compiler this succeeds too, and the last line says why there are no operators.
$(KERNELS): $(READY) setup.py $(wildcard csrc/*)
	$(VENV)/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	$(VENV)/bin/pass-transfer env | grep kernels
	touch $(KERNELS)

$(DOCS): $(READY)
	$(VENV)/bin/python -m pip install --quiet --editable '.[docs]'
	touch $(DOCS)

clean:
	rm -rf $(VENV) build dist .pytest_cache pass_transfer.egg-info pass_transfer/_C.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
