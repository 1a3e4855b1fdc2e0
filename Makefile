# make demo: a cluster on three hosts of this machine. make test: the checks. make help: the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Plain runs, whatever the shell has set.
unexport PYTHONPATH PYTHONHOME ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATH ANSIBLE_ROLES_PATH ANSIBLE_INVENTORY

.PHONY: help demo test setup lint unit etcd report mutations sanity package molecule integration test-long bench format docs pictures changelog venv venvs down clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 16

demo: venv ## three healthy members on this machine, from nothing; a minute the second time
	@tests/tools/demo

test: ## the checks but those of test-long, from formatting to real hosts (half an hour); the first that fails ends it
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
	@.venv-hosts/bin/python -W ignore -c 'import cryptography as c, sys; print("\nAgain, as on an old host: Python %d.%d, cryptography %s%s" % (*sys.version_info[:2], c.__version__, "" if sys.version_info < (3, 9) else " (there is no Python 3.8 here)"))'
	.venv-hosts/bin/python -m pytest --numprocesses=2 tests/unit

# Each process has network namespaces of its own, so that members of the same addresses run side by side.
etcd: venv ## tests with real etcd processes (3.5, 3.6, 3.7), without hosts; some minutes
	pytest --numprocesses=2 --dist=worksteal --durations=3 -m "not long" tests/etcd

report: venv ## the HTML report in a browser at several widths, light, dark and printed; the alert rules
	@tests/tools/packages
	pytest tests/report

mutations: venv ## bugs planted on purpose, each of which a unit test has to notice: a sample of them; test-long tries them all
	python -m tests.mutations

sanity: venv ## ansible-test sanity, without an ignore file
	tests/tools/sanity

package: venv ## builds the collection, installs it elsewhere and checks its playbook there
	tests/tools/package

molecule: venv ## the Molecule scenario on hosts of the lab
	@mkdir -p build/molecule && touch build/molecule/lab.yml
	MOLECULE_EPHEMERAL_DIRECTORY=$(CURDIR)/build/molecule molecule test

# Half of the time is waiting for kubelets and elections: two labs, side by side. Tests of a file follow each other.
integration: venvs ## tests on hosts of the lab
	pytest --numprocesses=2 --dist=loadfile --durations=5 -m "not long" tests/integration

test-long: venvs ## further tests on hosts of the lab, which take their time and are not in test: before a release
	python -m tests.mutations --all
	pytest --numprocesses=2 --dist=worksteal --durations=5 -rP -m long tests/etcd tests/integration

bench: venv ## the page by hand against site.yml, rolling changes and their limits, etcd_pki against kubeadm
	bench/bench.py
	bench/rolling.py
	bench/pki.py

format: venv ## formats Python, and mends what ruff can
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

clean: ## removes what was built here; programs and images of the lab stay cached
	rm -rf build .ansible .mypy_cache .pytest_cache .ruff_cache .venv .venv-hosts .venv-oldest
