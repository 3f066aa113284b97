# On a bare machine with python3 (3.11 to 3.13), venv and make: `make app` starts the studio, `make test` tests it.

INSTALLED := .venv/.installed
CODE := app bench mixcpt pages scripts tests

.PHONY: app test lint types format screenshots

app: $(INSTALLED)
	.venv/bin/mixcpt app

test: $(INSTALLED)
	CHROMIUM=$$(bash scripts/chromium.sh) || true; export CHROMIUM; \
	OMP_NUM_THREADS=1 .venv/bin/pytest --numprocesses 2 --dist loadfile

lint: $(INSTALLED)
	.venv/bin/ruff check $(CODE)
	.venv/bin/ruff format --check $(CODE)

types: $(INSTALLED)
	.venv/bin/mypy

format: $(INSTALLED)
	.venv/bin/ruff check --fix $(CODE)
	.venv/bin/ruff format $(CODE)

screenshots: $(INSTALLED)
	CHROMIUM=$$(bash scripts/chromium.sh) .venv/bin/python scripts/screenshots.py

$(INSTALLED): requirements.txt pyproject.toml scripts/setup.sh
	bash scripts/setup.sh
