# make demo    set up what is missing and embed a few hundred real proteins   (MODEL=esm2_t6_8M_UR50D for real weights)
# make test    set up what is missing and run all tests that need no container engine and no cluster (25 to 60 minutes on two cores)
# make kill-test  1000 real proteins, 2 workers: kill them, Nextflow and everything in mid-run, resume, compare every bit, print a report
# make storm   SIGKILLs at random instants, results compared with an undisturbed run's   (KILLS=200, SEED=0)
# make fuzz   drawn FASTA files and command lines for the split: no traceback, no record lost   (MINUTES=10, SEED=0)
# make test-docker   those in containers: needs a Docker daemon and `make images`; make test-podman: needs Podman with the same images
# make test-slurm   those on a cluster: needs a SLURM with two GPUs, which .ci/slurm-up pretends on a bare Debian machine (root)
# make setup   only set up: .venv from locked requirements, Nextflow
# make lint    what .pre-commit-config.yaml runs: ruff, mypy, the table and the picture that are made from files
# make images  build the three container images (containers/README.md)
# make lock    renew the locked requirements after a change of containers/requirements/*.in (needs uv)

PYTHON  ?= python3
MODEL   ?= random:esm2_t6_8M_UR50D
OUTDIR  ?= results/demo
TESTS   ?= tests
KILLS   ?= 200
SEED    ?= 0
MINUTES ?= 10
LOCK    := containers/requirements/dev.txt
STAMP   := .venv/.complete

.PHONY: setup nextflow demo test kill-test storm fuzz test-docker test-podman test-slurm images lint lock

setup: $(STAMP)

nextflow:
	@tools/nextflow -version > /dev/null

# First what costs seconds to find missing, then the gigabytes.
$(STAMP): $(LOCK) | nextflow
	@command -v $(PYTHON) > /dev/null || { echo "Python is missing (3.10 or newer). Install it: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$$($(PYTHON) -V) is too old, 3.10 or newer is needed; name another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || { echo "Python's venv module is missing. Install it: apt-get install python3-venv"; exit 1; }
	@[ ! -L .venv ] || { echo ".venv is a link to $$(readlink -f .venv): filling it anew would empty that environment; remove the link, or fill its target where it belongs"; exit 1; }
	@echo "filling .venv from $(LOCK), once (torch with CUDA is some 5 GB)"
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --no-deps --require-hashes --requirement $(LOCK)
	@touch $@

demo: setup
	@tools/nextflow run main.nf -profile demo,venv --model '$(MODEL)' --outdir '$(OUTDIR)' -resume

test: setup
	@.venv/bin/python -m pytest -m 'not docker and not podman and not slurm' $(TESTS)

kill-test: setup
	@.venv/bin/python -m tests.kill_report

storm: setup
	@.venv/bin/python -m tests.storm --kills $(KILLS) --seed $(SEED)

fuzz: setup
	@.venv/bin/python -m tests.fuzz --minutes $(MINUTES) --seed $(SEED)

test-docker test-podman test-slurm: test-%: setup
	@.venv/bin/python -m pytest -m $* $(TESTS)

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy
	@.venv/bin/python benchmarks/table.py --check
	@.venv/bin/python docs/images/draw_map.py --check

images:
	@containers/build.sh $(BUILD_OPTIONS)

lock:
	cd containers/requirements && for name in tools embed report dev; do \
	    uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header --no-annotate --no-emit-package kaleido --upgrade $$name.in -o $$name.txt; done
