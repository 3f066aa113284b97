"""Who may import what: the light half opens without torch, and nothing in the library knows of Streamlit."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mixcpt

LIBRARY = Path(mixcpt.__file__).parent
LIGHT = [
    *("errors", "settings", "config", "optimisation", "stages"),
    *("workspace", "tokens", "sources", "records", "corpus", "cleaning", "builtin", "atlas"),
    *("unify", "token_table", "mixture", "packing", "runs", "jobs", "supervisor", "worker", "compare"),
    *("statistics", "estimate"),
    *("evaluation", "modelstore", "modelfiles", "recipes", "cli", "cli_do", "cli_show", "studio", "machine"),
    *("palette", "drafts", "presets", "preflight", "launching", "guesses", "overview", "queue", "metrics", "progress"),
    *("preview", "notebook", "journal", "charts", "comparison", "plotting", "roots", "uploads", "search", "recorded"),
    *("study_kinds", "studies", "study_results", "study_runs", "study_reports", "noise", "cli_study"),
    *("columns", "settings_diff", "claims", "paired", "claim_cards", "claim_table", "seed_chart", "summaries"),
    *("curves", "differences", "findings", "notes", "plane", "reports", "shelf", "stamps", "tables"),
    *("score_jobs", "choices", "interchange", "ranks", "spread", "commands", "cli_select"),
    *("templates", "scores", "readings", "selection", "samples", "chains", "chain_chart", "figures", "stage_words"),
    *("align_drafts", "cli_align", "label_mask"),
    *("lineage", "outlook", "requirements", "submission", "tuning", "planned", "sizes", "flight", "align_checks"),
    *("further", "matrix", "matrices", "matrix_chart"),
    *("origins", "facts", "card", "snippets", "exports", "exporting", "cli_export"),
    *("questions", "official", "matching", "instructed", "published", "tasks", "grading", "answers", "evaluated"),
    *("transcript", "cli_evaluate"),
    *("evidence", "symptoms", "courses", "remedies", "diagnosis", "diagnosis_table", "cli_diagnose"),
    *("measured", "cli_measure", "front", "strengths", "strength_chart"),
    *("token_kinds", "token_losses", "changes", "changes_chart", "multiples_chart", "cli_changes"),
    *("exchanges", "wire", "prompts", "service", "serve", "client", "cli_talk"),
    *("sentences", "cloze", "overlap", "probes", "probe_sets", "probed", "contamination", "unseen", "cli_probes"),
    *("shards", "teachercache", "teacherstore", "coverage", "cli_cache", "cli_run"),
]
HEAVY = ["torch", "transformers", "peft", "lm_eval", "datasets", "streamlit"]


@pytest.mark.parametrize("module", [None, "cli"], ids=["all", "cli"])
def test_the_light_half_never_imports_torch(module: str | None) -> None:
    """In a process of its own; what is imported inside functions does not count, for it is paid only when needed."""
    modules = [module] if module else LIGHT
    script = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module('mixcpt.' + name)\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_no_module_of_the_library_names_streamlit_or_the_app() -> None:
    modules = sorted(LIBRARY.rglob("*.py"))
    assert len(modules) > 30
    for path in modules:
        for name in imported(path):
            assert name.split(".")[0] not in ("streamlit", "app", "pages"), path


def imported(path: Path) -> list[str]:
    """Names of all modules that a file imports anywhere, also inside functions."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names


def test_the_walk_sees_imports_at_every_depth(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("import a.b\ndef f():\n    from streamlit import x\n    if 1:\n        import app as y\n")
    assert imported(path) == ["a.b", "streamlit", "app"]
