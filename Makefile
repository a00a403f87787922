# make demo     a small network for handwritten digits, from the hypernetwork in zoo/
# make kernels  build the compiled operators, if there is a C++ compiler (minutes)
# make test     the tests, with the operators if they can be built
# make clean    forget .venv, builds and caches
# All make .venv here first; another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/ready

KERNELS := $(VENV)/kernels

.PHONY: demo kernels test clean

demo: $(READY)
	$(VENV)/bin/pass-transfer adapt --hypernet zoo/r18_tinyimnet --task digits --macs 0.5 --epochs 12 --out runs/demo --force

kernels: $(KERNELS)

test: $(KERNELS)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist worksteal

$(READY): pyproject.toml setup.py tools/make_venv.py
	$(PYTHON) tools/make_venv.py $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	touch $(READY)

# Without a compiler this succeeds too, and the last line says why there are no operators.
$(KERNELS): $(READY) setup.py $(wildcard csrc/*)
	$(VENV)/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	$(VENV)/bin/pass-transfer env | grep kernels
	touch $(KERNELS)

clean:
	rm -rf $(VENV) build dist .pytest_cache pass_transfer.egg-info pass_transfer/_C.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
