# Everything on a fresh machine, set-up included. Needs a Rust toolchain, a C++ compiler and Python 3 with pip.

CARGO ?= cargo
PYTHON_PACKAGES := .python
MATURIN := target/maturin/bin/maturin

.PHONY: build quickstart wheel archive test-package quickstart-text test gpu-rehearsal test-rust test-readme test-python real-lm trl-parity lint browser-check gpu-check world-claims rounds-claims text-claims versus-python bench-trl libtorch clean

build: libtorch
	$(CARGO) build --release

# RPO and DreamBooth on the embedded world, judged and reported: minutes on two cores.
quickstart: build
	target/release/preftune quickstart --subject $(or $(SUBJECT),dog)

# The programs with all their files, for machines without a Rust toolchain: as a Python package that brings no Python code, and
# as an archive with libtorch for CPUs inside. Into target/package/.
wheel: libtorch $(MATURIN)
	PATH="$(abspath $(dir $(MATURIN))):$$PATH" packaging/build.sh wheel

archive: libtorch
	packaging/build.sh archive

# A real language model of 135M parameters (98 MB from PyPI) tuned by DPO to its own more positive answers, judged and
# reported.
quickstart-text: build
	./scripts/quickstart_text.sh

# A real model's GGUF file read as transformers reads it: ids, chats, perplexity, log-probs, the exported folder.
real-lm: build $(PYTHON_PACKAGES)/installed
	PYTHONPATH=$(PYTHON_PACKAGES) python3 tests/python/real_lm.py target/release/preftune "$$(./scripts/smollm2.sh)"

# Eleven objectives beside TRL's trainers, step by step; its speed and memory beside ours. Need `trl` and `datasets` too.
trl-parity: libtorch
	$(CARGO) build
	python3 tests/python/trl_parity.py target/debug/preftune

bench-trl: build
	./scripts/smollm2.sh >/dev/null
	python3 benches/versus_python/text_dpo.py

# What CI runs.
test: lint test-rust gpu-rehearsal test-readme test-python test-package

lint: libtorch
	$(CARGO) fmt --check
	$(CARGO) clippy --quiet --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --no-deps

test-rust: libtorch
	$(CARGO) test

# Every verb and objective on a fake GPU (tests/fake_cuda), the tests that need a GPU too: devices, figures beside the CPU's, and
# budgets of launches, copies and waits.
gpu-rehearsal: libtorch
	$(CARGO) build
	python3 tests/python/gpu_rehearsal.py target/debug/preftune
	LD_LIBRARY_PATH="$(abspath target/fake_cuda):$$LD_LIBRARY_PATH" $(CARGO) test --quiet -- --ignored gpu_

# Every command of the README, run from a fresh clone with tiny inputs; those of the other documents looked up; links, paths.
test-readme: libtorch
	$(CARGO) build
	python3 tests/python/readme.py target/debug/preftune

# What we write loads in Python diffusers and gives the same image there, single files and autoencoders beside models too; what we
# train on pairs of images, torch trains too.
test-python: libtorch $(PYTHON_PACKAGES)/installed
	$(CARGO) build
	PYTHONPATH=$(PYTHON_PACKAGES) python3 tests/python/interop.py target/debug/preftune
	PYTHONPATH=$(PYTHON_PACKAGES) python3 tests/python/single_file.py target/debug/preftune
	PYTHONPATH=$(PYTHON_PACKAGES) python3 tests/python/pairs_parity.py target/debug/preftune

# The wheel and the archive in an empty folder, without a Rust toolchain: from installation to the report.
test-package: libtorch $(MATURIN)
	PATH="$(abspath $(dir $(MATURIN))):$$PATH" python3 tests/python/package.py

# Reports in Debian's chromium: nothing is fetched, images and charts are there, nothing is too wide. And whole sessions of
# `preftune compare`, by keys, mouse and touch.
browser-check: libtorch
	$(CARGO) build
	python3 tests/browser/report.py target/debug/preftune
	python3 tests/browser/compare.py target/debug/preftune

# All tests that need a GPU; the latest result is kept in benches/results/.
gpu-check: libtorch
	$(CARGO) test --release -- --ignored --nocapture gpu_

# RPO beside DreamBooth over subjects and seeds of the embedded world: about four hours on two cores, in as many calls as one
# likes (BUDGET=MINUTES). Rows and tables in benches/results/.
world-claims: build
	python3 benches/claims/world.py $(if $(BUDGET),--budget $(BUDGET))

# What rounds on a model's own images add to such runs, in as long and likewise in parts.
rounds-claims: build
	python3 benches/claims/rounds.py $(if $(BUDGET),--budget $(BUDGET))

# The image path and its peers in Python, one after the other on the same threads. Tables in benches/results/. With
# FULL_SIZE=FOLDER (filled by tests/python/full_size.py) at Stable Diffusion 1.5's size too, with PHOTOS=FOLDER (a clone of
# google/dreambooth) scoring.
versus-python: build $(PYTHON_PACKAGES)/installed
	PYTHONPATH=$(PYTHON_PACKAGES) python3 benches/versus_python/image.py \
		$(if $(FULL_SIZE),--full-size $(FULL_SIZE)) $(if $(PHOTOS),--photos $(PHOTOS))

# All objectives of language models on controlled sentiment, with a model made in seconds. Table in benches/results/.
text-claims: build
	python3 benches/claims/sentiment.py --rounds

libtorch:
	./scripts/libtorch.sh

$(PYTHON_PACKAGES)/installed: tests/golden/requirements.txt
	rm -rf $(PYTHON_PACKAGES)
	python3 -m pip install --quiet --disable-pip-version-check --target $(PYTHON_PACKAGES) -r $<
	touch $@

$(MATURIN):
	python3 -m pip install --quiet --disable-pip-version-check --target target/maturin "maturin>=1.9,<2"

clean:
	$(CARGO) clean
