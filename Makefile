# make demo: a cluster on three hosts of this machine. make test: the checks. make help: the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Settings of the shell would change what is tested.
unexport PYTHONPATH PYTHONHOME ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATH ANSIBLE_ROLES_PATH ANSIBLE_INVENTORY

.PHONY: help demo test setup lint unit etcd report mutations sanity package molecule integration test-long bench format docs pictures changelog venv venvs down clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 16

demo: venv ## three healthy members on this machine, from nothing; a minute the second time
	@tests/tools/demo

test: ## all checks except those of test-long, from formatting to real hosts (half an hour); stops at the first failure
	@MAKE="$(MAKE)" tests/tools/stages setup lint unit package etcd+sanity mutations molecule+report integration

setup: venvs ## installs what this machine lacks: Python tools here, Debian packages for the lab and the report's tests
	lab/lab setup
	tests/tools/packages

lint: venv ## ruff, mypy, yamllint, ansible-lint, antsibull-changelog
	ruff format --check .
	ruff check .
	mypy
	yamllint --strict .
	ansible-lint --offline
	antsibull-changelog lint

unit: venvs ## unit tests, with the newest Python and with the oldest that a host may have
	pytest --numprocesses=2 tests/unit
	@.venv-hosts/bin/python -W ignore -c 'import cryptography as c, sys; print("\nAgain, with the Python of an old host: %d.%d, cryptography %s%s" % (*sys.version_info[:2], c.__version__, "" if sys.version_info < (3, 9) else " (there is no Python 3.8 here)"))'
	.venv-hosts/bin/python -m pytest --numprocesses=2 tests/unit

# Each process has its own network namespaces: members with the same addresses run side by side.
etcd: venv ## tests with real etcd processes (3.5, 3.6, 3.7), without hosts; some minutes
	pytest --numprocesses=2 --dist=worksteal --durations=3 -m "not long" tests/etcd

report: venv ## the HTML report in a browser at several widths, light, dark and printed; the alert rules
	@tests/tools/packages
	pytest tests/report

mutations: venv ## plants a sample of bugs, each of which a unit test must notice; test-long plants all
	python -m tests.mutations

sanity: venv ## ansible-test sanity, without an ignore file
	tests/tools/sanity

package: venv ## builds the collection, installs it elsewhere and checks its playbook there
	tests/tools/package

molecule: venv ## the Molecule scenario on hosts of the lab
	@mkdir -p build/molecule && touch build/molecule/lab.yml
	MOLECULE_EPHEMERAL_DIRECTORY=$(CURDIR)/build/molecule molecule test

# Two labs side by side: half of the time is waiting for kubelets and elections. The tests of one file share a lab.
integration: venvs ## tests on hosts of the lab
	pytest --numprocesses=2 --dist=loadfile --durations=5 -m "not long" tests/integration

test-long: venvs ## slow tests that are not in test, for use before a release; goes on where it was stopped
	@mkdir -p build
	pytest --numprocesses=2 --dist=worksteal --durations=5 -rP -m long --resume build/test-long.jsonl tests/etcd tests/integration
	python -m tests.mutations --all

bench: venv ## compares site.yml with the page by hand, rolling changes with their limits, etcd_pki with kubeadm
	bench/bench.py
	bench/rolling.py
	bench/pki.py

format: venv ## formats Python and applies the fixes of ruff
	ruff check --fix .
	ruff format .

docs: venv ## writes docs/variables.md from the roles' argument specs
	python tests/tools/variables_doc.py

pictures: venv ## takes the pictures of the report in docs/, of the demo's cluster
	@tests/tools/packages
	tests/tools/pictures

changelog: venv ## writes the changelog of a release from its fragments
	antsibull-changelog release

venv:
	@tests/tools/venv .venv requirements/dev.txt newest 3.11 3.14

venvs: venv
	@tests/tools/venv .venv-hosts requirements/hosts.txt oldest 3.8 3.14
	@tests/tools/venv .venv-oldest requirements/oldest.txt oldest 3.10 3.14

down: ## takes the demo's hosts down
	lab/lab down --name demo

clean: ## removes build results and Python environments; the lab's programs and images stay cached
	rm -rf build .ansible .mypy_cache .pytest_cache .ruff_cache .venv .venv-hosts .venv-oldest
