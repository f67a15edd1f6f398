# One command for each habit, the same here and in CI. `make` or `make help` lists them.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Where things are built; CI puts them into a cache outside the checkout.
export CARGO_TARGET_DIR ?= $(CURDIR)/target
export ORRERY_VENV ?= $(CURDIR)/.venv
export ORRERY_NODE_MODULES ?= $(CURDIR)/tests/node_modules
PYTHON := $(ORRERY_VENV)/bin/python

.PHONY: help run web check test test-rust test-story test-openapi test-bad-input test-browser test-system-users test-chaos test-install deb bench bench-api bench-proxy config-docs venv node-modules

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

run: venv web ## Build, make a configuration and a password, start a hub on 127.0.0.1:8000
	cargo build --release --locked -p orrery
	@exec scripts/run-hub.sh

web: ## Build the pages' styles and scripts with Vite
	@scripts/build-web.sh

check: web ## Formatting, lints, documentation, dependencies, generated pages: everything that needs no start
	@scripts/check.sh

test: ## Install what the tests need and run everything that CI runs
	@scripts/test.sh

test-rust: web ## Only the Rust tests, on SQLite and on databases started for them
	@scripts/test.sh rust

test-story: venv node-modules web ## Only the HTTP story, against upstream and against Orrery
	@scripts/test.sh story

test-openapi: venv node-modules web ## Only requests made up from the API's own description
	@scripts/test.sh openapi

test-bad-input: venv node-modules web ## Only the bad input
	@scripts/test.sh bad-input

test-browser: venv node-modules web ## Only the browser: the story and a picture of every page
	@scripts/test.sh browser

test-system-users: venv node-modules web ## Only PAM and servers of real system users; needs root
	@scripts/test.sh system-users

test-chaos: venv node-modules web ## Only the restarts: hub and proxy killed in every way under real and fake servers
	@scripts/test.sh chaos

test-install: venv node-modules web ## Only the installations: the Debian package and Ansible, on a clean machine (needs root)
	@scripts/test.sh install

bench: venv node-modules web ## Measure upstream and Orrery side by side and print ratios
	cargo build --release --locked -p orrery
	ORRERY_PROFILE=release $(PYTHON) bench/bench.py

bench-proxy: venv node-modules web ## Measure the proxy beside nginx and configurable-http-proxy; needs nginx
	cargo build --release --locked -p orrery -p orrery-bench-load
	ORRERY_PROFILE=release $(PYTHON) bench/proxy/bench.py

bench-api: venv web ## Measure the REST API with many users, upstream and Orrery, on SQLite and PostgreSQL; needs wrk and the databases
	cargo build --release --locked -p orrery
	ORRERY_PROFILE=release $(PYTHON) bench/api/bench.py

deb: ## Make the Debian package with cargo-deb and print its path
	@scripts/make-deb.sh

config-docs: ## Write the generated pages of docs/reference
	cargo run --locked -p orrery -- docs --write

venv: ## Make the virtual environment with jupyterhub and jupyterlab
	@scripts/make-venv.sh

node-modules: ## Install what the tests need from npm
	@scripts/make-node-modules.sh
