# Everything on a fresh machine, set-up included. Needs a Rust toolchain, a C++ compiler and Python 3 with pip.

CARGO ?= cargo
PYTHON_PACKAGES := .python

.PHONY: build test test-rust test-python lint browser-check gpu-check libtorch clean

build: libtorch
	$(CARGO) build --release

# What CI runs.
test: lint test-rust test-python

lint: libtorch
	$(CARGO) fmt --check
	$(CARGO) clippy --quiet --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --quiet --no-deps

test-rust: libtorch
	$(CARGO) test

# What we write loads in Python diffusers and gives the same image there.
test-python: libtorch $(PYTHON_PACKAGES)/installed
	$(CARGO) build
	PYTHONPATH=$(PYTHON_PACKAGES) python3 tests/python/interop.py target/debug/preftune

# Reports in Debian's chromium: nothing is fetched, images and charts are there, nothing is too wide.
browser-check: libtorch
	$(CARGO) build
	python3 tests/browser/report.py target/debug/preftune

# All tests that need a GPU; the latest result is kept in benches/results/.
gpu-check: libtorch
	$(CARGO) test --release -- --ignored --nocapture gpu_

libtorch:
	./scripts/libtorch.sh

$(PYTHON_PACKAGES)/installed: tests/golden/requirements.txt
	rm -rf $(PYTHON_PACKAGES)
	python3 -m pip install --quiet --disable-pip-version-check --target $(PYTHON_PACKAGES) -r $<
	touch $@

clean:
	$(CARGO) clean
