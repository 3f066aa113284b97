"""The whole knowledge stage once for real: the built-in model, fetched and converted, adapted to the atlas by the
command line as a newcomer would, with real worker processes and real lm-eval. Needs the package index."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixcpt.runs import Run

RECIPE = Path(__file__).parents[1] / "recipes" / "quick.yaml"
SMALLER = {
    "mixture.budget_tokens": 900,
    "mixture.row_tokens": 128,
    "measures.every_steps": 4,
    "measures.domain_tokens": 150,
    "measures.general_tokens": 150,
    "measures.prompt_tokens": 100,
    "evaluation.items": 8,
    "model.precision": "fp32",
}


def mixcpt(home: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mixcpt.cli", *arguments],
        env={**os.environ, "MIXCPT_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.model
@pytest.mark.timeout(900)
def test_the_quick_recipe_adapts_the_built_in_model(tmp_path: Path) -> None:
    changes = [part for name, value in SMALLER.items() for part in ("--set", f"cpt.{name}={value}")]
    (run_id,) = mixcpt(tmp_path, "run", str(RECIPE), *changes).split()

    (row,) = json.loads(mixcpt(tmp_path, "compare", run_id, "--json"))["runs"]
    assert row["domain_gain"] > 0.05  # bits per byte; the first steps on new text always gain that much
    assert abs(row["forgetting"]) < 0.5
    assert 0 < row["prompt_kl"] < 2
    assert row["general_items"] == row["atlas_recall_items"] == 8
    assert row["general_base"] > 0.5  # the built-in model is far above chance, a quarter

    run = Run(tmp_path / "runs" / run_id)
    training = run.results()["training"]
    assert training["trainable_parameters"] == 9_768_960  # rank 32 on 7 linear layers in each of 30 blocks
    assert [source["source"] for source in training["mixture"]["sources"]] == [
        "builtin/atlas",
        "builtin/replay",
        "builtin/instructions",
        "builtin/preferences",
    ]
    assert [point["step"] for point in run.curve()][:2] == [0, 4]
    logs = [path.read_text() for path in (tmp_path / "jobs").glob("*/log.txt")]
    assert any("trainable parameters: 9,768,960 of" in log for log in logs)

    out = tmp_path / "adapter-out"
    mixcpt(tmp_path, "export", run_id, "--to", "adapter", str(out))
    assert (out / "adapter_model.safetensors").stat().st_size > 30_000_000
    assert not [*tmp_path.rglob("*.bin"), *tmp_path.rglob("*.gguf"), *tmp_path.rglob("*.pkl")]
