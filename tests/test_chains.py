"""Runs of stage two wherever runs are told of: shifted by their chain, compared with the base, joined to a parent."""

import math
import shutil

import nbformat
import pytest
from made import CHILD_STEP_TOKENS, made_chain, made_child, made_run, stage_of

from mixcpt import chains, charts, guesses, reports
from mixcpt.chains import children, links, own, places, start_of, tokens_before
from mixcpt.columns import as_csv, as_text
from mixcpt.compare import compare, summarise, with_curves
from mixcpt.comparison import as_html, rows_of
from mixcpt.drafts import Guess
from mixcpt.errors import BadInput, NotFound
from mixcpt.findings import findings, leaders
from mixcpt.journal import Entry, journal
from mixcpt.notebook import Notebook
from mixcpt.overview import overview
from mixcpt.runs import Run
from mixcpt.settings_diff import settings_table
from mixcpt.tables import table
from mixcpt.workspace import Workspace

REACHED = 1 - math.exp(-3)  # the share of gain and forgetting that the first stage's curve has at its end
CPT, CHILD = 10 * 1024, 6 * CHILD_STEP_TOKENS


def test_a_chain_is_shifted_by_what_was_read_before(workspace: Workspace) -> None:
    cpt, sft, dpo = made_chain(workspace)
    assert [(link.run, link.stage, link.before, link.after) for link in links(dpo)] == [
        (cpt.id, "cpt", 0, CPT),
        (sft.id, "sft", CPT, CPT + CHILD),
        (dpo.id, "dpo", CPT + CHILD, CPT + 2 * CHILD),
    ]
    assert [tokens_before(run) for run in (cpt, sft, dpo)] == [0, CPT, CPT + CHILD]


def test_a_later_stage_begins_where_its_parent_ended_not_at_the_base(workspace: Workspace) -> None:
    cpt, sft, _ = made_chain(workspace)
    curve = sft.curve()
    assert curve[0]["under"] == "base" and own(curve) == curve[1:] and own(cpt.curve()) == cpt.curve()
    assert start_of(curve) == cpt.curve()[-1]["measure"] and start_of([]) is None
    assert start_of(curve[:1]) is None  # only the base was measured so far


def test_a_run_under_way_counts_what_it_has_read(workspace: Workspace) -> None:
    run = made_child(workspace, made_run(workspace), state="running")
    assert chains.tokens_read(run) == 3 * CHILD_STEP_TOKENS
    assert chains.tokens_read(made_run(workspace, state="queued")) == 0


def test_relatives(workspace: Workspace) -> None:
    cpt, sft, dpo = made_chain(workspace)
    sibling, other = made_child(workspace, cpt, "sft", name="other"), made_run(workspace)
    runs = overview(workspace)
    found = places(runs, dpo.id)
    assert [place.run.id for place in found] == [cpt.id, sft.id, dpo.id]
    assert [[run.id for run in place.others] for place in found] == [[], [sibling.id], []]
    assert [run.id for run in children(runs, cpt.id)] == [sft.id, sibling.id] and children(runs, other.id) == []
    assert places(runs, "nope") == []


def test_a_deleted_ancestor_is_told(workspace: Workspace) -> None:
    cpt, sft, dpo = made_chain(workspace)
    shutil.rmtree(cpt.folder)
    with pytest.raises(NotFound, match=f"continues {cpt.id}, which is gone"):
        links(dpo)
    rows, refused = rows_of(workspace, [sft.id, dpo.id])
    assert rows == [] and [one.run for one in refused] == [sft.id, dpo.id]
    assert {run.state for run in overview(workspace)} == {"done"}
    assert "which is gone" in dict(launches(workspace)[0].facts)["Chain"]


# Comparison


def test_a_row_of_stage_two_is_against_the_base(workspace: Workspace) -> None:
    cpt, sft, dpo = made_chain(workspace)
    first, second, third = compare([cpt, sft, dpo])
    assert second["domain_gain"] == pytest.approx(0.4 * REACHED - 0.05)
    assert second["forgetting"] == pytest.approx(0.1 * REACHED + 0.03)
    assert second["domain_gain_start"] == pytest.approx(first["domain_gain"])
    assert third["forgetting_start"] == pytest.approx(second["forgetting"])
    assert (second["tokens"], second["tokens_before"], first["tokens_before"]) == (CHILD, CPT, 0)
    assert second["samples"] == 3 and third["beta"] == 0.1
    assert (third["preference_margin"], third["pairs_right"]) == (1.0, 1.0)
    assert "retention" not in second and first["retention"] == "lssd"


def test_stage_two_reads_nothing_of_the_field_itself(workspace: Workspace) -> None:
    cpt, sft, _ = made_chain(workspace)
    first, second = compare([cpt, sft])
    assert first["domain_tokens"] == second["domain_tokens"] == round(CPT * 0.6)
    with pytest.raises(BadInput, match="reads no text of the field"):
        compare([sft], domain_tokens=3000)
    rows, refused = rows_of(workspace, [cpt.id, sft.id], round(0.6 * 2048))
    assert [row["run"] for row in rows] == [cpt.id] and "at its end, or leave it out" in refused[0].reason


def test_children_of_different_parents_are_different_arms_and_seeds_are_one(workspace: Workspace) -> None:
    plain, seeded = made_run(workspace, arm="x", seed=0), made_run(workspace, arm="x", seed=1)
    runs = [
        made_child(workspace, parent, "sft", changes={"training.seed": n}) for n, parent in enumerate((plain, seeded))
    ]
    runs += [made_child(workspace, one, "dpo", changes={"training.seed": n}) for n, one in enumerate(runs[:2])]
    arms = summarise(compare(runs))
    assert [arm["seeds"] for arm in arms] == [[0, 1], [0, 1]]
    wide = made_run(workspace, arm="x", gain=0.1, seed=0)
    other = made_child(workspace, made_child(workspace, wide, "sft"), "dpo")
    assert other.config.preference.reference != runs[2].config.preference.reference  # type: ignore[union-attr]
    assert compare([other])[0]["settings"] == compare([runs[2]])[0]["settings"]


def test_children_of_parents_with_other_settings_are_never_one_arm(workspace: Workspace) -> None:
    parents = [made_run(workspace, arm="", stage=stage_of(objective__retention=name)) for name in ("lssd", "none")]
    rows = compare([made_child(workspace, parent, "sft") for parent in parents])
    assert rows[0]["settings"] != rows[1]["settings"] and len(summarise(rows)) == 2


def test_stages_of_one_arm_are_told_apart_by_their_stage(workspace: Workspace) -> None:
    chain = made_chain(workspace)
    titles = [row["title"] for row in with_curves(chain)]
    assert titles == [f"mixture, CE + LSSD · {stage}" for stage in ("knowledge", "SFT", "DPO")]
    lines = as_text(summarise(with_curves(chain)))
    assert all(title in lines for title in titles)


def test_findings_say_what_the_stage_itself_did(workspace: Workspace) -> None:
    arms = summarise(with_curves(made_chain(workspace)))
    said = {finding.title.rpartition(" ")[2]: finding.words for finding in findings(arms)}
    assert "(SFT itself, since knowledge: gain −0.05, forgetting +0.03)" in said["SFT"]
    assert "(DPO itself, since SFT: gain −0.02, forgetting +0.01)" in said["DPO"]
    assert "itself" not in said["knowledge"]
    assert [finding.title for finding in leaders(arms)] == ["mixture, CE + LSSD · knowledge"] * 2


def test_a_comparison_of_all_stages_is_exported(workspace: Workspace) -> None:
    chain = made_chain(workspace)
    page = as_html(workspace, chain)
    assert "mixture, CE + LSSD · DPO" in page and "SFT itself, since knowledge" in page
    table = as_csv(compare(chain)).splitlines()
    assert "preference_margin" in table[0] and len(table) == 4
    settings = settings_table(chain, with_curves(chain))
    labels = [row[1] for row in settings.rows]
    assert "Beta" in labels and "Retention" in labels


# Charts


def test_the_chain_is_drawn_over_tokens_since_the_base(workspace: Workspace) -> None:
    figure = charts.draw(workspace, "chain", [made_chain(workspace)[2].id])
    field = [trace for trace in figure.data if trace.uid.startswith("domain")]
    assert [(trace.x[0], trace.x[-1]) for trace in field] == [
        (0, CPT),
        (CPT, CPT + CHILD),
        (CPT + CHILD, CPT + 2 * CHILD),
    ]
    assert field[0].y[-1] == field[1].y[0] and field[1].y[-1] == field[2].y[0]
    assert field[0].customdata[0] == 0 and field[1].customdata[0] == pytest.approx(-0.4 * REACHED)
    assert [note.text for note in figure.layout.annotations] == ["<b>knowledge</b>", "<b>SFT</b>", "<b>DPO</b>"]
    bands = [shape for shape in figure.layout.shapes if shape.type == "rect" and shape.xref == "x"]
    assert [(band.x0, band.x1) for band in bands] == [(0, CPT), (CPT, CPT + CHILD), (CPT + CHILD, CPT + 2 * CHILD)]


def test_a_chain_without_measures_says_so(workspace: Workspace) -> None:
    figure = charts.draw(workspace, "chain", [made_run(workspace, state="queued").id])
    assert not figure.data and "No measures yet" in figure.layout.annotations[0].text


def test_a_stage_that_was_only_measured_under_the_base_is_no_part_of_the_chart_yet(workspace: Workspace) -> None:
    cpt = made_run(workspace)
    sft = made_child(workspace, cpt, state="queued")
    sft.append({"step": 0, "tokens": 0, "measure": cpt.curve()[0]["measure"], "under": "base"})
    assert {trace.uid.rpartition("-cpt-")[0] for trace in charts.draw(workspace, "chain", [sft.id]).data} == {
        "domain_bits_per_byte",
        "general_bits_per_byte",
        "prompt_kl",
    }
    assert not charts.forgetting_curve(sft.curve()).data


def test_the_curve_of_a_later_stage_has_no_jump_from_the_base(workspace: Workspace) -> None:
    cpt, sft, _ = made_chain(workspace)
    field = next(trace for trace in charts.forgetting_curve(sft.curve()).data if trace.uid == "domain_bits_per_byte")
    assert field.x[0] == 0 and field.y[0] == cpt.curve()[-1]["measure"]["domain_bits_per_byte"]
    assert list(field.x).count(0) == 1 and field.customdata[0] == pytest.approx(-0.4 * REACHED)
    assert field.name == "field: 1.600 → 1.270"
    (line,) = charts.forgetting_curves(with_curves([sft])).data
    assert line.x[0] == CPT and line.y[0] == pytest.approx(0.1 * REACHED)


def test_the_plane_joins_a_chain(workspace: Workspace) -> None:
    rows = with_curves(made_chain(workspace))
    figure = charts.plane(rows)
    trails = [trace for trace in figure.data if trace.mode == "lines"]
    assert [trail.x[0] for trail in trails] == pytest.approx([0, rows[0]["forgetting"], rows[1]["forgetting"]])
    ends = [{**row, "curve": []} for row in rows]
    joints = [trace for trace in charts.plane(ends).data if trace.mode == "lines"]
    assert [list(joint.y) for joint in joints] == [
        [rows[0]["domain_gain"], rows[1]["domain_gain"]],
        [rows[1]["domain_gain"], rows[2]["domain_gain"]],
    ]
    assert not [trace for trace in charts.plane(ends[1:2]).data if trace.mode == "lines"]  # its parent is not shown


def test_losses_of_every_stage(workspace: Workspace) -> None:
    _, sft, dpo = made_chain(workspace)
    (answers,) = charts.losses(sft.losses()).data
    assert answers.name == "cross-entropy of the answers" and answers.y[-1] == 1.0
    figure = charts.losses(dpo.losses())
    assert figure.layout.yaxis.title.text == "loss (nats per pair)"
    assert figure.layout.shapes[0].y0 == pytest.approx(math.log(2))
    assert [trace.name for trace in charts.rewards(dpo.losses()).data] == [
        "margin",
        "chosen answers",
        "rejected answers",
    ]
    assert charts.preferred(dpo.losses()).data[0].y[-1] == 100
    for draw in (charts.rewards, charts.preferred):
        assert "Only DPO" in draw(sft.losses()).layout.annotations[0].text
        assert "No step yet" in draw([]).layout.annotations[0].text


def test_charts_as_tables(workspace: Workspace) -> None:
    cpt, sft, dpo = made_chain(workspace, name="mine")
    header, base, first, second, third = table(workspace, "chain", [dpo.id])
    assert header[:4] == ("stage", "run", "tokens read since the base", "field (bits per byte)")
    assert base[:4] == ("base", "–", "0", "1.600") and first[:3] == ("knowledge", "mine", "10,240")
    assert second[2] == f"{CPT + CHILD:,}" and third[0] == "DPO" and third[3] == "1.290"
    assert table(workspace, "forgetting_curve", [sft.id])[1][1] == "1.220"
    assert table(workspace, "rewards", [dpo.id])[-1] == ("1,536", "+1.000", "+0.500", "-0.500")
    with pytest.raises(BadInput, match="only DPO compares pairs"):
        table(workspace, "preferred", [cpt.id])
    with pytest.raises(BadInput, match="not from a mixture"):
        table(workspace, "shares", [sft.id])
    with pytest.raises(BadInput, match="Nothing was measured"):
        table(workspace, "chain", [made_run(workspace, state="queued").id])


# Notebook


def launches(workspace: Workspace) -> list[Entry]:
    return [entry for entry in journal(workspace, "trial") if entry.kind == "launch"]


def result_of(workspace: Workspace, run: Run) -> dict[str, str]:
    return dict(next(e for e in journal(workspace, "trial") if e.id == f"result:{run.id}").facts)


def test_the_journal_tells_samples_template_reference_and_chain(workspace: Workspace) -> None:
    cpt, sft, dpo = made_chain(workspace, name="mine")
    by_run = {entry.run: dict(entry.facts) for entry in launches(workspace)}
    assert "Chain" not in by_run[cpt.id] and by_run[cpt.id]["Reads"].startswith("mixture A")
    facts = by_run[sft.id]
    assert facts["Stage"] == "fine-tuning" and facts["Continues"] == f"knowledge run mine ({cpt.id})"
    assert facts["Chain"] == "base → knowledge: mine → SFT: mixture, CE + LSSD"
    assert facts["Learns from"].startswith(
        "3 samples of builtin/instructions (the easiest 64 by Perplexity, with template, lowest first"
    )
    assert facts["Chat template"] == "ChatML" and "Reference" not in facts
    facts = by_run[dpo.id]
    assert facts["Reference"] == f"a frozen copy of SFT run mixture, CE + LSSD ({sft.id})" and facts["Beta"] == "0.1"
    assert "−0.020 of it by this stage" in result_of(workspace, dpo)["Field"]
    assert result_of(workspace, dpo)["Preferences"] == "margin +1.000, 100% of the pairs in the right order"
    assert "Preferences" not in result_of(workspace, sft) and "by this stage" not in result_of(workspace, cpt)["Field"]
    assert [e.title for e in journal(workspace, "trial") if e.kind == "mixture"] == [
        "Mixture A: 12,000 tokens from 4 sources"
    ]


def test_a_new_name_of_the_parent_is_told_at_once(workspace: Workspace) -> None:
    cpt = made_run(workspace, name="old")
    made_child(workspace, cpt)
    journal(workspace, "trial")
    cpt.relabel(name="new")
    assert "knowledge: new" in dict(launches(workspace)[1].facts)["Chain"]


def test_a_run_that_waits_says_what_it_will_learn_from(workspace: Workspace) -> None:
    made_child(workspace, None, "sft", state="queued", changes={"samples.selection": "mine"})
    made_child(workspace, None, "dpo", state="queued", changes={"samples.candidates": 50})
    first, second = (dict(entry.facts) for entry in launches(workspace))
    assert first["Learns from"] == "selection mine" and first["Continues"] == "the base itself"
    assert second["Learns from"] == "builtin/preferences, the easiest 64 by Margin, highest first, from 50 candidates"
    assert second["Reference"] == "the base itself"


def test_a_notebook_with_a_chain_is_taken_along(workspace: Workspace) -> None:
    chain = made_chain(workspace)
    notebook = Notebook(workspace, "trial")
    notebook.pin("chain", [chain[2].id])
    notebook.pin("rewards", [chain[1].id])  # has none: the sentence stands in its place
    text = reports.to_markdown(notebook)
    assert "| stage | run |" in text.replace("\\", "") and "only DPO compares pairs" in text.replace("\\", "")
    assert 'id="chart-' in reports.to_html(notebook)
    cells = nbformat.reads(reports.to_ipynb(notebook), as_version=4).cells  # type: ignore[no-untyped-call]
    assert any(f"draw(workspace, 'chain', ['{chain[2].id}'])" in cell.source for cell in cells)


def test_a_guess_about_a_chain_is_scored_against_the_base(workspace: Workspace) -> None:
    _, sft, _ = made_chain(workspace)
    guesses.keep(sft, Guess(domain_gain=20, forgetting=10))
    outcome = guesses.outcome(sft)
    assert outcome and outcome.domain_gain == pytest.approx(100 * (0.4 * REACHED - 0.05) / 1.6)


def test_a_list_shows_stage_two(workspace: Workspace) -> None:
    cpt, sft, _ = made_chain(workspace)
    made_child(workspace, cpt, state="queued")
    waiting, _, line, _ = overview(workspace)
    assert (line.id, line.stage, line.parent, line.retention) == (sft.id, "sft", cpt.id, "")
    assert (line.tokens, line.budget_tokens) == (CHILD, CHILD) and line.domain_gain == pytest.approx(
        0.4 * REACHED - 0.05
    )
    assert (waiting.state, waiting.budget_tokens, waiting.tokens, waiting.domain_gain) == ("queued", 0, 0, None)
