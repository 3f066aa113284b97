"""The forgetting matrix over seeds against numbers that were worked out by hand."""

import json
from collections.abc import Sequence

import pytest
from made import open_page, texts
from measured_by_hand import AFTER, BASE, chain_of, measured_run

from mixcpt import charts, matrices, tables
from mixcpt.cli import main
from mixcpt.jobs import Jobs
from mixcpt.matrices import ArmMatrix, Mean, arms, as_table, beside, claims_of, comparable, difference, ends, told
from mixcpt.notebook import Notebook
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.workspace import Workspace

OFFSETS = (0.0, 0.25, 0.5)
"""By which every figure of the last stage is higher, by seed."""


def chain(workspace: Workspace, arm: str, seed: int, shift: float, fields: Sequence[str] = ("a", "b", "c")) -> Run:
    """A measured chain, whose last stage needs `shift` bits per byte more for every text."""
    plain = chain_of(workspace, fields)
    made: list[Run] = []
    for one, figures in zip(plain, AFTER, strict=False):
        stage = override(one.config.with_seed(seed), {"objective.retention": "none" if arm == "CE" else "lssd"})
        parent = made[-1].id if made else None
        run = Runs(workspace).create(stage, experiment="seeds", arm=arm, parent=parent)
        for name in ("metrics.jsonl", "results.json"):
            (run.folder / name).write_bytes((one.folder / name).read_bytes())
        run.adapter.mkdir()
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            (run.adapter / name).write_bytes(b"{}")
        last = len(made) == len(plain) - 1
        called = dict(zip("abc", fields, strict=False))
        shifted = {called.get(text, text): figure + (shift if last else 0) for text, figure in figures.items()}
        measured_run(run, shifted, {called.get(text, text): figure for text, figure in BASE.items()})
        made.append(run)
    for one in reversed(plain):
        Runs(workspace).delete(one)
    return made[-1]


@pytest.fixture
def chains(workspace: Workspace) -> list[Run]:
    """Two arms under three seeds: of the second every figure at the end is 0.125, 0.25 and 0.375 lower."""
    return [
        chain(workspace, arm, seed, shift - (0.125 * (seed + 1) if arm == "LSSD" else 0))
        for seed, shift in enumerate(OFFSETS)
        for arm in ("CE", "LSSD")
    ]


@pytest.fixture
def two(chains: list[Run]) -> list[ArmMatrix]:
    return arms(chains)


def test_chains_that_differ_by_seed_are_one_arm(two: list[ArmMatrix], chains: list[Run]) -> None:
    assert [(arm.title, arm.seeds, arm.experiment) for arm in two] == [
        ("CE", (0, 1, 2), "seeds"), ("LSSD", (0, 1, 2), "seeds"),
    ]  # fmt: skip
    assert two[0].runs == tuple(run.id for run in chains[::2]) and two[0].missing == []
    assert two[0].stages == ("base", "1. a", "2. b", "3. c")


def test_a_cell_is_the_mean_of_all_seeds_with_every_point(two: list[ArmMatrix]) -> None:
    change = two[0].change(3, 0)  # 1.75 + 0, 0.25, 0.5 against 2
    assert change is not None and change.points == pytest.approx((-0.25, 0.0, 0.25)) and change.value == 0
    # deviation 0.25, t(0.975, 2) = 4.302653, three seeds: 4.302653 * 0.25 / sqrt(3)
    assert change.interval == pytest.approx((-0.621035, 0.621035), abs=1e-5) and not change.is_sure
    assert change.evidence() == "95 % −0.621 to +0.621; seed 0 −0.250, seed 1 0.000, seed 2 +0.250"
    assert as_table(two[0])[4] == ("3. c", "2.000 (0.000)", "1.750 (−1.250)", "2.250 (−1.750)", "2.000 (+0.750)")
    assert as_table(two[0])[1] == ("base", "2.000", "3.000", "4.000", "1.250")


def test_transfers_are_taken_seed_by_seed(two: list[ArmMatrix]) -> None:
    # one chain by hand in test_matrix: -0.625 and 0.875; a shift of the last stage is lost by every corpus before
    back, lost, gain = (two[0].figure(key) for key in ("backward_transfer", "field_forgetting", "average_gain"))
    ahead = two[0].figure("forward_transfer")
    assert back and lost and gain and ahead
    assert back.points == pytest.approx([-0.625 - shift for shift in OFFSETS])
    assert lost.points == pytest.approx([0.875 + shift for shift in OFFSETS])
    assert gain.points == pytest.approx([(0.25 + 1.5 + 2) / 3 - shift for shift in OFFSETS])
    assert ahead.points == pytest.approx([0.5] * 3) and ahead.interval == pytest.approx((0.5, 0.5))
    said = told(two[0])
    assert said[0].startswith("Backward transfer −0.875 bits per byte (95 % −1.496 to −0.254; seed 0 −0.625, seed 1")
    assert said[0].endswith("seed 2 −1.125): what came later cost the corpora before.")
    assert said[3].endswith("in the end all corpora together are read better than by the base.")


def test_arms_are_held_against_each_other_seed_by_seed(two: list[ArmMatrix]) -> None:
    found = difference(two[1], two[0], 3, 1)
    assert found and found.points == pytest.approx((-0.125, -0.25, -0.375))
    # deviation 0.125: 4.302653 * 0.125 / sqrt(3) = 0.310517
    assert matrices.difference_words(found) == "−0.250 ± 0.311"
    early = difference(two[1], two[0], 1, 0)
    assert early and early.points == (0, 0, 0)
    claims = {claim.measure.key: claim for claim in claims_of(two)}
    assert list(claims) == ["average_gain", "field_forgetting", "backward_transfer", "forward_transfer"]
    assert claims["average_gain"].difference == pytest.approx(0.25) and claims["average_gain"].verdict == "same"
    assert claims["forward_transfer"].sentence().startswith("LSSD and CE have the same forward transfer within noise")
    assert claims["field_forgetting"].found and claims["field_forgetting"].found.points == pytest.approx(
        (-0.125, -0.25, -0.375)
    )


def test_only_shared_seeds_and_like_chains_are_compared(workspace: Workspace) -> None:
    one, other = arms([chain(workspace, "CE", 0, 0.0), chain(workspace, "CE", 1, 0.5), chain(workspace, "LSSD", 1, 0)])
    found = difference(other, one, 3, 0)
    assert found and (found.seeds, found.points, found.interval) == ((1,), (-0.5,), None)
    assert "seed 1 −0.500 only: a hint, not a result" in found.evidence() and not found.is_sure
    assert "hint" in claims_of([one, other])[0].sentence()
    (short,) = arms([chain(workspace, "short", 0, 0.0, ("a", "b"))])
    assert not comparable(one, short) and claims_of([one, short]) == []
    assert told(short)[0].startswith("Backward transfer") and told(short)[0].endswith("; one seed.")


def test_a_cell_that_a_seed_lacks_is_empty_and_named(workspace: Workspace, chains: list[Run]) -> None:
    last = chains[-1]
    measured_run(last, AFTER[2], finished="2020-01-01T00:00:00Z", limit=100)
    first, second = arms(chains)
    assert second.missing == [last.id] and first.missing == []
    assert second.change(3, 0) is None and second.change(2, 0) is not None and second.figure("average_gain") is None
    assert as_table(second)[4] == ("3. c", "–", "–", "–", "–")
    assert Mean((3,), (0.5,)).interval is None


def test_ends_and_what_stands_beside(workspace: Workspace, chains: list[Run]) -> None:
    every = [run for run in Runs(workspace).all() if run.info.experiment == "seeds"]
    assert {run.id for run in ends(every)} == {run.id for run in chains}
    chain(workspace, "other", 0, 0.0, ("a", "b"))
    assert [run.id for run in beside(workspace, chains[0])] == [run.id for run in chains]
    middle = chains[0].parent
    assert middle is not None and len(beside(workspace, middle)) == 7  # those of the short chain too


# Chart, table, command, page


def test_the_chart_has_a_panel_an_arm_and_their_difference(workspace: Workspace, chains: list[Run]) -> None:
    ids = [run.id for run in chains]
    figure = charts.draw(workspace, "matrices", ids)
    first, second, apart = figure.data
    assert (first.zmin, first.zmax) == (second.zmin, second.zmax) and apart.zmax == pytest.approx(0.25)
    assert first.text[3][2] == "<b>2.250<br>−1.750</b>" and apart.text[2][0] == "−0.250<br>± 0.311"
    assert "seed 2 +0.250" in first.customdata[3][0]
    assert figure.layout.yaxis3.title.text == "<b>LSSD<br>minus CE</b>"
    assert len(charts.draw(workspace, "matrices", ids[::2]).data) == 1
    empty = charts.draw(workspace, "matrices", [chain_of(workspace)[-1].id])
    assert not empty.data and "Nothing was measured yet" in empty.layout.annotations[0].text
    table = tables.table(workspace, "matrices", ids)
    assert table[0] == ("arm", "after", "a", "b", "c", "prose") and len(table) == 9 and table[5][:2] == ("LSSD", "base")
    Notebook(workspace, "trial").pin("matrices", ids)


def test_the_command_takes_an_experiment(
    workspace: Workspace, chains: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    assert main(["matrix", "seeds"]) == 0
    out = capsys.readouterr().out
    assert "CE (seeds 0, 1, 2)" in out and "LSSD minus CE" in out and "−0.250 ± 0.311" in out
    assert "- LSSD and CE lose the same of earlier corpora within noise" in out
    assert main(["matrix", *(run.id for run in chains), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [arm["title"] for arm in shown["arms"]] == ["CE", "LSSD"] and shown["missing"] == []
    cell = shown["arms"][0]["stages"][3]["cells"][0]
    assert cell["bits_per_byte"] == 2.0 and cell["difference"]["points"] == pytest.approx([-0.25, 0, 0.25])
    assert shown["arms"][1]["backward_transfer"]["mean"] == pytest.approx(-0.625) and len(shown["claims"]) == 4


def test_the_tab_shows_seeds_and_arms(studio: Workspace) -> None:
    shifts = (("CE", 0, 0.0), ("CE", 1, 0.25), ("LSSD", 0, 0.0), ("LSSD", 1, 0.125))
    runs = [chain(studio, arm, seed, shift, ("builtin/atlas", "builtin/replay")) for arm, seed, shift in shifts]
    app = open_page("runs", run=runs[0].id, runs_view="Adaptations")
    assert not app.exception and "Backward transfer +0.500" in texts(app).replace("\\", "")
    app.segmented_control(key="matrix_view").set_value("All seeds and arms").run()
    said = texts(app).replace("\\", "").replace("**", "")
    assert not app.exception and "CE: Backward transfer +0.375 bits per byte (95 %" in said
    assert "LSSD and CE have the same" in said
    for path in (runs[-1].folder / "measured").iterdir():
        path.unlink()
    app.run()
    assert "1 of the 8 runs was not measured" in texts(app)
    app.button(key="matrix_measure").click().run()
    (job,) = [job for job in Jobs(studio).all() if job.kind == "measure"]
    assert not app.exception and len(job.payload["runs"]) == 8
