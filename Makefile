# On a bare machine with python3 (3.11 to 3.13), venv and make: `make app` starts the studio, `make test` tests it.

INSTALLED := .venv/.installed
CODE := $(wildcard mixcpt app pages bench tests)

.PHONY: app test lint types format

app: $(INSTALLED)
	.venv/bin/mixcpt app

test: $(INSTALLED)
	.venv/bin/pytest

lint: $(INSTALLED)
	.venv/bin/ruff check $(CODE)
	.venv/bin/ruff format --check $(CODE)

types: $(INSTALLED)
	.venv/bin/mypy

format: $(INSTALLED)
	.venv/bin/ruff check --fix $(CODE)
	.venv/bin/ruff format $(CODE)

$(INSTALLED): requirements.txt pyproject.toml scripts/setup.sh
	bash scripts/setup.sh
