"""Reports of studies: of many pairs the sentences tell the differences, and a table tells the rest."""

from made import made_run, stage_of

from mixcpt.settings import override
from mixcpt.studies import Study, make, save
from mixcpt.study_kinds import Choice
from mixcpt.study_reports import findings, to_html, to_markdown
from mixcpt.workspace import Workspace


def begun(workspace: Workspace, forgetting: dict[int, float]) -> Study:
    """Shares of the field under three seeds, what their runs forget differing a little from seed to seed."""
    made = make(workspace, "ratios", Choice(tune=False), name="mine")
    save(workspace, made)
    for share, forgot in forgetting.items():
        stage = override(stage_of(), {"mixture.sources.0.share": share})
        for seed in range(3):
            end = forgot + seed * share / 1e4
            made_run(workspace, experiment="mine", arm=f"{share} % field", stage=stage, seed=seed, forgetting=end)
    return made


def test_differences_are_sentences_and_all_claims_a_table(workspace: Workspace) -> None:
    study = begun(workspace, {100: 0.9, 80: 0.9, 60: 0.9, 40: 0.4})
    text = to_markdown(findings(workspace, study))
    answer = text[: text.index("## The arms")]
    told = [line for line in answer.splitlines() if line.startswith("- ")]
    assert len(told) == 1 and told[0].startswith("- 40 % field forgets 0.4"), told
    lines = [line for line in answer.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {n} % field − 100 % field" for n in (80, 60, 40)]
    assert "better: −0.4" in lines[-1] and "same: " in lines[-2]
    assert "| better: −0.4" not in answer.split("40 % field − 100")[0]


def test_the_page_has_the_same_table(workspace: Workspace) -> None:
    study = begun(workspace, {100: 0.9, 80: 0.9, 60: 0.9, 40: 0.4})
    page = to_html(findings(workspace, study))
    assert "40 % field − 100 % field" in page and "Better, worse: a difference after Holm" in page


def test_where_nothing_differs_that_is_said(workspace: Workspace) -> None:
    study = begun(workspace, {100: 0.5, 80: 0.5, 60: 0.5, 40: 0.5})
    assert "- No two arms differ in gain or forgetting beyond noise." in to_markdown(findings(workspace, study))
