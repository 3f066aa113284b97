"""Finished runs measured anew: each document as it is alone, nothing twice, every strength what the adapter is then."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from adapted import adapted_run, write_adapter
from peft import PeftModel
from test_measures import nats
from transformers import AutoModelForCausalLM

from mixcpt import measured, measuring, token_losses
from mixcpt.builtin import GENERAL
from mixcpt.corpus import Corpus, remove
from mixcpt.errors import BadInput, Interrupted, NotFound
from mixcpt.jobs import ACCELERATOR_KINDS, Jobs, is_part_of_run
from mixcpt.measured import Order, Taken, read
from mixcpt.measuring import measure, measure_runs, run_job
from mixcpt.resident import Resident
from mixcpt.runs import Run
from mixcpt.tokens import TextTokenizer
from mixcpt.worker import HANDLERS
from mixcpt.workspace import Workspace, read_json


@pytest.fixture
def run(small_corpora: Workspace, tiny_model_folder: Path) -> Run:
    return adapted_run(small_corpora, tiny_model_folder, seed=1)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every load of a base."""
    found: list[str] = []
    init = Resident.__init__

    def noted(self: Resident, base: Any) -> None:
        found.append(str(base))
        init(self, base)

    monkeypatch.setattr(Resident, "__init__", noted)
    return found


def alone(folder: Path, run: Run, strength: float) -> torch.nn.Module:
    """The base in float64 with the run's adapter, its B matrices scaled by the strength: LoRA is linear in them."""
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    model = PeftModel.from_pretrained(base, str(run.adapter)).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = parameter.data.double() * strength
        elif "lora_A" in name:
            parameter.data = parameter.data.double()
    return model


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_each_document_needs_the_bits_it_needs_alone(
    small_corpora: Workspace, run: Run, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer, strength: float
) -> None:
    (taken,) = measure(small_corpora, run, on=["field"], strengths=[strength], usual=False)
    documents = Corpus.open(small_corpora, "field").documents("heldout")
    assert taken.documents == tuple(document.id for document in documents)
    assert (taken.part, taken.kind, taken.measure, taken.strength) == ("other", "other", "bits", strength)
    assert taken.tokens == sum(taken.sizes) == sum(len(document.text) - 1 for document in documents)
    ours, base = alone(tiny_model_folder, run, strength), alone(tiny_model_folder, run, 0)
    for document, bits, before in zip(documents, taken.values, taken.base_values, strict=True):
        assert bits == pytest.approx(nats(ours, tiny_tokenizer, document.text) / math.log(2), rel=1e-5)
        assert before == pytest.approx(nats(base, tiny_tokenizer, document.text) / math.log(2), rel=1e-5)
    if strength == 0:
        assert taken.difference == 0 and taken.interval == (0, 0)
    else:
        low, high = taken.interval
        assert abs(taken.difference) > 0.01 and low <= taken.difference <= high


def test_of_a_long_document_only_its_beginning_counts(
    small_corpora: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "PIECE", 50)
    (taken,) = measure(small_corpora, run, on=["field"], usual=False)
    assert taken.sizes == (49,) * len(Corpus.open(small_corpora, "field").documents("heldout"))
    assert len(taken.documents) == len(set(taken.documents))


def test_the_usual_texts_are_the_field_every_kind_of_general_text_and_prompts(
    small_corpora: Workspace, run: Run
) -> None:
    found = measure(small_corpora, run, on=["world"], tokens=600)
    assert [(one.text, one.part, one.kind) for one in found] == [
        ("builtin/atlas", "field", "field"),
        ("builtin/general", "general", "prose"),
        ("builtin/general-web", "general", "web"),
        ("builtin/general-encyclopedic", "general", "encyclopedic"),
        ("builtin/general-code", "general", "code"),
        ("builtin/general-dialogue", "general", "dialogue"),
        ("world", "other", "other"),
        ("builtin/instructions", "prompts", "prompts"),
    ]
    assert set(GENERAL) < {one.text for one in found}
    kl = found[-1]
    assert kl.measure == "kl" and kl.base == 0 and kl.figure > 0.01 and sum(kl.sizes) == kl.tokens
    assert read(run) == found


def test_kl_is_that_of_the_whole_distributions(
    small_corpora: Workspace, run: Run, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer
) -> None:
    kl = measure(small_corpora, run, tokens=200)[-1]
    corpus = Corpus.open(small_corpora, "builtin-instructions")
    from mixcpt.config import MixtureConfig, SourceShare
    from mixcpt.token_table import text_of

    reading = MixtureConfig(sources=[SourceShare(source="builtin/instructions", share=1)])
    text = text_of(corpus.documents("heldout")[0], reading)[:200]
    ids = torch.from_numpy(tiny_tokenizer.encode([text])[0]).long()[None, :200]
    with torch.no_grad():
        p, q = (alone(tiny_model_folder, run, strength)(ids).logits[0, :-1].log_softmax(-1) for strength in (1.0, 0.0))
    assert kl.values[0] == pytest.approx((q.exp() * (q - p)).sum().item(), rel=1e-4)
    assert kl.sizes[0] == ids.shape[1] - 1


def test_what_is_known_is_not_measured_again(
    small_corpora: Workspace, run: Run, tiny_model_folder: Path, loads: list[str]
) -> None:
    first = measure(small_corpora, run, on=["field"], usual=False)
    again = measure(small_corpora, run, on=["field"], usual=False)
    assert len(loads) == 1 and again == first
    more = measure(small_corpora, run, on=["field"], strengths=[0, 0.5, 1], usual=False)
    assert len(loads) == 2 and more[2] == first[0] and [one.strength for one in read(run)] == [0, 0.5, 1]
    assert len(list((small_corpora.root / "measured").glob("*.json"))) == 1, "the base once"
    write_adapter(run, tiny_model_folder, seed=7)
    (other,) = measure(small_corpora, run, on=["field"], usual=False)
    assert other.values != first[0].values and len(loads) == 3


def test_a_run_read_from_disk_is_what_was_measured(small_corpora: Workspace, run: Run) -> None:
    found = measure(small_corpora, run, on=["field", "world"], strengths=[0.5, 1], usual=False)
    (path,) = [path for path in measured.folder_of(run).glob("*.json") if read_json(path)["text"] == "world"][:1]
    assert set(read_json(path)) == {*Taken.__dataclass_fields__} - {"run", "part"}
    measured._FILES = type(measured._FILES)()
    assert {(one.text, one.strength): one for one in read(run)} == {(one.text, one.strength): one for one in found}


def test_every_token_is_kept_beside_that_of_the_base(
    small_corpora: Workspace, run: Run, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer
) -> None:
    (taken,) = measure(small_corpora, run, on=["field"], usual=False)
    (kept,) = token_losses.read(run)
    documents = Corpus.open(small_corpora, "field").documents("heldout")
    assert kept.texts == tuple(document.text for document in documents) and kept.documents == taken.documents
    text = documents[0].text
    ids = torch.from_numpy(tiny_tokenizer.encode([text])[0]).long()[None]
    for strength, losses in ((1.0, kept.run), (0.0, kept.base)):
        with torch.no_grad():
            p = alone(tiny_model_folder, run, strength)(ids).logits[0, :-1].log_softmax(-1)
        expected = -p.gather(1, ids[0, 1:, None])[:, 0]
        assert losses[kept.piece == 0] == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)
    assert kept.spans[kept.piece == 0].tolist() == [[place, place + 1] for place in range(1, len(text))]
    bits = np.bincount(kept.piece, weights=kept.run.astype(np.float64)) / math.log(2)
    assert bits == pytest.approx(taken.values, rel=1e-6)


def test_pieces_of_a_long_document_know_where_their_tokens_stand(
    small_corpora: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "PIECE", 50)
    measure(small_corpora, run, on=["field"], usual=False)
    (kept,) = token_losses.read(run)
    assert {len(text) for text in kept.texts} == {50} and len(kept.piece) == 49 * len(kept.texts)
    assert kept.spans.max() == 50 and kept.spans.min() == 1


def test_tokens_that_were_not_kept_before_are_measured_and_no_other_strength_keeps_any(
    small_corpora: Workspace, run: Run, loads: list[str]
) -> None:
    measure(small_corpora, run, on=["field"], strengths=[0, 0.5], usual=False)
    assert token_losses.paths(run) == []
    (first,) = measure(small_corpora, run, on=["field"], usual=False)
    for path in [*token_losses.paths(run), *(small_corpora.root / "measured").glob("*.npz")]:
        path.unlink()  # as a workspace of before has it
    (again,) = measure(small_corpora, run, on=["field"], usual=False)
    assert again.values == first.values and len(token_losses.paths(run)) == 1 and len(loads) == 3
    measure(small_corpora, run, on=["field"], usual=False)
    assert len(loads) == 3


def test_several_runs_share_one_base(small_corpora: Workspace, tiny_model_folder: Path, loads: list[str]) -> None:
    runs = [adapted_run(small_corpora, tiny_model_folder, seed=seed) for seed in (1, 2)]
    heard: list[tuple[float | None, str]] = []
    found = measure_runs(
        small_corpora, runs, Order(on=("field",), usual=False), progress=lambda part, words: heard.append((part, words))
    )
    assert len(loads) == 1 and [one.run for one in found] == [one.id for one in runs]
    assert [part for part, _ in heard if part is not None] == [0, 0.5]
    difference = measured.between(*found)
    assert difference and difference.difference == pytest.approx(found[1].figure - found[0].figure)
    assert difference.documents == len(found[0].documents)


def test_what_was_measured_before_a_cancel_is_kept(small_corpora: Workspace, run: Run) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if (measured.folder_of(run)).is_dir() and calls > 1:
            raise Interrupted("stop", "cancelled")

    with pytest.raises(Interrupted):
        measure_runs(small_corpora, [run], Order(on=("field", "world"), usual=False), check=check)
    assert [one.text for one in read(run)] == ["field"]


def test_a_corpus_of_the_field_that_is_gone_is_left_out_and_a_named_one_is_not(
    small_corpora: Workspace, run: Run
) -> None:
    config = (run.folder / "config.yaml").read_text().replace("builtin/atlas", "field")
    (run.folder / "config.yaml").write_text(config)
    remove(small_corpora, "field")
    assert "field" not in {one.text for one in measure(small_corpora, run, tokens=100)}
    with pytest.raises(NotFound, match="There is no corpus 'field'"):
        measure(small_corpora, run, on=["field"])


def test_the_job(small_corpora: Workspace, run: Run) -> None:
    job = measured.submit(small_corpora, [run], Order(on=("field",), strengths=(0.5, 1.0), usual=False))
    assert job.kind in ACCELERATOR_KINDS and job.kind in HANDLERS and not is_part_of_run(job)
    assert measured.latest(small_corpora, [run.id]) == job and measured.latest(small_corpora, ["other"]) is None
    assert run.state(Jobs(small_corpora)) == "done"
    context: Any = SimpleNamespace(
        workspace=small_corpora, job=job, progress=lambda fraction, message: None, check=lambda: None
    )
    assert run_job(context) == "1 run measured on 1 text at 2 strengths."
    assert [one.strength for one in read(run)] == [0.5, 1]


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (Order(strengths=(1.5,)), "A strength of 1.5 is not possible"),
        (Order(strengths=(-0.1,)), "A strength of -0.1"),
        (Order(strengths=()), "no strength to measure at"),
        (Order(tokens=1), "1 tokens of a text are too few"),
        (Order(usual=False), "nothing to measure"),
    ],
)
def test_orders_that_cannot_be_carried_out(small_corpora: Workspace, run: Run, order: Order, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        measured.submit(small_corpora, [run], order)
    assert Jobs(small_corpora).all() == []


def test_trained_matrices_have_no_half(small_corpora: Workspace, run: Run) -> None:
    path = run.folder / "config.yaml"
    path.write_text(path.read_text().replace("vocabulary: false", "vocabulary: true"))
    with pytest.raises(BadInput, match="has no strength of"):
        measured.submit(small_corpora, [run], Order(strengths=(0.5, 1.0)))
    with pytest.raises(BadInput, match="no run to measure"):
        measured.submit(small_corpora, [], Order())
