# Needs python3 (3.10 or newer, with its headers), make and a C compiler. Everything else is installed into $(VENV);
# `make test VENV=/some/where` uses another environment, `PYTHON=` selects the interpreter for a new one.
VENV = .venv
PYTHON = python3
BIN = $(VENV)/bin
READY = $(VENV)/.vdmrt-ready
CORE = $(wildcard runtime/csrc/*.[ch])
CFLAGS_CHECK = -std=c11 -D_GNU_SOURCE -DPy_LIMITED_API=0x030A0000 -Wall -Wextra -Werror -fsyntax-only

.DEFAULT_GOAL = help
.PHONY: demo dev check test test-sanitizers test-browser test-slow bench wheel clean help

demo: $(READY)  ## Continue a sky and a photograph; write clips to demo-out/.
	$(BIN)/vdmrt demo --output demo-out
	$(BIN)/vdmrt run examples/sky/bundle --image examples/rocket.jpg --seed 7 --force --output demo-out/rocket.mp4

dev: $(READY)  ## Make .venv with vdmrt (editable), its C core and all tools; needed once.

# Through the link the static tools find the checkout, under any name, as the package `vdmrt`.
$(READY): pyproject.toml $(CORE)
	@echo "Setting up $(VENV): minutes the first time, seconds after that."
	$(BIN)/pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --disable-pip-version-check --editable '.[dev]'
	mkdir -p .dev && ln -sfn .. .dev/vdmrt && touch $@

check: $(READY)  ## Lint, formatting, types, spelling, and C warnings as errors.
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/codespell
	$(BIN)/mypy && $(BIN)/mypy tests && $(BIN)/pyright --pythonpath $(BIN)/python
	$(CC) $(CFLAGS_CHECK) -I"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')" $(filter %.c,$(CORE))

# Not `python -m pytest`, which would put the root on sys.path, where `import export` works by accident.
test: $(READY)  ## All tests but the slow ones and those that need a browser.
	$(BIN)/pytest -m "not slow and not browser"

test-sanitizers: $(READY)  ## The C core's tests under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer (gcc).
	$(BIN)/python tests/support/sanitized_tests.py address thread

test-browser: $(READY)  ## Tests of the rendered reports in chromium (Debian: chromium, chromium-driver).
	$(BIN)/pytest -m browser

test-slow: $(READY)  ## The slow tests, which need minutes and gigabytes.
	$(BIN)/pytest -m slow

bench: $(READY)  ## Benchmarks: start-up, speed against torch and against recomputing, overhead and accuracy of the profiler.
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/cpu_vs_torch.py
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/paper.py
	$(BIN)/python benchmarks/profiler_cost.py
	$(BIN)/python benchmarks/profiler_truth.py

wheel: $(READY)  ## Build the sdist, and the wheel from it, in dist/.
	rm -rf build dist && $(BIN)/pyproject-build

clean:  ## Remove build outputs; .venv keeps its packages, so that set-up stays short.
	rm -rf build dist demo-out .dev *.egg-info runtime/*.so .*_cache .hypothesis $(READY)
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
