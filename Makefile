# Names for plain commands. `make help` lists them; every recipe can be typed by hand.

PYTHON ?= $(shell scripts/find-python)
VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
BEAM_VERSION := $(shell cat proto/BEAM_VERSION)
INPUT ?= tests/data/kinglear.txt
OUTPUT ?= target/wordcount
# Of tests/conformance/runs.py; all of them if none is named.
SUITE ?= all
ENV ?=
DEBUG_BIN := target/debug/beamline
RELEASE_BIN := target/release/beamline
FLOOR_BIN := target/release/floor
SCRIPTED_BIN := target/release/scripted
# Seconds that a benchmark waits at most, before each job, for others to leave the machine alone.
QUIET ?= 3
# Where `make flink-test` keeps a Flink distribution and Beam's runner jar.
FLINK_TEST_HOME ?= target/flink
# How many random cases of each simulation `make simulate` runs.
SEEDS ?= 10000
# Seconds that the Python tests may take in all; each test has its own bound in tests/sdk/pytest.ini.
SDK_TEST_SECONDS ?= 2100

.DEFAULT_GOAL := help
.PHONY: help run test test-rust test-sdk check-proto venv simulate conformance conformance-go conformance-java flink-test conformance-flink bench-flink bench bench-micro bench-scripted bench-latency bench-memory endurance fmt release debug clean-venv

help: ## list the names
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 26

run: release venv ## Beam's Python WordCount on a fresh server, checked (INPUT=/some/file, OUTPUT=folder)
	$(VENV_PYTHON) scripts/wordcount.py --beamline $(RELEASE_BIN) --input '$(INPUT)' --output '$(OUTPUT)'

test: test-rust check-proto test-sdk ## everything that .ci/run runs

test-rust: ## formatting, lints and the Rust tests
	cargo fmt --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --workspace

check-proto: venv ## proto/ is what the pinned SDK carries
	$(VENV_PYTHON) proto/regenerate.py --check

test-sdk: debug venv ## real Python jobs: LOOPBACK, EXTERNAL and PROCESS (ARGS='-k name' for some)
	BEAMLINE_BIN=$(abspath $(DEBUG_BIN)) $(VENV_PYTHON) -m pytest -c tests/sdk/pytest.ini \
	  --session-timeout=$(SDK_TEST_SECONDS) tests/sdk $(ARGS)

flink-test: debug venv ## jobs on a real Flink cluster of this machine (needs Java and Maven; ARGS='-k name' for some)
	PYTHON=$(abspath $(VENV_PYTHON)) tests/flink/get-flink $(FLINK_TEST_HOME)
	BEAMLINE_BIN=$(abspath $(DEBUG_BIN)) FLINK_TEST_HOME=$(abspath $(FLINK_TEST_HOME)) \
	  $(VENV_PYTHON) -m pytest -c tests/flink/pytest.ini tests/flink $(ARGS)

conformance-flink: release $(VENV)/conformance.stamp ## the SDK's suites on Flink, also through Beam's own job server (ARGS='--suite portable')
	PYTHON=$(abspath $(VENV_PYTHON)) tests/flink/get-flink $(FLINK_TEST_HOME)
	$(VENV_PYTHON) tests/flink/suites.py --beamline $(RELEASE_BIN) --home $(FLINK_TEST_HOME) --output docs/flink-suites.md $(ARGS)

bench-flink: release venv ## what a job costs on Flink beside Beam's own ways, to docs/flink-benchmarks.md (ARGS='--rounds N')
	PYTHON=$(abspath $(VENV_PYTHON)) tests/flink/get-flink $(FLINK_TEST_HOME)
	$(VENV_PYTHON) benches/flink.py --beamline $(RELEASE_BIN) --home $(FLINK_TEST_HOME) --output docs/flink-benchmarks.md $(ARGS)

simulate: ## random plans and pipelines under random schedules and faults, in release (SEEDS=10000; SEED=n for one again)
	$(if $(SEED),SEED=$(SEED),SEEDS=$(SEEDS)) cargo test -p runner-core --release --lib simulation
	$(if $(SEED),SEED=$(SEED),SEEDS=$(SEEDS)) cargo test -p beamline-tests --release --test simulation

conformance: release $(VENV)/conformance.stamp ## the SDK's own suites, to docs/capabilities.md (SUITE=portable ENV=EXTERNAL for some)
	$(VENV_PYTHON) tests/conformance/run.py --beamline $(RELEASE_BIN) --suite $(SUITE) $(if $(ENV),--env $(ENV)) $(ARGS)

conformance-go: release ## the Go SDK's own integration tests with Go workers; needs Go (ARGS='--prism PATH')
	$(PYTHON) tests/conformance/go_suite.py --beamline $(RELEASE_BIN) $(ARGS)

conformance-java: release ## the Java SDK's own ValidatesRunner tests with Java workers; needs Java and Maven (ARGS='--prism PATH')
	$(PYTHON) tests/conformance/java_suite.py --beamline $(RELEASE_BIN) $(ARGS)

bench: release venv ## whole jobs beside their peers, to docs/benchmarks.md (ARGS='--job NAME' for some, printed only)
	cargo build --release -p beamline-benches --bin floor
	$(VENV_PYTHON) benches/run.py --beamline $(RELEASE_BIN) --floor $(FLOOR_BIN) --quiet $(QUIET) $(or $(ARGS),--output docs/benchmarks.md)

bench-micro: ## parts of the runner by themselves, each beside what is physically possible (ARGS=skip for some)
	cargo bench -p beamline-benches --bench micro --bench engine --bench data_plane -- $(ARGS)

bench-scripted: release ## elements per second with workers in Rust that cost nothing (ARGS='--millions 1')
	cargo build --release -p beamline-benches --bin scripted
	$(SCRIPTED_BIN) --beamline $(RELEASE_BIN) $(ARGS)

bench-latency: release venv ## streaming latency beside Prism, to docs/latency.md (ARGS='--rounds N')
	$(VENV_PYTHON) benches/latency.py --beamline $(RELEASE_BIN) --output docs/latency.md $(ARGS)

bench-memory: release venv ## a GroupByKey of up to ten times the memory (printed; ARGS="--times 1 2")
	$(VENV_PYTHON) benches/past_memory.py --beamline $(RELEASE_BIN) $(ARGS)

endurance: release venv ## ten minutes of streaming, drained, every element accounted for (ARGS='--minutes N')
	$(VENV_PYTHON) benches/endurance.py --beamline $(RELEASE_BIN) $(ARGS)

debug: ## target/debug/beamline
	cargo build -p beamline

release: ## target/release/beamline
	cargo build --release -p beamline

fmt: ## format the Rust code
	cargo fmt

venv: $(VENV)/tests.stamp ## .venv with the pinned Beam SDK and what the tests need

$(VENV)/tests.stamp: tests/requirements.txt proto/BEAM_VERSION
	test -x $(VENV_PYTHON) || $(PYTHON) -m venv $(VENV)
	$(VENV_PYTHON) -m pip install --quiet 'apache-beam==$(BEAM_VERSION)' -r tests/requirements.txt
	touch $@

$(VENV)/conformance.stamp: tests/conformance/requirements.txt $(VENV)/tests.stamp
	$(VENV_PYTHON) -m pip install --quiet -r tests/conformance/requirements.txt
	touch $@

clean-venv: ## remove .venv
	rm -rf $(VENV)
