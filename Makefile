# make setup   installs system packages (with sudo where needed) and the virtual environment; safe to run again
# make demo    three real hosts on this machine, encrypted VMs, a live migration; `make demo-down` removes all
# make test    every test;  make quick  what needs neither root, PostgreSQL nor killed processes, in 90 s
# make packages   .deb packages in dist/, checked by lintian;  make system-test installs them on machines with systemd
# make web-assets   the web console's scripts, from npm
# make docs    the site of the documentation, in .cache/site
# make lint    every check;  make bench  the benchmarks;  make protos  the stubs
# make chaos   random work while processes, networks and the database fail, checked against a model
SHELL := /bin/bash
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Hypervisor drivers in packages of their own: what the tests prove the driver interface with.
DRIVERS := tests/plugins/ostler-qemu-driver tests/plugins/ostler-nspawn-driver
# Tests that share nothing run side by side; a file's tests stay on one worker, for they share fixtures.
PARALLEL := -n $(shell nproc) --dist loadfile
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# This tree before anything installed, so that a second work tree can share an environment.
export PYTHONPATH := $(CURDIR)/common:$(CURDIR)/agent:$(CURDIR)/control:$(CURDIR):$(subst $(NOTHING) ,:,$(DRIVERS:%=$(CURDIR)/%))

# Building libvirt-python; the hypervisor; the lab; the guest image; the database; the checks; what reads user data;
# conversion, with a kernel for its appliance; fencing; the console's browser; alert rules; packages,
# and machines to install them on; the tests' vCenter and the Go example.
PACKAGES := gcc pkg-config python3-dev python3-venv libvirt-dev \
	libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils cryptsetup-bin ovmf swtpm swtpm-tools \
	iproute2 iptables util-linux gnutls-bin \
	fdisk grub-common grub-pc-bin grub-efi-amd64-bin dosfstools mtools kmod busybox-static cpio e2fsprogs \
	postgresql postgresql-client systemd libxml2-utils \
	cloud-init jq \
	virt-v2v guestfish libguestfs-xfs ntfs-3g btrfs-progs nbdkit supermin linux-image-cloud-amd64 openssh-client openssh-server \
	fence-agents ipmitool openipmi \
	chromium \
	prometheus debhelper lintian help2man debootstrap systemd-container \
	golang-go golang-github-vmware-govmomi-dev \
	protoc-gen-go protoc-gen-go-grpc golang-google-grpc-dev golang-google-genproto-dev golang-google-protobuf-dev \
	golang-github-golang-protobuf-1-5-dev

.PHONY: setup demo demo-down test quick lint bench chaos packages system-test protos matrix userdata-table web-assets docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml $(DRIVERS:%=%/pyproject.toml) constraints.txt Makefile
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing:" $$missing; \
	  $(SUDO) apt-get update -q && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; fi
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[agent,control,web,dev,docs]' $(DRIVERS:%=-e %)
	touch $@

protos: $(VENV)/.ready
	$(BIN)/python protos/generate.py

# The build makes the stubs; they are made again only when a proto is newer.
STUBS := common/ostler/py.typed
$(STUBS): $(VENV)/.ready $(wildcard protos/ostler/*/v1/*.proto) protos/generate.py
	$(BIN)/python protos/generate.py

# The page of what works on which volume, from the table that the code asks.
matrix: $(STUBS)
	$(BIN)/python -c 'from ostler_control.volumes.matrix import document; print(document(), end="")' >docs/volume-operations.md

# The table of how formats of user data merge, from the merge itself.
userdata-table: $(STUBS)
	$(BIN)/python -c 'from ostler_control.userdata.matrix import write; write("docs/user-data.md")'

# The console's scripts are kept in the tree; this fetches them again at the pinned versions. Needs npm.
web-assets:
	$(PYTHON) control/web_assets.py

# A broken link or a heading that is gone fails.
docs: $(STUBS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: $(STUBS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.stubs_in_step
	$(BIN)/python -m tests.count_any
	$(BIN)/python -m tests.plain_words
	$(BIN)/python -m tests.api_stability

quick: $(STUBS)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q $(PARALLEL) -m "not slow" tests/unit tests/security

# The lab's tests take turns with a fleet, and mostly wait: so two fleets work side by side. Beside them and the hosts' tests
# run the unit tests, at a lower priority, so that VMs keep their pace; what they print comes at the end.
LABS := -n 2 --dist loadfile
UNIT_LOG := .cache/unit.log
test: $(STUBS)
	mkdir -p .cache
	nice -n 5 $(BIN)/python -m pytest $(PARALLEL) --durations=20 tests/unit tests/security >$(UNIT_LOG) 2>&1 & unit=$$!; \
	$(BIN)/python -m pytest $(PARALLEL) --durations=20 tests/host; hosts=$$?; $(BIN)/python -m pytest $(LABS) --durations=20 tests/lab; labs=$$?; \
	wait $$unit; units=$$?; cat $(UNIT_LOG); exit $$((hosts + labs + units))

# Random work while things break, and whether the answers were kept: make chaos DURATION=600 SEED=7 REPLICAS=3 RUNS=2
chaos: $(STUBS)
	$(BIN)/python -m tests.chaos --duration $(or $(DURATION),60) --seed $(or $(SEED),1) --replicas $(or $(REPLICAS),1) --runs $(or $(RUNS),1)

# The packages on machines with real systemd; builds both first (ten minutes).
system-test: $(STUBS)
	$(SUDO) env PYTHONPATH=$(PYTHONPATH) $(BIN)/python -m pytest --durations=20 tests/system

packages: $(STUBS)
	$(BIN)/python systemd/packages.py

# Root, because the lab makes namespaces; the environment that the commands come from is this one.
demo demo-down: $(STUBS)
	$(SUDO) env PYTHONPATH=$(PYTHONPATH) $(BIN)/python -m tests.lab.demo $(if $(filter demo-down,$@),--down)

# DRS first: it prints, and docs/drs.md explains. Its optimum needs a solver that nothing else needs.
bench: $(STUBS)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -q --disable-pip-version-check highspy
	$(BIN)/python -m tests.bench.drs
	$(SUDO) env PYTHONPATH=$(PYTHONPATH) $(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache $(filter-out common/ostler/client,$(wildcard common/ostler/*))
