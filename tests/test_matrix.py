"""The forgetting matrix against numbers that were worked out by hand."""

import json
from pathlib import Path

import pytest
from made import made_run, open_page, texts
from measured_by_hand import AFTER, BASE, chain_of, measured_run, moved_run

from mixcpt import charts, tables
from mixcpt.cli import main
from mixcpt.errors import BadInput
from mixcpt.jobs import Jobs
from mixcpt.matrix import as_table, backward, cell_words, forgetting, forward, matrix, sentences, submit
from mixcpt.notebook import Notebook
from mixcpt.runs import Run
from mixcpt.statistics import mean_ratio_interval
from mixcpt.workspace import Workspace


@pytest.fixture
def chain(workspace: Workspace) -> list[Run]:
    """Three corpora one after the other, measured after each."""
    runs = chain_of(workspace)
    for run, figures in zip(runs, AFTER, strict=True):
        measured_run(run, figures)
    return runs


def test_rows_are_stages_and_columns_are_texts(chain: list[Run]) -> None:
    found = matrix(chain[-1])
    assert [(c.text, c.kind, c.learned) for c in found.columns] == [
        ("a", "corpus", (1,)), ("b", "corpus", (2,)), ("c", "corpus", (3,)), ("builtin/general", "prose", ()),
    ]  # fmt: skip
    assert [line.run for line in found.lines] == [None, *(run.id for run in chain)]
    gains = [[found.gain(row, j) for j in range(4)] for row in range(4)]
    assert gains[0] == [0, 0, 0, 0]
    assert gains[1] == pytest.approx([1.0, 0.5, -0.5, 0.0])
    assert gains[2] == pytest.approx([1.5, 2.0, 0.5, -0.25])
    assert gains[3] == pytest.approx([0.25, 1.5, 2.0, -0.5])
    assert cell_words(found, 0, 1) == "3.000" and cell_words(found, 3, 3) == "1.750 (+0.500)"
    assert found.missing == []


def test_transfers_by_hand(chain: list[Run]) -> None:
    found = matrix(chain[-1])
    back, ahead, lost = backward(found), forward(found), forgetting(found)
    assert back and ahead and lost
    assert [name for name, _ in back.parts] == ["a", "b"]
    assert [value for _, value in back.parts] == pytest.approx([0.25 - 1.0, 1.5 - 2.0])
    assert back.value == pytest.approx(-0.625) and back.interval == pytest.approx((-0.625, -0.625))
    assert ahead.value == pytest.approx((0.5 + 0.5) / 2) and [name for name, _ in ahead.parts] == ["b", "c"]
    assert [value for _, value in lost.parts] == pytest.approx([1.5 - 0.25, 2.0 - 1.5])  # a was best after b
    assert lost.value == pytest.approx(0.875) and lost.documents == 4
    said = sentences(found)
    assert said[0].startswith(
        "Backward transfer −0.625 bits per byte (95 % interval −0.625 to −0.625, 4 documents, which"
    )
    assert "what later stages" not in said[0] and "what came later cost the corpora before" in said[0]
    assert "what came before helped" in said[1] and "so much was lost" in said[2] and "(a +1.250; b +0.500)" in said[2]


def test_after_stage_two_every_corpus_counts(workspace: Workspace) -> None:
    runs = chain_of(workspace, ("a", "b"), then="sft")
    for run, figures in zip(runs, ({"a": 1.0, "b": 2.5}, {"a": 1.5, "b": 1.0}, {"a": 1.0, "b": 2.0}), strict=True):
        measured_run(run, figures)
    found = matrix(runs[-1])
    back, lost, ahead = backward(found), forgetting(found), forward(found)
    assert back and back.value == pytest.approx(((2 - 1.0) - (2 - 1.0) + (3 - 2.0) - (3 - 1.0)) / 2)
    assert lost and [value for _, value in lost.parts] == pytest.approx([0.0, 1.0])
    assert ahead and ahead.value == pytest.approx(0.5)
    assert [line.stage for line in found.lines] == ["base", "cpt", "cpt", "sft"]


def test_a_corpus_that_is_learned_again_counts_from_then_on(workspace: Workspace) -> None:
    runs = chain_of(workspace, ("a", "b", "a"))
    for run, figures in zip(runs, ({"a": 1.0, "b": 2.5}, {"a": 1.5, "b": 1.0}, {"a": 0.5, "b": 2.0}), strict=True):
        measured_run(run, figures)
    found = matrix(runs[-1])
    assert found.columns[0].learned == (1, 3)
    back = backward(found)
    assert back and [name for name, _ in back.parts] == ["b"] and back.value == pytest.approx(-1.0)


def test_what_is_missing_is_told_and_nothing_is_made_of_it(workspace: Workspace) -> None:
    runs = chain_of(workspace)
    found = matrix(runs[-1])
    assert found.missing == [run.id for run in runs] and backward(found) is None and sentences(found) == []
    measured_run(runs[0], AFTER[0])
    measured_run(runs[1], {name: value for name, value in AFTER[1].items() if name != "a"})
    measured_run(runs[2], AFTER[2])
    found = matrix(runs[-1])
    assert found.missing == [runs[1].id] and cell_words(found, 2, 0) == "–"
    assert forgetting(found) is None  # nobody knows how well a was read after b
    assert backward(found) and forward(found)


def test_the_kl_on_prompts_has_a_column_of_its_own_unit(chain: list[Run]) -> None:
    for run, kl in zip(chain, (0.1, 0.25, 0.5), strict=True):
        moved_run(run, kl)
    found = matrix(chain[-1])
    column = found.columns[-1]
    assert (column.text, column.kind, column.unit) == ("builtin/instructions", "KL on prompts", "nats per token")
    table = as_table(found)
    assert table[0][-2:] == ("prose", "KL on prompts (nats per token)")
    assert [row[-1] for row in table[1:]] == ["0.000", "0.100", "0.250", "0.500"]  # it is a difference already
    back = backward(found)
    assert back and [name for name, _ in back.parts] == ["a", "b"], "only corpora count in the transfers"
    heat = charts.matrix_chart(found).data[0]
    assert heat.zmax == 2, "the most that a text changed by"
    assert heat.x[-1] == "KL on<br>prompts" and [row[-1] / 2 for row in heat.z] == pytest.approx([0, 0.2, 0.5, 1])
    assert heat.customdata[3][-1].startswith("0.5000 nats per token, 95 %")
    moved_run(chain[0], 0.1, finished="2020-01-01T00:00:00Z", limit=100)
    assert matrix(chain[-1]).missing == [chain[0].id]


def test_a_measure_of_other_documents_does_not_count(chain: list[Run]) -> None:
    measured_run(chain[0], AFTER[0], finished="2020-01-01T00:00:00Z", limit=100)
    found = matrix(chain[-1])
    assert found.missing == [chain[0].id] and found.lines[1].cells == (None,) * 4


def test_the_interval_of_a_mean_of_parts() -> None:
    # of (1, 3) half of all draws have the mean 2, a quarter each 1 and 3; the other part has no spread
    assert mean_ratio_interval([((1, 3), (1, 1)), ((0, 0), (1, 1))]) == pytest.approx((0.5, 1.5))
    assert mean_ratio_interval([((2, 6), (2, 2)), ((1, 1), (1, 1))]) == pytest.approx(((1 + 1) / 2, (3 + 1) / 2))
    for wrong in ([], [((1,), (1, 1))], [((), ())]):
        with pytest.raises(ValueError, match="needs"):
            mean_ratio_interval(wrong)


def test_one_job_measures_the_whole_chain(workspace: Workspace, chain: list[Run]) -> None:
    with pytest.raises(BadInput, match="no corpus 'a'"):
        submit(workspace, [chain[-1]])
    atlas = chain_of(workspace, ("builtin/atlas", "builtin/replay"))
    job = submit(workspace, [atlas[-1]], 300)
    assert job.kind == "measure" and job.payload["runs"] == [run.id for run in atlas]
    assert job.payload["on"] == ["builtin/atlas", "builtin/replay"] and job.payload["tokens"] == 300
    bare = made_run(workspace)
    with pytest.raises(BadInput, match="No run of the chain"):
        submit(workspace, [bare])


# Chart, table, command, page


def test_the_colour_scale_is_centred_at_the_base(workspace: Workspace, chain: list[Run]) -> None:
    figure = charts.draw(workspace, "matrix", [chain[-1].id])
    (heat,) = figure.data
    assert heat.zmid == 0 and heat.zmin == -heat.zmax == -2.0  # the largest difference, of both signs
    assert [list(row) for row in heat.z][3] == pytest.approx([-0.25, -1.5, -2.0, 0.5])
    assert heat.text[1][0] == "<b>1.000<br>−1.000</b>" and heat.text[2][0] == "0.500<br>−1.500"
    assert heat.text[0][0] == "2.000" and heat.x[3] == "general:<br>prose"
    assert "95 % +0.5000 to +0.5000, 2 documents" in heat.customdata[3][3]


def test_a_matrix_without_measures_is_a_sentence(workspace: Workspace) -> None:
    figure = charts.draw(workspace, "matrix", [chain_of(workspace)[-1].id])
    assert not figure.data and "Nothing was measured yet" in figure.layout.annotations[0].text


def test_noise_is_no_bright_colour(workspace: Workspace) -> None:
    runs = chain_of(workspace, ("a", "b"))
    for run in runs:
        measured_run(run, {"a": BASE["a"] - 0.001, "b": BASE["b"]})
    (heat,) = charts.draw(workspace, "matrix", [runs[-1].id]).data
    assert heat.zmax == 0.02


def test_the_table_of_a_notebook(workspace: Workspace, chain: list[Run]) -> None:
    table = tables.table(workspace, "matrix", [chain[-1].id])
    assert table[0] == ("after", "a", "b", "c", "prose")
    assert table[1] == ("base", "2.000", "3.000", "4.000", "1.250")
    assert table[2][:2] == ("knowledge: on a", "1.000 (−1.000)")
    Notebook(workspace, "trial").pin("matrix", [chain[-1].id])


def test_the_command(
    workspace: Workspace, chain: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    assert main(["matrix", chain[-1].id]) == 0
    out = capsys.readouterr().out
    assert "knowledge: on b" in out and "1.000 (−2.000)" in out and "Backward transfer −0.625" in out
    assert main(["matrix", chain[-1].id, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["backward_transfer"]["bits_per_byte"] == pytest.approx(-0.625)
    assert shown["forgetting"]["corpora"] == pytest.approx({"a": 1.25, "b": 0.5}) and shown["missing"] == []
    assert shown["columns"][1] == {"text": "b", "kind": "corpus", "unit": "bits per byte", "learned_by": [chain[1].id]}
    assert shown["stages"][0]["run"] is None and shown["stages"][0]["cells"][0]["bits_per_byte"] == 2.0
    assert shown["stages"][3]["cells"][3]["difference"] == pytest.approx(0.5)


def test_a_command_over_a_chain_that_was_not_measured(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    run = chain_of(workspace, ("a", "b"))[-1]
    assert main(["matrix", run.id, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["backward_transfer"] is None and len(shown["missing"]) == 2


def test_the_tab_measures_in_one_click_and_shows_the_matrix(studio: Workspace) -> None:
    runs = chain_of(studio, ("builtin/atlas", "builtin/replay"))
    app = open_page("runs", run=runs[-1].id, runs_view="Adaptations")
    assert not app.exception and "2 of the 2 runs were not measured yet" in texts(app).replace("\\", "")
    app.button(key="matrix_measure").click().run()
    (job,) = [job for job in Jobs(studio).all() if job.kind == "measure"]
    assert job.payload["runs"] == [run.id for run in runs] and not app.exception

    base = {"builtin/atlas": 2.0, "builtin/replay": 3.0}
    for run, figures in zip(runs, ((1.0, 2.5), (1.5, 1.0)), strict=True):
        measured_run(run, dict(zip(base, figures, strict=True)), base)
    job.update(state="done")
    app = open_page("runs", run=runs[-1].id, runs_view="Adaptations")
    assert not app.exception and "matrix_measure" not in [button.key for button in app.button]
    assert "Backward transfer −0.500" in texts(app).replace("\\", "")


def test_the_tab_of_a_run_that_continues_none_says_what_to_do(studio: Workspace) -> None:
    app = open_page("runs", run=made_run(studio).id, runs_view="Adaptations")
    assert not app.exception and "Continue on another corpus" in texts(app)
