"""Scores against float64 arithmetic on one text at a time, in a differently written loop; batches, cache and cancel."""

import json
import math
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from in_process import InProcess
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mixcpt import models, score_jobs, scoring
from mixcpt.config import AdapterConfig, ModelConfig
from mixcpt.corpus import ingest_records
from mixcpt.errors import BadInput, Diverged, Interrupted, NotFound
from mixcpt.lssd import Head
from mixcpt.readings import Reader, Text
from mixcpt.records import Message, Record
from mixcpt.runs import Run, Runs
from mixcpt.score_jobs import ScoreOrder
from mixcpt.scores import Cache, ScoredSample, ScoreTable, list_tables, softplus
from mixcpt.scoring import batches, losses_of, per_token, score
from mixcpt.settings import validate
from mixcpt.stages import Stage
from mixcpt.templates import NAMED, choose_template
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

PAIRS = [
    ("What is a mill?", "It grinds corn."),
    ("Name a river.", "The Aller."),
    ("Größe in €?", "Fünf 😀 und mehr als das, wie man sagt."),
    ("Say x.", "x"),
    ("Count to ten please, slowly.", "One, two, three, four, five, six, seven, eight, nine, ten."),
    ("Say <|im_end|> and <eos>.", "<eos> it is"),
]
EXTRA = [("Write a long text.", "abc " * 70), ("Only a word?", "yes")]
CHOICES = [
    ("Which way?", "Left, then left.", "No."),
    ("How old?", "Ten.", "Twelve and a half years."),
    ("Two €?", "Zwei.", "Drei 😀."),
]
FP32 = {"precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: TextTokenizer) -> Workspace:
    """A workspace with instructions `talk` and pairs `taste`; what is held out of them is filler."""
    workspace = Workspace(tmp_path_factory.mktemp("scoring") / "home")
    talk = [
        Record("instructions", messages=(Message("user", q), Message("assistant", a)), meta={"id": f"t{i}"})
        for i, (q, a) in enumerate(PAIRS + EXTRA)
    ]
    talk += [Record("instructions", messages=(Message("user", "held"), Message("assistant", "out")), meta={"id": "h"})]
    taste = [
        Record("preferences", messages=(Message("user", q),), chosen=c, rejected=r, meta={"id": f"p{i}"})
        for i, (q, c, r) in enumerate(CHOICES)
    ]
    taste += [
        Record("preferences", messages=(Message("user", "h" * 150),), chosen="o", rejected="ut", meta={"id": "h"})
    ]
    for name, records in (("talk", talk), ("taste", taste)):
        ingest_records(workspace, name, records, files=[], heldout_ids={"h"}, tokenizer=tiny_tokenizer)
    return workspace


@pytest.fixture(scope="module")
def run(home: Workspace, tiny_model_folder: Path) -> Run:
    """A run whose adapter was drawn at random, with dropout that scores must not see."""
    stage = {
        "model": {"name": str(tiny_model_folder), **FP32},
        "mixture": {"sources": [{"source": "builtin/atlas", "share": 1, "domain": True}]},
    }
    run = Runs(home).create(validate(Stage, stage, "the test"), experiment="test")
    adapted = models.attach_adapter(
        models.load_base(tiny_model_folder, "cpu", "fp32"), AdapterConfig(rank=4, dropout=0.5), 0
    )
    generator = torch.Generator().manual_seed(3)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(str(run.adapter))
    return run


@pytest.fixture(scope="module")
def exact(tiny_model_folder: Path, run: Run) -> tuple[Any, Any]:
    """The base and the adapted model in float64."""
    base, inner = cast(
        Any, (AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float64) for _ in range(2))
    )
    return base.eval(), PeftModel.from_pretrained(inner, str(run.adapter)).double().eval()


def model_config(folder: Path) -> ModelConfig:
    return ModelConfig.model_validate({"name": str(folder), **FP32})


def nats(model: torch.nn.Module, tokenizer: TextTokenizer, before: str, answer: str, end: bool = False) -> list[float]:
    """-log p of each byte of `answer` (and of the end token) after `before`; the first byte of all is left out."""
    ids = [*tokenizer.encode([before])[0].tolist(), *tokenizer.encode([answer])[0].tolist()] + [256] * end
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    start = max(len(before.encode()), 1)
    return [
        (torch.logsumexp(logits[place - 1], 0) - logits[place - 1, ids[place]]).item()
        for place in range(start, len(ids))
    ]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def by_question(table: ScoreTable) -> dict[str, ScoredSample]:
    return {sample.parsed.messages[0].content: sample for sample in table.samples}


def test_answer_scores_are_those_of_the_definition(
    home: Workspace, run: Run, tiny_tokenizer: TextTokenizer, exact: tuple[torch.nn.Module, torch.nn.Module]
) -> None:
    table = score(home, "talk", run=run.id, template="question-answer", max_tokens=250)
    found = by_question(table)
    for question, answer in PAIRS:
        scores, model = found[question].scores, exact[1]
        under, bare = f"Question:\n{question}\n\nAnswer:\n", f"{question}\n\n"
        template, plain = (mean(nats(model, tiny_tokenizer, before, answer)) for before in (under, bare))
        wholes = [mean(nats(model, tiny_tokenizer, "", before + answer, end=True)) for before in (under, bare)]
        wanted = {
            "loss_template": template,
            "loss_plain": plain,
            "perplexity_template": math.exp(template),
            "perplexity_plain": math.exp(plain),
            "alignment_response": template / plain,
            "alignment_whole": wholes[0] / wholes[1],
        }
        if len(answer) > 1:  # a letter alone has nothing before it, so no loss
            given = nats(model, tiny_tokenizer, bare, answer)[1:]
            wanted["ifd"] = sum(given) / sum(nats(model, tiny_tokenizer, "", answer))
        assert scores == pytest.approx(wanted, rel=2e-5)
        assert found[question].tokens == len(f"{under}{answer}".encode()) + 1
        assert found[question].answer_tokens == len(answer.encode())
    assert table.info["run"] == run.id and table.info["template"]["name"] == "question-answer"
    assert "held" not in found, "what is held out is never a candidate"


def test_the_base_is_scored_without_any_adapter(
    home: Workspace, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer, exact: tuple[torch.nn.Module, ...]
) -> None:
    table = score(home, "talk", model=model_config(tiny_model_folder), max_tokens=250)
    assert table.info["template"] is None, "the tiny model brings none"
    assert table.names() == ["perplexity_plain", "loss_plain", "ifd"]
    found = by_question(table)
    for question, answer in PAIRS:
        wanted = mean(nats(exact[0], tiny_tokenizer, f"{question}\n\n", answer))
        assert found[question].scores["loss_plain"] == pytest.approx(wanted, rel=2e-5)


def test_pair_scores_are_those_of_the_definition(
    home: Workspace, run: Run, tiny_tokenizer: TextTokenizer, exact: tuple[torch.nn.Module, torch.nn.Module]
) -> None:
    found = by_question(score(home, "taste", run=run.id, template="question-answer", beta=0.3, max_tokens=250))
    assert len(found) == len(CHOICES)
    for question, chosen, rejected in CHOICES:
        before = f"Question:\n{question}\n\nAnswer:\n"
        (base_c, base_r), (c, r) = (
            [[-x for x in nats(model, tiny_tokenizer, before, answer, end=True)] for answer in (chosen, rejected)]
            for model in exact
        )
        reward = sum(c) - sum(base_c) - (sum(r) - sum(base_r))
        wanted = {
            "logp_chosen": sum(c),
            "logp_rejected": sum(r),
            "margin": sum(c) - sum(r),
            "margin_per_token": mean(c) - mean(r),
            "implicit_margin": reward,
            "dpo_loss": -math.log(1 / (1 + math.exp(-0.3 * reward))),
        }
        assert abs(reward) > 0.1, "else the base and the adapter could be exchanged unseen"
        assert found[question].scores == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_a_pair_under_the_base_has_no_implicit_reward(home: Workspace, tiny_model_folder: Path) -> None:
    table = score(home, "taste", model=model_config(tiny_model_folder))
    assert table.names() == ["margin", "margin_per_token", "logp_chosen", "logp_rejected"]


@pytest.mark.parametrize(
    ("x", "value"), [(0.0, math.log(2)), (1.0, math.log(1 + math.e)), (800.0, 800.0), (-800.0, 0.0)]
)
def test_softplus_is_exact_and_does_not_overflow(x: float, value: float) -> None:
    assert softplus(x) == pytest.approx(value, rel=1e-15)


@pytest.fixture(scope="module")
def loaded(run: Run, tiny_model_folder: Path) -> PeftModel:
    return models.load_adapter(models.load_base(tiny_model_folder, "cpu", "fp32"), run.adapter, trainable=False).eval()


@pytest.fixture(scope="module")
def texts(tiny_model_folder: Path, tiny_tokenizer: TextTokenizer) -> list[Text]:
    reader = Reader(tiny_tokenizer, choose_template(tiny_model_folder, "chatml"), max_tokens=250)
    records = [Record("instructions", messages=(Message("user", q), Message("assistant", a))) for q, a in PAIRS]
    return [text for record in records for text in reader.texts(record)]


def losses_by_index(model: torch.nn.Module, texts: list[Text], **options: Any) -> dict[int, np.ndarray]:
    head = models.output_head(model)
    return {index: losses for batch in losses_of(model, head, texts, **options) for index, losses in batch}


@pytest.mark.parametrize("batch_tokens", [1, 150, 400, 100_000])
@pytest.mark.parametrize("chunk", [3, 128])
def test_the_batch_does_not_move_a_score(loaded: PeftModel, texts: list[Text], batch_tokens: int, chunk: int) -> None:
    alone = [losses_by_index(loaded, [text])[0] for text in texts]
    order = np.random.default_rng(batch_tokens).permutation(len(texts)).tolist()
    found = losses_by_index(loaded, [texts[i] for i in order], batch_tokens=batch_tokens, chunk=chunk)
    for place, index in enumerate(order):
        assert np.abs(found[place] - alone[index]).max() < 1e-5
        mine, theirs = (scoring.sums_of(texts[index], losses) for losses in (found[place], alone[index]))
        assert mine.answer / mine.answer_tokens == pytest.approx(theirs.answer / theirs.answer_tokens, abs=1e-5)


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    found = batches(lengths, budget)
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) * max(lengths[index] for index in batch) <= budget or len(batch) == 1
    flat = [lengths[index] for batch in found for index in batch]
    assert flat == sorted(lengths, reverse=True)


def test_no_more_logits_at_once_than_a_chunk(
    loaded: PeftModel, texts: list[Text], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    product = Head.product

    def noted(head: Head, hidden: torch.Tensor, *more: Any) -> torch.Tensor:
        rows.append(len(hidden))
        return product(head, hidden, *more)

    monkeypatch.setattr(Head, "product", noted)
    seen: list[int] = []
    head_layer = loaded.get_base_model().get_output_embeddings()  # type: ignore[operator]
    handle = head_layer.register_forward_hook(lambda module, given, output: seen.append(output.shape[1]))
    losses_by_index(loaded, texts, batch_tokens=2000, chunk=16)
    handle.remove()
    assert max(rows) == 16 and set(seen) == {0}, "the model's own head is not asked at all"


def test_only_what_was_asked_is_computed(loaded: PeftModel, texts: list[Text]) -> None:
    whole = losses_by_index(loaded, texts[:1])[0]
    text = texts[0]
    part = losses_by_index(loaded, [Text("", "", text.ids, text.span, first=text.span.start)])[0]
    assert part[: text.span.start].tolist() == [0.0] * text.span.start
    assert part[text.span.start :] == pytest.approx(whole[text.span.start :], abs=1e-6)
    assert whole[0] == 0 and (whole[1:] > 0).all()


def test_a_strip_shows_the_base_beside_the_adapted(
    loaded: PeftModel, tiny_tokenizer: TextTokenizer, tiny_model_folder: Path, exact: tuple[torch.nn.Module, ...]
) -> None:
    template = choose_template(tiny_model_folder, "question-answer")
    assert template is not None
    rendered = template.render([Message("user", "Name a river."), Message("assistant", "The Aller.")])
    strip = per_token(loaded, rendered)
    text = "Question:\nName a river.\n\nAnswer:\nThe Aller."
    for model, found in zip(exact, (strip.base, strip.adapted), strict=True):
        assert found[1:].tolist() == pytest.approx(nats(model, tiny_tokenizer, "", text, end=True), abs=2e-5)
    assert np.abs(strip.base - strip.adapted).max() > 0.01
    assert strip.mask.sum() == len("The Aller.") + 1
    assert not loaded.training, "left as it was"
    assert losses_by_index(loaded, [Text("", "", rendered.ids, rendered.response)])[0] == pytest.approx(
        strip.adapted, abs=1e-6
    ), "the adapter is on again"


# The cache


def refuse_loading(*_: Any) -> Any:
    raise AssertionError("the model was loaded")


@pytest.fixture
def cache_files(home: Workspace) -> set[Path]:
    return set((home.root / "scores" / "cache").glob("*.jsonl"))


def test_a_second_time_no_model_is_loaded(home: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = score(home, "talk", run=run.id, template="chatml", max_tokens=250)
    monkeypatch.setattr(models, "load_base", refuse_loading)
    again = score(home, "talk", run=run.id, template="chatml", max_tokens=250, batch_tokens=1)
    assert again.samples == first.samples and again.id == first.id
    opened = ScoreTable.open(home, first.id)
    assert opened.samples == first.samples and opened.info == again.info


def test_another_template_reuses_the_plain_readings_only(
    home: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(home, "talk", run=run.id, template="none", max_tokens=250)
    asked: list[str] = []
    real = losses_of

    def noted(model: Any, head: Any, texts: list[Text], **options: Any) -> Any:
        asked.extend(text.form for text in texts)
        return real(model, head, texts, **options)

    monkeypatch.setattr(scoring, "losses_of", noted)
    score(home, "talk", run=run.id, template="zephyr", max_tokens=250)
    assert set(asked) == {"template"}
    asked.clear()
    score(home, "talk", run=run.id, template="zephyr", max_tokens=250, what=["plain"])
    assert asked == []


def test_another_adapter_another_base_and_another_sample_are_scored_anew(
    home: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    facts = {"model": "a", "adapter": "b", "precision": "fp32", "template": "c"}
    paths = {Cache(home, {**facts, name: "other"}).path for name in facts} | {Cache(home, facts).path}
    assert len(paths) == 5


def test_damaged_lines_are_scored_again_and_no_others(
    home: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: Any = {"model": model_config(tiny_model_folder), "template": "alpaca", "max_tokens": 250}
    before = set((home.root / "scores" / "cache").glob("*.jsonl"))
    first = score(home, "talk", what=["template"], **options)
    (path,) = set((home.root / "scores" / "cache").glob("*.jsonl")) - before
    lines = path.read_text().splitlines(keepends=True)
    lines[1] = lines[1].replace("[", "[1", 1)  # another number
    lines[2] = lines[2][:30]  # a torn line, which took the next one's beginning
    path.write_text("".join(lines[:3]) + "\n" + "\x00\n" + "".join(lines[4:]) + "torn")
    asked: list[int] = []
    real = losses_of

    def noted(model: Any, head: Any, texts: list[Text], **options: Any) -> Any:
        asked.append(len(texts))
        return real(model, head, texts, **options)

    monkeypatch.setattr(scoring, "losses_of", noted)
    again = score(home, "talk", what=["template"], **options)
    assert asked == [3]
    for one, other in zip(first.samples, again.samples, strict=True):
        assert one.scores == pytest.approx(other.scores, rel=1e-6, abs=1e-5)
        # a perplexity is exp of a loss: the 1e-6 nats by which the shape of a batch may move it are relative there
    assert len(path.read_text().splitlines()) == len(lines) and "torn" not in path.read_text()


def test_a_cancelled_job_keeps_what_it_has(home: Workspace, tiny_model_folder: Path) -> None:
    options: Any = {"model": model_config(tiny_model_folder), "template": "llama3", "max_tokens": 500}
    heard: list[str] = []

    def check() -> None:
        if any("scored" in message for message in heard):
            raise Interrupted("stop")

    def progress(fraction: float | None, message: str) -> None:
        heard.append(message)

    with pytest.raises(Interrupted):
        score(home, "talk", what=["template"], batch_tokens=1, progress=progress, check=check, **options)
    heard.clear()
    score(home, "talk", what=["template"], batch_tokens=1, progress=progress, **options)
    assert heard[-1].startswith("scored 7 of 7"), "eight there are, and one was done"


# What cannot be scored


def test_samples_that_cannot_be_trained_on_are_reported(home: Workspace, run: Run) -> None:
    table = score(home, "talk", run=run.id, template="chatml", max_tokens=250)
    (left,) = [sample for sample in table.samples if sample.reason]
    assert left.reason == "it has 348 tokens (280 of them the answer), more than the 250 allowed"
    assert left.scores == {} and left.parsed.messages[0].content == "Write a long text."


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (Record("instructions", messages=(Message("user", "a"), Message("assistant", " \n"))), "the answer is empty"),
        (Record("instructions"), "the answer is empty"),
        (
            Record("preferences", messages=(Message("user", "a"),), chosen="", rejected="b"),
            "the chosen answer is",
        ),
        (Record("preferences", messages=(Message("user", "a"),), chosen="b", rejected=" "), "the rejected answer is"),
        (Record("preferences", messages=(Message("user", "a"),), chosen="b", rejected="b "), "rejected are the same"),
        (Record("instructions", messages=(Message("user", "a"), Message("assistant", "x" * 10**6))), "1,000,001 char"),
        (
            Record("preferences", messages=(Message("user", "a"),), chosen="b" * 60, rejected="c"),
            "has 64 tokens (61",
        ),
    ],
)
def test_the_reason_is_told(tiny_tokenizer: TextTokenizer, record: Record, reason: str) -> None:
    with pytest.raises(BadInput) as caught:
        Reader(tiny_tokenizer, None, max_tokens=50).texts(record)
    assert reason in str(caught.value)


def test_sources_runs_and_templates_that_do_not_fit(
    home: Workspace, run: Run, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer
) -> None:
    base = model_config(tiny_model_folder)
    prose = [Record("documents", f"A text of some length, number {n}.") for n in range(20)]
    ingest_records(home, "prose", prose, files=[], tokenizer=tiny_tokenizer, replace=True)
    with pytest.raises(BadInput, match=r"'prose' holds documents, which have no answers"):
        score(home, "prose", model=base)
    with pytest.raises(NotFound, match="no corpus 'nothing'"):
        score(home, "nothing", model=base)
    with pytest.raises(BadInput, match=r"Nothing in the source 'talk' can be scored \(it has .* tokens"):
        score(home, "talk", model=base, max_tokens=3)
    with pytest.raises(BadInput, match="no form 'sideways' to score: choose from template, plain, alone"):
        score(home, "talk", model=base, what=["sideways"])
    with pytest.raises(BadInput, match=f"has no chat template, and only .* choose one of {', '.join(NAMED)}"):
        score(home, "talk", model=base, what=["template"])
    unfinished = Runs(home).create(run.config, experiment="test")
    with pytest.raises(BadInput, match=f"Run {unfinished.id} has no finished adapter"):
        score(home, "talk", run=unfinished.id)


def test_a_model_that_gives_no_number_is_named(
    home: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any, head: Any, texts: list[Text], **_: Any) -> Any:
        yield [(0, np.full(len(texts[0].ids), np.nan))]

    monkeypatch.setattr(scoring, "losses_of", broken)
    monkeypatch.setattr(models, "model_fingerprint", lambda folder: "another")
    with pytest.raises(Diverged, match="gives no number for a sample of 'talk'"):
        score(home, "talk", model=model_config(tiny_model_folder))


# The job


def test_a_score_job_writes_a_table(home: Workspace, run: Run, tiny_model_folder: Path) -> None:
    queue = InProcess(home)
    payload = {"source": "taste", "run": run.id, "template": "chatml", "what": None, "max_tokens": 250}
    job = queue.jobs.submit("score", payload, run=run.id)
    queue.run_until([job.id])
    assert job.state == "done", job.status.message
    (info,) = [i for i in list_tables(home) if i["source"] == "taste" and (i["template"] or {}).get("name") == "chatml"]
    assert job.status.message == f"Scores {info['id']}: 3 samples scored."
    assert json.loads((home.root / "scores" / "tables" / info["id"] / "table.json").read_text()) == info
    model = {"name": str(tiny_model_folder), **FP32}
    job = queue.jobs.submit("score", {"source": "talk", "run": None, "model": model, "max_tokens": 250})
    queue.run_until([job.id])
    assert job.state == "done" and "7 samples scored, 1 left out" in job.status.message
    with pytest.raises(NotFound, match="no scores 'x'"):
        ScoreTable.open(home, "x")


@pytest.mark.parametrize("gone", ["source", "run"])
def test_what_is_deleted_while_the_job_waits_is_told(
    home: Workspace, run: Run, tiny_tokenizer: TextTokenizer, gone: str
) -> None:
    talk = [
        Record("instructions", messages=(Message("user", f"question {n}"), Message("assistant", "a")))
        for n in range(30)
    ]
    ingest_records(home, "short-lived", talk, files=[], tokenizer=tiny_tokenizer, replace=True)
    copy = Runs(home).create(run.config, experiment="test")
    shutil.copytree(run.adapter, copy.adapter)
    order = validate(
        ScoreOrder, {"source": "short-lived", "run": copy.id, "template": "chatml", "max_tokens": 250}, "the test"
    )
    job = score_jobs.submit(home, order)
    shutil.rmtree(home.corpora / "short-lived" if gone == "source" else copy.folder)
    before = list_tables(home)
    InProcess(home).run_until([job.id])
    wanted = "There is no corpus 'short-lived'" if gone == "source" else f"There is no run '{copy.id}'"
    assert (job.state, job.status.bad_input) == ("failed", True) and wanted in job.status.message
    assert list_tables(home) == before


def test_a_finished_job_names_its_scores(home: Workspace, run: Run) -> None:
    order = validate(ScoreOrder, {"source": "talk", "run": run.id, "template": "none", "max_tokens": 250}, "the test")
    job = score_jobs.submit(home, order)
    InProcess(home).run_until([job.id])
    table = ScoreTable.open(home, score_jobs.table_of(job))
    assert (table.info["samples"], table.info["left_out"]) == (7, 1)


def test_a_score_job_hears_a_cancel(home: Workspace, run: Run) -> None:
    queue = InProcess(home)
    job = queue.jobs.submit("score", {"source": "talk", "run": run.id})
    job.request.write_text("cancel")
    queue.run_until([job.id])
    assert job.state == "cancelled"
