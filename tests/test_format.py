"""The format of answers: judged by hand, written one at a time by hand, and losses summed up in float64."""

# mypy: allow-untyped-calls

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asked import new_run

from mixcpt import answers, models
from mixcpt.builtin import open_source
from mixcpt.corpus import Corpus, ingest_records
from mixcpt.errors import BadInput, Interrupted
from mixcpt.evaluation import evaluate
from mixcpt.format import Exam, Judged, Side, Written, answer, compared
from mixcpt.records import Message, Record
from mixcpt.statistics import paired_interval, share_interval
from mixcpt.templates import ChatTemplate, named_template
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

EOS = 256


def template_for(folder: Path, name: str) -> ChatTemplate:
    return ChatTemplate(folder, named_template(name, TextTokenizer.from_folder(folder)), name)


@pytest.fixture
def talks(workspace: Workspace, tiny_tokenizer: TextTokenizer) -> Corpus:
    """Twelve held-out questions with answers of 2, 4, … 24 bytes, and as many to train on."""
    records = [
        Record(
            kind="instructions",
            messages=(Message("user", f"Say {n}?"), Message("assistant", "ab" * (n % 12 + 1))),
            meta={"id": str(n)},
            file="test",
        )
        for n in range(24)
    ]
    held = {str(n) for n in range(12)}
    ingest_records(workspace, "talks", records, files=[], tokenizer=tiny_tokenizer, heldout_ids=held)
    return Corpus.open(workspace, "talks")


def test_held_out_prompts_that_fit_are_set_out_in_the_template(talks: Corpus, tiny_model_folder: Path) -> None:
    exam = Exam(talks, template_for(tiny_model_folder, "alpaca"), tiny_model_folder, 50, 20)
    assert sorted(prompt.reference_tokens for prompt in exam.prompts) == [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]
    first = exam.prompts[0]
    assert (
        exam.template.tokenizer.decode(first.ids.tolist()) == f"### Instruction:\n{first.question}\n\n### Response:\n"
    )
    assert set(exam.ends) == {EOS}
    some = Exam(talks, exam.template, tiny_model_folder, 3, 20)
    assert [p.id for p in some.prompts] == [p.id for p in Exam(talks, exam.template, tiny_model_folder, 3, 20).prompts]
    assert len({exam.fingerprint, some.fingerprint}) == 2
    with pytest.raises(
        BadInput, match="holds out no prompt whose answer has at most 1 tokens in the template 'alpaca'"
    ):
        Exam(talks, exam.template, tiny_model_folder, 3, 1)


def test_documents_have_no_answers(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    with pytest.raises(BadInput, match="holds documents"):
        Exam(Corpus.open(small_corpora, "field"), template_for(tiny_model_folder, "alpaca"), tiny_model_folder, 3, 20)


ALPACA = "### Instruction:"


@pytest.mark.parametrize(
    ("text", "ended", "wanted"),
    [
        ("abababab", True, (True, True, True)),  # four of eight bytes: just half
        ("abab", True, (True, True, False)),
        ("ab" * 16, True, (True, True, False)),
        ("ab" * 8, True, (True, True, True)),
        ("ab" * 4, False, (False, True, False)),
        ("", True, (True, False, False)),
        (" \n ", True, (True, False, False)),
        ("abab\n### Instruction:\nmore", True, (True, False, True)),
        ("so the ### Response: is", True, (True, True, True)),
        ("  ### Response: is", True, (True, False, True)),
        ("abab <eos> ab", True, (True, False, True)),  # the end token, spelled out
    ],
)
def test_an_answer_is_judged(
    talks: Corpus, tiny_model_folder: Path, text: str, ended: bool, wanted: tuple[bool, bool, bool]
) -> None:
    """Against a reference of 14 bytes."""
    exam = Exam(talks, template_for(tiny_model_folder, "alpaca"), tiny_model_folder, 50, 64)
    prompt = next(prompt for prompt in exam.prompts if prompt.reference_tokens == 14)
    ids = exam.template.tokenizer.encode([text])[0].tolist()
    judged = exam._judge(prompt, Written(ids, ended))
    lengths = {0: False, 4: False, 32: False, 8: True, 16: True}
    assert (judged.ended, judged.follows) == wanted[:2]
    assert judged.right_length == (ended and lengths.get(len(ids), 7 <= len(ids) <= 28))
    assert judged.ratio == len(ids) / 14 and judged.well_formed == (ended and judged.follows and judged.right_length)


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("chatml", "yes<|im_start|>user", "<|other|> and user"),
        ("zephyr", "x <|user|> y", "a user wrote"),
        ("llama3", "<|eot_id|>", "<b>bold</b> assistant"),
        ("question-answer", "true\nAnswer: no", "The Answer: no"),
    ],
)
def test_no_mark_of_the_template_may_stand_in_an_answer(
    talks: Corpus, tiny_model_folder: Path, name: str, inside: str, outside: str
) -> None:
    """The tiny tokenizer knows none of these as tokens, so they are found as text."""
    exam = Exam(talks, template_for(tiny_model_folder, name), tiny_model_folder, 1, 64)
    encode = exam.template.tokenizer.encode
    follows = [
        exam._judge(exam.prompts[0], Written(encode([text])[0].tolist(), True)).follows for text in (inside, outside)
    ]
    assert follows == [False, True]


def test_an_end_token_in_the_middle_is_no_answer_s(talks: Corpus, tiny_model_folder: Path) -> None:
    exam = Exam(talks, template_for(tiny_model_folder, "alpaca"), tiny_model_folder, 1, 64)
    assert not exam._judge(exam.prompts[0], Written([97, EOS, 97], True)).follows


@torch.no_grad()
def by_hand(model: torch.nn.Module, prompt: np.ndarray, tokens: int) -> Written:
    """Greedily, all of it read anew for every token, without a cache and without padding."""
    ids: list[int] = []
    while len(ids) < tokens:
        token = int(model(torch.tensor([[*prompt.tolist(), *ids]])).logits[0, -1].argmax())
        if token == EOS:
            return Written(ids, True)
        ids.append(token)
    return Written(ids, False)


@pytest.fixture(scope="module")
def ending_model(tiny_model_folder: Path) -> Any:
    """The tiny model with an end token that it likes, so that some answers end and some do not."""
    model = models.load_base(tiny_model_folder, "cpu", "fp32")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight[EOS] = 0.3 * torch.randn(weight.shape[1], generator=generator)
    return model


@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_padding_and_batches_change_no_answer_in_fp32(
    talks: Corpus, tiny_model_folder: Path, ending_model: Any, at_once: int
) -> None:
    exam = Exam(talks, template_for(tiny_model_folder, "question-answer"), tiny_model_folder, 12, 24)
    prompts = [prompt.ids for prompt in exam.prompts]
    wanted = [by_hand(ending_model, prompt, 24) for prompt in prompts]
    assert 0 < sum(one.ended for one in wanted) < len(wanted), "the test would prove nothing"
    shares: list[float] = []
    assert answer(ending_model, prompts, exam.ends, 24, at_once, shares.append) == wanted
    assert shares == sorted(shares) and shares[-1] == 1


def test_all_of_it_is_counted(talks: Corpus, tiny_model_folder: Path, ending_model: Any) -> None:
    exam = Exam(talks, template_for(tiny_model_folder, "alpaca"), tiny_model_folder, 6, 24)
    head = models.output_head(ending_model)
    sides = [exam.put_to(ending_model, head, at_once) for at_once in (1, 4)]
    assert sides[0].answers == sides[1].answers and sides[0].loss == pytest.approx(sides[1].loss, abs=1e-6)
    total, tokens = 0.0, 0
    for prompt in exam.prompts:
        reference = exam.template.tokenizer.encode([prompt.reference])[0].tolist()
        ids = torch.tensor([[*prompt.ids.tolist(), *reference, EOS]])
        with torch.no_grad():
            logp = ending_model(ids).logits[0].double().log_softmax(-1)
        for place in range(len(prompt.ids), ids.shape[1]):
            total -= logp[place - 1, ids[0, place]].item()
            tokens += 1
    assert sides[0].loss == pytest.approx(total / tokens, abs=1e-5)


def test_shares_and_gains_come_with_intervals() -> None:
    def judged(*flags: int, ratio: float) -> Judged:
        return Judged("x", bool(flags[0]), bool(flags[1]), bool(flags[2]), ratio)

    base = Side([judged(1, 1, 0, ratio=4), judged(0, 1, 0, ratio=9), judged(1, 1, 1, ratio=1)], 2.5)
    final = Side([judged(1, 1, 1, ratio=1), judged(1, 0, 1, ratio=2), judged(1, 1, 1, ratio=1)], 2.0)
    counted = base.summary()
    assert counted["ended"] == {"share": 2 / 3, "interval": share_interval(2, 3)}
    assert counted["well_formed"]["share"] == 1 / 3 and counted["follows"]["share"] == 1
    assert (counted["length_ratio"], counted["loss"], counted["items"]) == (4, 2.5, 3)
    gain = compared(base, final)
    assert gain["ended"] == {"difference": 1 / 3, "interval": paired_interval([1, 0, 1], [1, 1, 1])}
    assert gain["follows"]["difference"] == -1 / 3 and gain["well_formed"]["difference"] == pytest.approx(1 / 3)


def test_a_run_s_format_is_kept_with_it_template_by_template(
    workspace: Workspace, talks: Corpus, tiny_model_folder: Path
) -> None:
    asked = {"tasks": [], "format_items": 5, "format_tokens": 16, "format_source": "talks", "batch_size": 2}
    run = new_run(workspace, tiny_model_folder, 1, {**asked, "format_templates": ["alpaca", "own", "chatml"]})
    results = evaluate(workspace, run)
    assert list(results["format"]) == ["alpaca", "chatml"] and results["final"] == {}
    assert "has no chat template of its own" in results["unavailable"]["format own"]
    one = results["format"]["alpaca"]
    assert one["base"]["items"] == one["final"]["items"] == 5 and one["tokens"] == 16 and one["source"] == "talks"
    assert (one["precision"], one["batch_size"]) == ("fp32", 2) and one["final"]["loss"] != one["base"]["loss"]
    rows = answers.read(run, "format.alpaca")
    assert [row.right for row in rows] == [["ab" * (len(row.right[0]) // 2)] for row in rows] and len(rows) == 5
    (run.adapter / "chat_template.jinja").write_text(
        named_template("zephyr", TextTokenizer.from_folder(tiny_model_folder))
    )
    again = evaluate(workspace, run, run.config.evaluation.model_copy(update={"format_templates": []}))
    assert list(again["format"]) == ["alpaca", "chatml", "own"] and again["unavailable"] == {}
    assert again["format"]["alpaca"] == one


def test_the_base_answers_once(
    workspace: Workspace, talks: Corpus, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mixcpt import format

    calls: list[int] = []
    real = format.answer

    def counting(*given: Any) -> list[Written]:
        calls.append(1)
        return real(*given)

    monkeypatch.setattr(format, "answer", counting)
    asked = {
        "tasks": [],
        "format_items": 2,
        "format_tokens": 8,
        "format_source": "talks",
        "format_templates": ["alpaca"],
    }
    first = evaluate(workspace, new_run(workspace, tiny_model_folder, 1, asked))
    second = evaluate(workspace, new_run(workspace, tiny_model_folder, 2, asked))
    assert len(calls) == 3 and first["format"]["alpaca"]["base"] == second["format"]["alpaca"]["base"]


def test_a_request_to_stop_is_heard_between_batches(talks: Corpus, tiny_model_folder: Path, ending_model: Any) -> None:
    exam = Exam(talks, template_for(tiny_model_folder, "alpaca"), tiny_model_folder, 6, 24)

    def stop(share: float) -> None:
        if share > 0:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        exam.put_to(ending_model, models.output_head(ending_model), 2, stop)


def test_the_built_in_prompts_fit(workspace: Workspace, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer) -> None:
    """Fifty are held out; with a byte a token most are longer than 128."""
    corpus = open_source(workspace, "builtin/instructions", tiny_tokenizer)
    template = template_for(tiny_model_folder, "alpaca")
    assert len(Exam(corpus, template, tiny_model_folder, 1000, 4096).prompts) == 50
    assert len(Exam(corpus, template, tiny_model_folder, 1000, 128).prompts) > 5


def test_a_template_that_takes_one_question_only_is_refused(talks: Corpus, tiny_model_folder: Path) -> None:
    source = "{% for m in messages[:2] %}{{ m['content'] }} {% endfor %}"
    with pytest.raises(BadInput, match="leaves out or changes message 3"):
        Exam(talks, ChatTemplate(tiny_model_folder, source, "short"), tiny_model_folder, 1, 64)
