# SPDX-License-Identifier: GPL-2.0-only
# make conformance   check Linux's page-table dump on QEMU's SMMUv3: installs, fetches and builds what is missing, then tests
# make kernels       judge the page tables of Debian's kernels as they are, without a dump
# make kernels-others       the same on VT-d and AMD's IOMMU
# make conformance-others   what `make conformance` does, on VT-d, AMD's and RISC-V's IOMMU
# make test          this project's own tests, and a short conformance run
# make fresh         run the CI job in a newly made Debian: needs root, takes half an hour
# For everything else use the virtual environment: .venv/bin/pytest, .venv/bin/pytest-iommu

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
FLAVOURS ?= plain,debug
# These share one kernel; a scenario names the machines that it runs on.
MACHINES ?= smmuv3,smmuv3s1,smmuv3s2,smmuv3topo,smmuv3ids
# Machines with other IOMMUs, each with a run of its own: VT-d, AMD, RISC-V.
OTHERS ?= vtd vtdsm vtdsm2 amd riscv
# What `make kernels` judges: kernel trees, or series of Debian's linux-source.
KERNELS ?= debian:6.12 debian:7.2 debian:7.3
# More options for pytest, e.g. ARGS='-k merge --iommu-kernel=../linux'
ARGS ?=
# The part of the suite that `make test` runs: enough to see that kernel, guest, agent, module and dump work together.
QUICK ?= -k one-page

CONFORMANCE := --pyargs pytest_iommu.conformance --iommu-target=qemu

# Texts that `make fuzz` gives to the parsers of dialects, over all of them.
FUZZ ?= 1000000

.PHONY: conformance conformance-others kernels kernels-others races test check conformance-all bench fuzz kunit series trees mutants fresh setup clean distclean

conformance: setup
	$(BIN)/pytest $(CONFORMANCE) --iommu-machine=$(MACHINES) --iommu-flavour=$(FLAVOURS) -n $(JOBS) $(ARGS)

# Nothing is put into these kernels. One build each, of ten minutes; a kernel that fails does not hinder the next.
kernels: setup
	@status=0; for kernel in $(KERNELS); do \
		echo "== $$kernel"; \
		$(BIN)/pytest $(CONFORMANCE) --iommu-kernel="$$kernel" --iommu-reference=never --iommu-strict \
			--iommu-machine=smmuv3,smmuv3s1,smmuv3s2,smmuv3topo -n $(JOBS) $(ARGS) || status=1; \
	done; exit $$status

# The same on VT-d and AMD's IOMMU, for which each kernel is built once more. What one is known to do wrong is expected.
kernels-others: ARCHES = x86_64
kernels-others: setup
	@status=0; for kernel in $(KERNELS); do for machine in $(filter-out riscv,$(OTHERS)); do \
		echo "== $$kernel on $$machine"; \
		known=tests/known/$${kernel#debian:}-$${machine%sm*}.yaml; \
		$(BIN)/pytest $(CONFORMANCE) --iommu-kernel="$$kernel" --iommu-reference=never --iommu-strict \
			--iommu-machine=$$machine $$([ ! -f $$known ] || echo --iommu-known=$$known) -n $(JOBS) $(ARGS) || status=1; \
	done; done; exit $$status

test: check
	$(BIN)/pytest tests/qemu --iommu-target=qemu --iommu-machine=$(MACHINES) -n $(JOBS)
	$(BIN)/pytest $(CONFORMANCE) --iommu-flavour=plain -n $(JOBS) $(QUICK) $(ARGS)

# These tests run no kernel. The tests of the kernel code fetch the kernel source if it is missing.
check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest-iommu rules --check
	$(BIN)/python tests/mutants/run.py --check
	$(BIN)/pytest tests --ignore=tests/kunit --ignore=tests/mutants --ignore=tests/qemu -n $(JOBS)

# The machines with other IOMMUs: two more kernels, for x86_64 and riscv64.
conformance-others: ARCHES = x86_64 riscv
conformance-others: setup
	@status=0; for machine in $(OTHERS); do \
		echo "== $$machine"; \
		$(BIN)/pytest $(CONFORMANCE) --iommu-machine=$$machine -n $(JOBS) $(ARGS) || status=1; \
	done; exit $$status

# All flavours, including those that take hours, all machines, and the kernel's own tests.
conformance-all: setup
	$(BIN)/pytest $(CONFORMANCE) --iommu-machine=$(MACHINES) --iommu-flavour=$$($(BIN)/pytest-iommu flavours) -n $(JOBS) $(ARGS)
	@$(MAKE) --no-print-directory conformance-others
	@$(MAKE) --no-print-directory kunit ARGS='$(filter --iommu-%,$(ARGS))'

# The kernel's own page-table tests, on User Mode Linux: the build takes minutes, the run 40 s.
kunit: setup
	$(BIN)/pytest tests/kunit $(ARGS)

# Each patch of the reference implementation built for three architectures, with W=1, sparse and checkpatch: half an hour.
series: setup
	$(BIN)/python tools/series $(ARGS)

# All tests with a boot mode of their own (races, counted costs), on the debug kernel: KASAN, lockdep, RCU.
races: setup
	$(BIN)/pytest $(CONFORMANCE) --iommu-flavour=debug -n $(JOBS) -m iommu_boot_mode $(ARGS)

bench: ARCHES = x86_64 riscv
bench: setup
	$(BIN)/python tools/bench $(ARGS)
	$(BIN)/python tools/side-by-side
	$(BIN)/python tools/parsers

# Kernel trees that print the SMMUv3 series of 2021 and 2026: ten minutes for the first build, then a minute each.
trees: setup
	PYTEST_IOMMU_TREES=1 $(BIN)/pytest tests/qemu/test_other_trees.py --iommu-target=qemu $(ARGS)

# Mutated texts of the corpus for the parsers of dialects.
fuzz: setup
	PYTEST_IOMMU_FUZZ=$(FUZZ) $(BIN)/pytest tests/unit/test_text_fuzz.py -k many_texts -n $(JOBS) $(ARGS)

mutants: setup
	$(BIN)/python tests/mutants/run.py $(ARGS)

# Without root this fails with a message. ARGS=--cold reuses no earlier downloads.
fresh:
	tools/fresh $(ARGS) .ci/run --here

setup:
	@PYTHON='$(PYTHON)' tools/setup $(ARCHES)
	@$(MAKE) --no-print-directory $(VENV)/.installed

# The stamp is older than pyproject.toml if the dependencies may have changed; only then are they installed again.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .pytest-iommu
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Also removes the cache: kernel source, builds, QEMU.
distclean:
	[ ! -x $(BIN)/pytest-iommu ] || $(BIN)/pytest-iommu cache prune --max-size 0
	$(MAKE) clean
