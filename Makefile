# make demo: a cluster on three hosts of this machine. make test: every check. make help: the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Plain runs, whatever the shell has set.
unexport PYTHONPATH PYTHONHOME ANSIBLE_CONFIG ANSIBLE_COLLECTIONS_PATH ANSIBLE_ROLES_PATH ANSIBLE_INVENTORY

.PHONY: help demo test lint unit sanity package molecule integration bench docs changelog venv venvs down clean

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 16

demo: venv ## three healthy members on this machine, from nothing; a minute the second time
	@tests/tools/demo

test: ## every check, from formatting to real hosts (about 20 minutes); the first that fails ends it
	@MAKE="$(MAKE)" tests/tools/stages lint unit sanity package molecule integration

lint: venv ## ruff, mypy, yamllint, ansible-lint, antsibull-changelog
	ruff format --check .
	ruff check .
	mypy
	yamllint --strict .
	ansible-lint --offline
	antsibull-changelog lint

unit: venvs ## unit tests, with the newest Python and with the oldest that a host may have
	pytest tests/unit
	@.venv-hosts/bin/python -c 'import cryptography as c, platform as p; print("The same with the oldest found here: Python", p.python_version(), "and cryptography", c.__version__)' 2>/dev/null
	.venv-hosts/bin/python -m pytest tests/unit

sanity: venv ## ansible-test sanity, without an ignore file
	tests/tools/sanity

package: venv ## builds the collection, installs it elsewhere and checks its playbook there
	tests/tools/package

molecule: venv ## the Molecule scenario on hosts of the lab
	molecule test

integration: venvs ## tests on hosts of the lab
	pytest tests/integration

bench: venv ## the page by hand against site.yml
	bench/bench.py

docs: venv ## writes docs/variables.md from the roles' argument specs
	tests/tools/variables_doc.py >docs/variables.md

changelog: venv ## writes the changelog of a release from its fragments
	antsibull-changelog release

venv:
	@tests/tools/venv .venv requirements/dev.txt newest 3.11 3.14

venvs: venv
	@tests/tools/venv .venv-hosts requirements/hosts.txt oldest 3.8 3.12
	@tests/tools/venv .venv-oldest requirements/oldest.txt newest 3.10 3.12

down: ## takes the demo's hosts down
	lab/lab down --name demo

clean: ## removes what was built here; programs and images of the lab stay cached
	rm -rf build .ansible .mypy_cache .pytest_cache .ruff_cache .venv .venv-hosts .venv-oldest
