# Everything starts from a machine with Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

export BENTOML_DO_NOT_TRACK := true
# A process per core, each with one thread: processes of several threads slow each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

.PHONY: install demo up test check format lint types architecture coverage audit bento sbom k8s schemas dashboards bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $(STAMP)

demo: install  ## the whole loop on real images, about 5 minutes
	$(BIN)/adaptsvc demo $(ARGS)

up: install  ## service and worker, until Ctrl-C
	$(BIN)/adaptsvc up

test: install  ## every test
	$(PYTEST) $(ARGS)

coverage: install  ## every test, and how much of the core they reach
	$(PYTEST) --cov=adaptsvc --cov=streams --cov-report=term --cov-config=pyproject.toml
	$(BIN)/python -m coverage report --include='adaptsvc/trust/*,adaptsvc/adapt/*,adaptsvc/versions/*,streams/*' --fail-under=90

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

architecture: install  ## imports point down the levels
	$(BIN)/lint-imports

dashboards: install  ## k8s/grafana from deploy/grafana
	$(BIN)/python -m deploy.grafana.dashboards

check: lint types architecture coverage  ## what CI runs; the audit of dependencies is told to be missing where it cannot be done
	.ci/audit $(BIN)/python || [ $$? -eq 3 ]

audit: install  ## known vulnerabilities of what is installed; fails where PyPI's database does not answer
	.ci/audit $(BIN)/python

bento: install  ## builds the Bento, installs it in an environment of its own, and asks it
	$(BIN)/python -m pytest tests/deploy/test_bento.py

sbom: install  ## what the serving image ships, with licences; needs the network
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[sbom]'
	test -x build/serving/bin/python || $(BIN)/python -m venv build/serving
	build/serving/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt '.[kafka,redis,tracing]'
	$(BIN)/python -m cyclonedx_py environment --pyproject pyproject.toml --output-reproducible --of JSON \
		-o build/serving.cdx.json build/serving/bin/python

k8s: install  ## the manifests that are made of topics, alerts and dashboards
	$(BIN)/python -m k8s.generate

schemas: install  ## the schemas of custom resources for the tests; needs the network
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[schemas]'
	$(BIN)/python -m tests.deploy.schemas.make

bench: install  ## the figures of docs/benchmarks.md
	$(BIN)/python -m benchmarks.swap
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.replica
	$(BIN)/python -m benchmarks.overload
	$(BIN)/python -m benchmarks.streams_log
	$(BIN)/python -m benchmarks.kafka
	$(BIN)/python -m benchmarks.worker_memory
	$(BIN)/python -m benchmarks.swap_memory
	$(BIN)/python -m benchmarks.http_memory
	$(BIN)/python -m benchmarks.fuzz
	$(BIN)/python -m benchmarks.rounds
	$(BIN)/python -m benchmarks.tracing
	$(BIN)/python -m benchmarks.overload
	$(BIN)/python -m benchmarks.faults

clean:
	rm -rf $(VENV) build dist *.egg-info
