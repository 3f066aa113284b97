"""Model cards: what they say, YAML that the hub reads, and nothing let through of what users or this machine named."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from made import made_chain, made_child, made_run, stage_of
from markdown_it import MarkdownIt

from mixcpt import facts, recorded
from mixcpt.card import model_card
from mixcpt.corpus import Corpus
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace

NASTY = "--- | <script>alert(1)</script> **x** [y](javascript:z) `c` $e$ www.a.b"


def front_matter(card: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return values


def body(card: str) -> str:
    return card.partition("\n---\n\n")[2]


def rendered(card: str) -> str:
    """As GitHub and the hub do: HTML lets through what is HTML."""
    return str(MarkdownIt("gfm-like", {"linkify": False}).render(body(card)))


def cells(card: str, first: str) -> list[list[str]]:
    """The lines of the table whose header begins with `first`."""
    lines = card.split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first}"))
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


@pytest.fixture
def run(small_corpora: Workspace) -> Run:
    sources = [{"source": "field", "share": 3, "domain": True}, {"source": "world", "share": 1}]
    stage = stage_of(mixture__sources=sources, measures__general="world")
    return made_run(small_corpora, stage=stage, name="Wells, second try")


def test_front_matter_is_what_the_hub_reads(small_corpora: Workspace, run: Run) -> None:
    adapter, merged = (front_matter(model_card(small_corpora, run, to)) for to in ("adapter", "merged"))
    assert adapter == {
        "license": "apache-2.0",
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["mix-cpt", "lora", "continual-pretraining"],
    }
    assert (merged["library_name"], merged["base_model_relation"]) == ("transformers", "finetune")


def test_it_tells_data_mixture_and_results(small_corpora: Workspace, run: Run) -> None:
    card = model_card(small_corpora, run, "adapter")
    assert "# Wells, second try" in card and f"{run.id}, experiment trial" in card
    manifest = Corpus.open(small_corpora, "field").manifest
    heldout = manifest.split.heldout
    _, _, field, world = cells(card, "source | what it is")
    assert field == [
        "field",
        "documents of the user, from 0 files",
        f"{manifest.documents:,}",
        f"{manifest.tokens:,}",
        f"{heldout.documents} with {heldout.tokens:,} tokens",
        manifest.fingerprint[:16],
    ]
    assert world[0] == "world"
    mixture = cells(card, "source | share asked for")
    assert mixture[2][:2] == ["field (the field)", "75%"] and mixture[3][:2] == ["world", "25%"]
    assert cells(card, "after | field")[2] == [
        "Knowledge", "1.600", "1.220", "+0.380", "1.250", "1.345", "+0.095", "0.475",
    ]  # fmt: skip
    assert cells(card, "after | set")[2] == [
        "Knowledge", "general", "48", "90% (80% to 96%)", "85% (74% to 92%)", "−5 (−12 to +2)", "25%", "30%",
    ]  # fmt: skip
    assert "base in fp32, on cpu" in card and "4 bits" not in card.partition("## How it was made")[2]


def test_the_whole_chain_is_told_in_order(workspace: Workspace) -> None:
    cpt, sft, dpo = made_chain(workspace)
    card = model_card(workspace, dpo, "merged")
    headings = [line for line in card.split("\n") if line.startswith("### ")]
    assert [heading[4:16] for heading in headings] == ["1. Knowledge", "2. Format: s", "3. Preferenc"]
    assert "further pre-training, supervised fine-tuning and preference optimisation" in card
    assert f"**Scored under:** knowledge run mixture, CE + LSSD ({cpt.id})" in card
    assert f"**Reference:** a frozen copy of SFT run mixture, CE + LSSD ({sft.id})" in card
    assert "3 samples of builtin/instructions" in card and "24 candidates of builtin/preferences" in card
    assert [line[0] for line in cells(card, "after | field")[2:]] == ["Knowledge", "Format", "Preference"]
    assert {line[0] for line in cells(card, "source | what it is")[2:]} >= {"builtin/atlas", "builtin/preferences"}
    assert front_matter(card)["tags"][-3:] == ["continual-pretraining", "sft", "dpo"] and "trl " in card
    alone = model_card(workspace, cpt, "merged")
    assert "2. Format" not in alone and "trained on plain text alone" in alone and "plain text alone" not in card


def test_the_form_of_answers_and_answers_in_words(workspace: Workspace) -> None:
    run = made_run(workspace)
    evaluation = run.results()["evaluation"]
    checks = ("ended", "follows", "right_length", "well_formed")
    base, final = ({check: {"share": share} for check in checks} | {"items": 20} for share in (0.25, 0.75))
    gain = {"well_formed": {"difference": 0.5, "interval": [0.25, 0.75]}}
    evaluation["format"] = {"chatml": {"base": base, "final": final, "gain": gain}}
    evaluation["final"]["general"]["measure"] = "contains"
    run.write_results("evaluation", evaluation)
    card = model_card(workspace, run, "adapter")
    assert cells(card, "after | template")[2] == ["Knowledge", "ChatML", "20", *["25% → 75%"] * 4, "+50 (+25 to +75)"]
    assert cells(card, "after | set")[2][1] == "general, answers in words"
    assert not facts.answers(made_run(workspace))


def test_a_run_whose_parent_is_gone_says_so(workspace: Workspace) -> None:
    parent = made_run(workspace)
    child = made_child(workspace, parent)
    parent.folder.rename(workspace.root / "elsewhere")
    assert f"goes on from run {parent.id}, which was deleted" in model_card(workspace, child, "adapter")


def test_nf4_scores_are_not_those_of_the_merged_weights(workspace: Workspace) -> None:
    run = made_run(workspace)
    run.write_results("training", run.results()["training"] | {"precision": "nf4"})
    merged, adapter = (model_card(workspace, run, to) for to in ("merged", "adapter"))
    assert "scores were taken with the base held in 4 bits (NF4)" in merged and "not into its 4-bit copy" in merged
    assert "With the base in bf16 or fp32 they come out differently" in adapter and "bitsandbytes " in adapter


def test_a_part_of_the_adapter_is_told_with_what_it_means(workspace: Workspace) -> None:
    run = made_run(workspace, stage=stage_of(adapter__alpha=24.0))
    adapter, merged = (model_card(workspace, run, to, 0.25) for to in ("adapter", "merged"))
    assert "at strength 0.25**: every layer adds that share" in adapter and "those at strength 1: measure" in merged
    assert "`lora_alpha` is 6 here, where training had 24" in adapter and "so much of the adapter was added" in merged
    assert "strength" not in model_card(workspace, run, "adapter")


def test_what_was_not_measured_is_said(workspace: Workspace) -> None:
    run = made_run(workspace, state="failed")
    assert "Nothing was measured." in model_card(workspace, run, "adapter")
    done = made_run(workspace)
    results = done.results()["training"]
    for part in ("base", "final"):
        del results[part]["general_bits_per_byte"]
    done.write_results("training", results)
    (done.folder / "results.json").write_text(
        (done.folder / "results.json").read_text().replace('"evaluation"', '"other"')
    )
    card = model_card(workspace, done, "adapter")
    assert cells(card, "after | field")[2][4:7] == ["not measured"] * 3 and "No questions were asked of it." in card


def test_gemma_comes_with_its_terms(workspace: Workspace) -> None:
    card = model_card(workspace, made_run(workspace, stage=stage_of(model__name="gemma-3-270m")), "adapter")
    assert front_matter(card)["license"] == "gemma" and "Gemma is provided under and subject to" in card


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_names_of_users_are_shown_as_they_are_and_do_nothing(workspace: Workspace, tmp_path: Path, to: str) -> None:
    model = tmp_path / "a: [b] *c* <b>d"
    model.mkdir()
    run = made_run(workspace, stage=stage_of(model__name=str(model)), name=NASTY)
    run.relabel(tags=["<i>tag", "a|b"])
    card = model_card(workspace, run, to)
    page = rendered(card)
    assert page.startswith("<h1>--- | &lt;script&gt;alert(1)&lt;/script&gt; **x** [y](javascript:z) `c` ")
    assert "<script" not in page and "<b>" not in page and "<i>" not in page and 'href="javascript' not in page
    assert "a: [b] *c* &lt;b&gt;d" in page and "&lt;i&gt;tag, a|b" in page
    assert "base_model" not in front_matter(card), "the hub would refuse a name that is no id"
    assert str(tmp_path) not in card and str(workspace.root) not in card
    assert page.count("<table>") == 4 and "see the base model" in page


def test_every_recorded_run_has_a_card(workspace: Workspace) -> None:
    for run in recorded.add(workspace):
        assert "## Results" in model_card(workspace, Runs(workspace).get(run.id), "adapter")


def test_the_same_run_gives_the_same_card(small_corpora: Workspace, run: Run) -> None:
    assert model_card(small_corpora, run, "merged") == model_card(small_corpora, Run(run.folder), "merged")
