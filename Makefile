# Two commands matter: `make demo` and `make test`. Both first make .venv; a repeat finds it ready.
#   TORCH=auto|cpu|cuda|skip   which build of torch (auto: CUDA where a GPU is seen, else the small CPU build)
#   PYTHON=python3.12          which interpreter, 3.11 or later
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
TORCH ?= auto
TORCH_VERSION ?= 2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
# the version that CUDA builds of this torch bring along; on a CPU it only serves the interpreter in the tests
TRITON_VERSION ?= 3.7.1
BIN := $(VENV)/bin
HASH := $(shell cat pyproject.toml kernels/pyproject.toml constraints.txt Makefile 2>/dev/null | cksum | cut -d' ' -f1)
KIND := $(if $(filter auto,$(TORCH)),$(shell if [ "$$(uname -s)" = Darwin ]; then echo plain; elif nvidia-smi -L >/dev/null 2>&1 || [ -e /dev/nvidia0 ]; then echo cuda; else echo cpu; fi),$(TORCH))
BASE := $(VENV)/.base-$(KIND)-$(HASH)
DEMO := $(VENV)/.demo-$(KIND)-$(HASH)
FULL := $(VENV)/.full-$(KIND)-$(HASH)
DEMO_OUTPUT ?= runs/demo

.PHONY: demo test lint types unit wheels test-extras fuzz docs docs-test test-slow kernels-aot gpu bench reliability clean help
help:
	@echo "make demo          make a small dataset, plan, train, predict, evaluate, and write $(DEMO_OUTPUT)/report.html"
	@echo "make test          lint, types and all quick tests (under 12 minutes on 2 cores)"
	@echo "make wheels        medseg-kernels and medseg as wheels in dist/"
	@echo "make test-extras   the tests across sites with NVFlare, in .venv-extras and .venv-psi, which it makes; writes docs/collaboration.json"
	@echo "make docs          the documentation as a site, in site/, which opens from disk"
	@echo "make docs-test     build it, follow every link, run every tutorial"
	@echo "make fuzz          200 000 mutated bundle files under an audit hook (ten minutes); continues where it ended"
	@echo "make test-slow     the tests marked slow"
	@echo "make kernels-aot   compile every GPU kernel for every architecture, without a GPU"
	@echo "make gpu           everything worth knowing of a GPU in eight minutes (kernels/benchmarks/gpu_once.py); GPU_OUTPUT=DIR"
	@echo "make bench         the tables of kernels/benchmarks and benchmarks (hours)"
	@echo "make reliability   the full figures of docs/reliability.md"

# $(1): bin folder of the environment. The CPU build is small; the plain one brings gigabytes of CUDA.
define install_torch
case "$(KIND)" in \
  cpu) $(1)/pip install -q "torch==$(TORCH_VERSION)+cpu" 2>/dev/null \
       || $(1)/pip install -q "torch==$(TORCH_VERSION)+cpu" --extra-index-url $(TORCH_CPU_INDEX) 2>/dev/null \
       || { echo "note: no CPU build of torch $(TORCH_VERSION) found; the plain one is several gigabytes"; \
            $(1)/pip install -q "torch==$(TORCH_VERSION)"; } ;; \
  skip) echo "TORCH=skip: using the torch that $(1) has" ;; \
  *) $(1)/pip install -q "torch==$(TORCH_VERSION)" ;; \
esac
endef

$(BASE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "medseg needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version). Name another with PYTHON=python3.12"; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.base-* $(VENV)/.demo-* $(VENV)/.full-* $(VENV)/.docs-*
	@$(call install_torch,$(BIN))
	@touch $@

$(DEMO): $(BASE)
	@echo "installing medseg (a minute or two)"
	@$(BIN)/pip install -q -c constraints.txt -e kernels -e '.[demo,openvino]'
	@touch $@

$(FULL): $(BASE)
	@echo "installing medseg with its test tools (two or three minutes)"
	@$(BIN)/pip install -q -c constraints.txt -e kernels -e '.[demo,dev,dicom,export,openvino,browser]'
	@$(BIN)/python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("triton") is None)' \
	  || $(BIN)/pip install -q "triton==$(TRITON_VERSION)"
	@touch $@

demo: $(DEMO)
	@$(BIN)/python -m medseg demo --output $(DEMO_OUTPUT)

lint: $(FULL)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q . || { echo "run: $(BIN)/ruff format ."; exit 1; }

types: $(FULL)
	@$(BIN)/mypy

# Two processes of one thread each: torch's own threads would fight over the two cores.
unit: $(FULL)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not gpu"

# mypy's one process beside the tests' two
test: lint
	@$(MAKE) --no-print-directory -j2 types unit

# medseg-kernels is of use alone, beside torch; medseg needs both
wheels: $(BASE)
	@rm -rf dist build kernels/build
	@$(BIN)/pip wheel -q --no-deps -w dist ./kernels .
	@ls dist

# nvflare brings web servers and pins of its own: an environment beside .venv, never in it
EXTRAS ?= .venv-extras
EXTRAS_DONE := $(EXTRAS)/.extras-$(KIND)-$(HASH)
$(EXTRAS_DONE):
	@[ -x $(EXTRAS)/bin/python ] || $(PYTHON) -m venv $(EXTRAS)
	@rm -f $(EXTRAS)/.extras-*
	@$(call install_torch,$(EXTRAS)/bin)
	@$(EXTRAS)/bin/pip install -q -c constraints.txt -e kernels -e '.[federated,ray,dev]'
	@touch $@

# private intersection pins protobuf, which others of the extras want newer
PSI ?= .venv-psi
PSI_DONE := $(PSI)/.psi-$(KIND)-$(HASH)
$(PSI_DONE):
	@[ -x $(PSI)/bin/python ] || $(PYTHON) -m venv $(PSI)
	@rm -f $(PSI)/.psi-*
	@$(call install_torch,$(PSI)/bin)
	@$(PSI)/bin/pip install -q -c constraints.txt -e kernels -e '.[psi,dev]'
	@touch $@

test-extras: $(EXTRAS_DONE) $(PSI_DONE)
	@OMP_NUM_THREADS=1 MEDSEG_EXTRAS_RECORD=docs/collaboration.json $(EXTRAS)/bin/python -m pytest -q tests/collaboration tests/commands/cohort -m "not gpu"
	@OMP_NUM_THREADS=1 MEDSEG_EXTRAS_RECORD=docs/collaboration.json $(PSI)/bin/python -m pytest -q tests/collaboration/test_shared_names.py

DOCS := $(VENV)/.docs-$(KIND)-$(HASH)
$(DOCS): $(FULL)
	@$(BIN)/pip install -q -c constraints.txt -e kernels -e '.[docs]'
	@touch $@

docs: $(DOCS)
	@$(BIN)/python -m docs.site --output site

docs-test: $(DOCS)
	@$(BIN)/python -m pytest -q tests/docs_site tests/test_docs.py
	@OMP_NUM_THREADS=1 $(BIN)/python -m docs.site.tutorial --check

fuzz: $(FULL)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.fuzz_bundles --mutations 200000 --output docs/fuzz_bundles.json

test-slow: $(FULL)
	@$(BIN)/python -m pytest -q -m "slow"

kernels-aot: $(FULL)
	@$(BIN)/python -m pytest -q tests/kernels -m "slow" -k aot

# no $(FULL): a bare machine with torch, triton and numpy is enough
GPU_OUTPUT ?= runs/gpu
gpu:
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) kernels/benchmarks/gpu_once.py --budget 450 --out $(GPU_OUTPUT)

bench: $(FULL)
	@for script in kernels/benchmarks/bench_*.py benchmarks/bench_*.py \
	  benchmarks/networks_memory.py benchmarks/networks_speed.py benchmarks/prediction.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

reliability: $(FULL)
	@$(BIN)/python -m tests.reliability.run

clean:
	rm -rf $(VENV) build dist *.egg-info kernels/build kernels/*.egg-info
