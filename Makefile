# SPDX-License-Identifier: GPL-2.0-only
# make conformance   check Linux's page-table dump on QEMU's SMMUv3: installs, fetches and builds what is missing, then tests
# make test          this project's own tests, and a short conformance run
# make fresh         what CI runs, in a fresh Debian that is made for it: needs root, takes half an hour
# Everything else goes through the virtual environment: .venv/bin/pytest, .venv/bin/pytest-iommu

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
FLAVOURS ?= plain,debug
# All share one kernel; a scenario says which of them it is for.
MACHINES ?= smmuv3,smmuv3s1,smmuv3s2,smmuv3topo,smmuv3ids
# More options for pytest, e.g. ARGS='-k merge --iommu-kernel=../linux'
ARGS ?=
# What `make test` runs of the suite: enough to see that kernel, guest, agent, module and dump work together.
QUICK ?= -k one-page

CONFORMANCE := --pyargs pytest_iommu.conformance --iommu-target=qemu

.PHONY: conformance races test check conformance-all bench kunit mutants fresh setup clean distclean

conformance: setup
	$(BIN)/pytest $(CONFORMANCE) --iommu-machine=$(MACHINES) --iommu-flavour=$(FLAVOURS) -n $(JOBS) $(ARGS)

test: check
	$(BIN)/pytest tests/qemu --iommu-target=qemu --iommu-machine=$(MACHINES) -n $(JOBS)
	$(BIN)/pytest $(CONFORMANCE) --iommu-flavour=plain -n $(JOBS) $(QUICK) $(ARGS)

# No kernel runs in these; those of the kernel code fetch the source if it is not there yet.
check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest-iommu rules --check
	$(BIN)/python tests/mutants/run.py --check
	$(BIN)/pytest tests --ignore=tests/kunit --ignore=tests/mutants --ignore=tests/qemu -n $(JOBS)

# Every flavour there is, also those that take hours; and the kernel's own tests.
conformance-all: setup
	$(BIN)/pytest $(CONFORMANCE) --iommu-machine=$(MACHINES) --iommu-flavour=$$($(BIN)/pytest-iommu flavours) -n $(JOBS) $(ARGS)
	@$(MAKE) --no-print-directory kunit ARGS='$(filter --iommu-%,$(ARGS))'

# The kernel's own tests of page tables, on User Mode Linux: building it takes minutes, running it 40 s.
kunit: setup
	$(BIN)/pytest tests/kunit $(ARGS)

# All that races, or is counted, on the kernel that watches itself: KASAN, lockdep, RCU.
races: setup
	$(BIN)/pytest $(CONFORMANCE) --iommu-flavour=debug -n $(JOBS) -m iommu_boot_mode $(ARGS)

bench: setup
	$(BIN)/python tools/bench $(ARGS)

mutants: setup
	$(BIN)/python tests/mutants/run.py $(ARGS)

# Without root it says so. ARGS=--cold takes nothing along that was downloaded before.
fresh:
	tools/fresh $(ARGS) .ci/run --here

setup:
	@PYTHON='$(PYTHON)' tools/setup
	@$(MAKE) --no-print-directory $(VENV)/.installed

# The stamp tells whether the project's dependencies may have changed since; only then are they installed anew.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .pytest-iommu
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The cache too: kernel source, builds, QEMU.
distclean:
	[ ! -x $(BIN)/pytest-iommu ] || $(BIN)/pytest-iommu cache prune --max-size 0
	$(MAKE) clean
