"""`mixcpt align`: the run, its refusals, and what the trainer would read, with a tiny model that really trains."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from made import made_chain, made_child, made_run, stage_of

from mixcpt.jobs import Jobs
from mixcpt.runs import Runs
from mixcpt.settings import to_yaml
from mixcpt.stages import Dpo, Sft, follow
from mixcpt.workspace import Workspace


def settings(model: Path) -> list[str]:
    changes: dict[str, Any] = {
        "model.name": str(model),
        "model.precision": "fp32",
        "model.device": "cpu",
        "mixture.sources": [{"source": "field", "share": 1, "domain": True}],
        "mixture.row_tokens": 128,
        "adapter.rank": 2,
        "template": "question-answer",
        "samples.rule": {"strategy": "random", "count": 4},
        "samples.max_tokens": 200,
        "training.samples_per_step": 2,
        "measures.every_steps": 0,
        "measures.domain_tokens": 60,
        "measures.general_tokens": 60,
        "measures.prompt_tokens": 0,
        "measures.general": "world",
        "evaluation.tasks": [],
    }
    return [word for path, value in changes.items() for word in ("--set", f"{path}={json.dumps(value)}")]


def test_sft_of_the_base_then_dpo_after_it(home: Workspace, tiny_model_folder: Path, cli: Cli) -> None:
    code, out, err = cli("align", "base", "--stage", "sft", "--name", "first", *settings(tiny_model_folder))
    assert code == 0, err
    sft = Runs(home).get(out.strip())
    assert isinstance(sft.config, Sft) and sft.title == "first" and sft.state(Jobs(home)) == "done"
    assert (sft.adapter / "chat_template.jinja").is_file() and "run sft-" in err

    few = ["--set", "samples.rule={strategy: random, count: 2}", "--set", "samples.max_tokens=400"]
    code, out, err = cli("align", sft.id[:-1], "--json", *few)
    assert code == 0, err
    row = json.loads(out)
    dpo = Runs(home).get(row["id"])
    assert (row["stage"], row["parent"], row["status"], row["name"]) == ("dpo", sft.id, "done", "first + DPO, random")
    assert isinstance(dpo.config, Dpo) and dpo.config.preference.reference == sft.id
    assert dpo.info.experiment == sft.info.experiment == "my-experiment"
    assert dpo.curve()[1]["measure"] == sft.curve()[-1]["measure"]


def test_a_preview_shows_the_mask_and_launches_nothing(home: Workspace, tiny_model_folder: Path, cli: Cli) -> None:
    given = ["align", "base", "--preview", *settings(tiny_model_folder)]
    code, out, err = cli(*given)
    assert code == 0, err
    assert out.count("--- ") == 2 and "Answer:\n⟧" in out and "<eos>" in out
    assert "are learned" in out and "What is only read stands in ⟦…⟧" in out
    code, out, _ = cli(*given, "--json")
    shown = json.loads(out)
    assert code == 0 and shown["template"] == "question-answer" and shown["certain"] is True
    tokens = shown["samples"][0]["answers"][0]
    assert {token["is_learned"] for token in tokens} == {True, False} and tokens[-1]["is_end"]
    code, out, err = cli(*given, "--set", "samples.rule={strategy: easiest, score: loss_plain}", "--stage", "sft")
    assert code == 0 and "A score chooses the samples when the run starts" in err
    assert Runs(home).all() == [] and Jobs(home).all() == []


def test_settings_come_from_a_file_and_the_command_line_has_the_last_word(
    home: Workspace, tiny_model_folder: Path, cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(to_yaml(follow(stage_of(), "sft", {"training.epochs": 2, "training.samples_per_step": 3})))
    given = ["--settings", file, *settings(tiny_model_folder), "--set", "training.samples_per_step=4"]
    code, out, err = cli("align", "base", *given)
    assert code == 0, err
    config = Runs(home).get(out.strip()).config
    assert isinstance(config, Sft)
    assert (config.training.epochs, config.training.samples_per_step, config.samples.rule.count) == (2, 4, 4)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["nope"], "no run"),
        (["base", "--selection", "nope"], "There is no selection 'nope'"),
        (["base", "--set", "training.epoch=2"], "did you mean 'epochs'"),
        (["base", "--settings", "nope.yaml"], "There is no file 'nope.yaml'"),
    ],
)
def test_bad_input_is_one_sentence(home: Workspace, cli: Cli, given: list[str], sentence: str) -> None:
    code, out, err = cli("align", *given)
    assert (code, out) == (2, "") and err.startswith("mixcpt: ") and sentence.lower() in err.lower()
    assert Runs(home).all() == []


def test_what_cannot_be_continued_is_told(home: Workspace, cli: Cli) -> None:
    _, sft, dpo = made_chain(home)
    failed = made_child(home, sft, state="failed")
    assert "is a run of dpo, done, and cannot be continued: name the run before it" in cli("align", dpo.id)[2]
    assert f"`mixcpt resume {failed.id}` first" in cli("align", failed.id)[2]
    assert "adapter.rank cannot be set" in cli("align", sft.id, "--set", "adapter.rank=3")[2]


def test_a_chart_and_a_list_of_a_chain(home: Workspace, cli: Cli, tmp_path: Path) -> None:
    _, sft, dpo = made_chain(home)
    code, _, err = cli("chart", "chain", dpo.id, "--out", tmp_path / "chain.html")
    assert code == 0 and "Forgetting over the whole chain" in (tmp_path / "chain.html").read_text(), err
    code, out, _ = cli("show", dpo.id)
    assert "base → knowledge: mixture, CE + LSSD → SFT: mixture, CE + LSSD → DPO" in out
    assert "under the base" in out and "3 samples of builtin/preferences" in out
    assert f"reference: a frozen copy of SFT run mixture, CE + LSSD ({sft.id})" in out
    code, out, _ = cli("runs")
    assert [line.split()[2] for line in out.splitlines()] == ["cpt", "sft", "dpo"]
    code, out, err = cli("compare", "trial")
    assert all(f"mixture, CE + LSSD · {stage}" in out for stage in ("knowledge", "SFT", "DPO")), err
    made_run(home, experiment="alone")
    assert "mixture, CE + LSSD " in cli("compare", "alone")[1]
