# make demo   a small network for handwritten digits, from the hypernetwork in zoo/
# make test   the tests
# make clean  forget .venv, builds and caches
# Both make .venv here first; another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/ready

.PHONY: demo test clean

demo: $(READY)
	$(VENV)/bin/pass-transfer adapt --hypernet zoo/r18_tinyimnet --task digits --macs 0.5 --out runs/demo --force

test: $(READY)
	$(VENV)/bin/python -m pytest

$(READY): pyproject.toml setup.py tools/make_venv.py
	$(PYTHON) tools/make_venv.py $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[test]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist .pytest_cache pass_transfer.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
