"""Bits per byte and the distance to the base, against float64 arithmetic on one document at a time."""

import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from test_tokens import with_template
from torch import Tensor
from transformers import AutoModelForCausalLM

from mixcpt import models
from mixcpt.config import AdapterConfig, MeasureConfig, MixtureConfig, SourceShare
from mixcpt.corpus import Corpus, ingest_records
from mixcpt.measures import Measures, Sample, bits_by_piece, bits_per_byte, sample
from mixcpt.mixture import validation_documents
from mixcpt.records import Record
from mixcpt.teacher import evaluating
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

TEXTS = [
    "A plain line of just forty letters, yes.",
    "Größe: 5 €, ein Gruß 😀 und noch ein Wort.",
    "short," * 40,
    "The last of these documents says little.",
]


def mixture(row_tokens: int = 128, **more: object) -> MixtureConfig:
    sources = [SourceShare(source="field", share=1, domain=True)]
    return MixtureConfig.model_validate({"sources": sources, "row_tokens": row_tokens, **more})


@pytest.fixture
def corpus(workspace: Workspace, tiny_tokenizer: TextTokenizer) -> Corpus:
    """TEXTS are held out, in their order; the rest only makes the corpus large enough."""
    held = [Record(kind="documents", text=text, meta={"id": f"held{i}"}, file="t") for i, text in enumerate(TEXTS)]
    rest = [Record(kind="documents", text=f"training document number {i}", file="t") for i in range(20)]
    ids = {f"held{i}" for i in range(len(TEXTS))}
    ingest_records(workspace, "field", held + rest, files=[], heldout_ids=ids, tokenizer=tiny_tokenizer)
    made = Corpus.open(workspace, "field")
    assert [document.text for document in made.documents("heldout")] == TEXTS
    return made


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path) -> PeftModel:
    """The tiny model with an adapter that does something, and with dropout that measures must not see."""
    adapted = models.attach_adapter(
        models.load_base(tiny_model_folder, "cpu", "fp32"), AdapterConfig(rank=4, dropout=0.5), seed=0
    )
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    return adapted


def pieces(corpus: Corpus, tokenizer: TextTokenizer, limit: int = 10_000, row_tokens: int = 128) -> Sample:
    indices = list(range(len(corpus.documents("heldout"))))
    return sample(corpus, indices, "heldout", tokenizer, mixture(row_tokens), limit)


def nats(model: torch.nn.Module, tokenizer: TextTokenizer, text: str) -> float:
    """Of all but the first token of the text alone."""
    ids = torch.from_numpy(tokenizer.encode([text])[0]).long()
    with torch.no_grad():
        logits: Tensor = model(ids[None]).logits[0, :-1]
    return -logits.log_softmax(-1).gather(1, ids[1:, None]).sum().item()


@pytest.fixture(scope="module")
def exact(tiny_model_folder: Path) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float64)
    return model.eval()


def test_bits_of_each_document_are_those_of_the_document_alone(
    corpus: Corpus, tiny_tokenizer: TextTokenizer, model: PeftModel, exact: torch.nn.Module
) -> None:
    """Three documents share rows here; alone, in float64 and through transformers' own logits the bits are the same."""
    held = pieces(corpus, tiny_tokenizer, row_tokens=256)
    assert len(held.rows) == 2 and held.documents == [document.id for document in corpus.documents("heldout")]
    with model.disable_adapter():
        found = bits_by_piece(model, models.output_head(model.get_base_model()), held)
    for text, bits in zip(TEXTS, found.tolist(), strict=True):
        assert bits == pytest.approx(nats(exact, tiny_tokenizer, text) / math.log(2), rel=1e-5)


def test_bits_per_byte_is_all_bits_over_all_bytes(
    corpus: Corpus, tiny_tokenizer: TextTokenizer, model: PeftModel, exact: torch.nn.Module
) -> None:
    held = pieces(corpus, tiny_tokenizer, row_tokens=256)
    with model.disable_adapter():
        found = bits_per_byte(model, models.output_head(model.get_base_model()), held)
    bits = sum(nats(exact, tiny_tokenizer, text) for text in TEXTS) / math.log(2)
    # every text begins with a letter of one byte, which nothing predicts
    assert found == pytest.approx(bits / sum(len(text.encode()) - 1 for text in TEXTS), rel=1e-5)
    assert found > 4, "a random model is far from knowing any byte"


def test_predicted_bytes_by_hand(corpus: Corpus, tiny_tokenizer: TextTokenizer) -> None:
    # 40 ASCII letters; then 41 characters of which ö and two ß have two bytes, € three and 😀 four; 240; 40
    assert [len(text) for text in TEXTS] == [40, 41, 240, 40]
    assert pieces(corpus, tiny_tokenizer, row_tokens=256).piece_bytes == [39, 41 + 3 + 2 + 3 - 1, 239, 39]


def test_a_long_document_loses_the_first_byte_of_every_piece(corpus: Corpus, tiny_tokenizer: TextTokenizer) -> None:
    held = sample(corpus, [2], "heldout", tiny_tokenizer, mixture(100), 10_000)
    assert held.piece_bytes == [99, 99, 39]
    assert held.documents == [corpus.documents("heldout")[2].id] * 3


def test_a_character_on_the_edge_counts_with_the_piece_of_its_first_byte(
    workspace: Workspace, tiny_tokenizer: TextTokenizer
) -> None:
    """Byte 16 of the text is the second half of the é, so it starts a row of 16 and is predicted by nothing."""
    records = [Record(kind="documents", text="a" * 15 + "é" + "b" * 9 + str(i) * 6, file="t") for i in range(9)]
    ingest_records(workspace, "field", records, files=[], tokenizer=tiny_tokenizer)
    held = sample(Corpus.open(workspace, "field"), [0], "train", tiny_tokenizer, mixture(16), 10_000)
    assert held.tokens == 15 + 2 + 9 + 6
    assert held.piece_bytes == [14 + 2, 9 + 6]


@pytest.fixture
def opening_tokenizer(tiny_tokenizer_folder: Path, tmp_path: Path) -> TextTokenizer:
    """Its BOS is its end token, as in some families, so that the tiny model knows it."""
    return with_template(tiny_tokenizer_folder, tmp_path / "bos", "<eos> $A", bos="<eos>")


def test_with_a_bos_every_byte_is_predicted(
    corpus: Corpus, opening_tokenizer: TextTokenizer, model: PeftModel, exact: torch.nn.Module
) -> None:
    """Of the long document 60 letters are left for a second row of 256, because no row may hold more."""
    held = pieces(corpus, opening_tokenizer, row_tokens=181)
    assert held.piece_bytes == [40, 41 + 3 + 2 + 3, 180, 60, 40]
    assert held.tokens == sum(held.piece_bytes) + 5
    with model.disable_adapter():
        found = bits_by_piece(model, models.output_head(model.get_base_model()), held)
    assert opening_tokenizer.bos_id is not None
    for text, bits in zip([TEXTS[0], TEXTS[1], TEXTS[2][:180]], found.tolist(), strict=False):
        ids = torch.tensor([[opening_tokenizer.bos_id, *opening_tokenizer.encode([text])[0].tolist()]])
        with torch.no_grad():
            log_p = exact(ids).logits[0, :-1].log_softmax(-1)
        wanted = -log_p.gather(1, ids[0, 1:, None]).sum().item() / math.log(2)
        assert bits == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("limit", "bytes_of_pieces"), [(41, [40]), (42, [40]), (43, [40, 1]), (2, [1]), (1, [])])
def test_the_limit_counts_the_bos(
    corpus: Corpus, opening_tokenizer: TextTokenizer, limit: int, bytes_of_pieces: list[int]
) -> None:
    held = pieces(corpus, opening_tokenizer, limit=limit)
    assert held.tokens <= limit
    assert held.piece_bytes == bytes_of_pieces


def test_a_character_on_the_edge_counts_once_with_a_bos(workspace: Workspace, opening_tokenizer: TextTokenizer) -> None:
    records = [Record(kind="documents", text="a" * 14 + "é" + "b" * 9 + str(i) * 6, file="t") for i in range(9)]
    ingest_records(workspace, "field", records, files=[], tokenizer=opening_tokenizer)
    held = sample(Corpus.open(workspace, "field"), [0], "train", opening_tokenizer, mixture(16), 10_000)
    assert held.piece_bytes == [14 + 2, 14, 1], "pieces of 15 bytes; the é begins in the first"


def test_nothing_is_read_beyond_the_limit(
    corpus: Corpus, tiny_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    encode = TextTokenizer.encode_with_offsets

    def noted(self: TextTokenizer, text: str) -> object:
        read.append(text)
        return encode(self, text)

    monkeypatch.setattr(TextTokenizer, "encode_with_offsets", noted)
    pieces(corpus, tiny_tokenizer, limit=60)
    assert read == TEXTS[:2]


@pytest.mark.parametrize(
    ("limit", "bytes_of_pieces"), [(60, [39, 19]), (41, [39]), (40, [39]), (2, [1]), (1, []), (0, [])]
)
def test_the_limit_is_honoured_and_shortens_the_last_piece(
    corpus: Corpus, tiny_tokenizer: TextTokenizer, limit: int, bytes_of_pieces: list[int]
) -> None:
    """Of 60 tokens, 20 are left for the second document: "Größe: 5 €, ein " has 16 characters and 20 bytes."""
    held = pieces(corpus, tiny_tokenizer, limit=limit)
    assert held.tokens <= limit
    assert held.piece_bytes == bytes_of_pieces


def test_the_distance_is_kl_of_base_and_model_per_predicted_token(
    small_corpora: Workspace, tiny_tokenizer: TextTokenizer, model: PeftModel, exact: torch.nn.Module
) -> None:
    config = MeasureConfig(domain_tokens=0, general_tokens=0, prompt_tokens=120)
    measures = Measures(small_corpora, tiny_tokenizer, config, mixture())
    figures = measures.take(model)
    assert figures.keys() == {"prompt_kl"}, "a sample without text leaves its figure out"
    total, count = 0.0, 0
    for row in measures.prompts.rows:
        for number in set(row.segment.tolist()):
            ids = torch.from_numpy(row.ids[row.segment == number]).long()[None]
            with torch.no_grad(), evaluating(model):
                q = exact(ids).logits[0, :-1].log_softmax(-1)
                p = model(ids).logits[0, :-1].double().log_softmax(-1)
            total += (q.exp() * (q - p)).sum().item()
            count += len(q)
    assert total / count > 0.01
    assert figures["prompt_kl"] == pytest.approx(total / count, rel=1e-4)
    with model.disable_adapter():
        assert measures.take(model)["prompt_kl"] == pytest.approx(0, abs=1e-7)


def test_measures_are_taken_without_dropout_and_leave_the_model_training(
    small_corpora: Workspace, tiny_tokenizer: TextTokenizer, model: PeftModel
) -> None:
    config = MeasureConfig(domain_tokens=100, general_tokens=100, prompt_tokens=50, general="world")
    measures = Measures(small_corpora, tiny_tokenizer, config, mixture())
    model.train()
    first = measures.take(model)
    assert first.keys() == {"domain_bits_per_byte", "general_bits_per_byte", "prompt_kl"}
    assert model.training and all(module.training for module in model.modules())
    assert measures.take(model) == first
    model.eval()
    assert measures.take(model) == first
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_restores_the_mode_even_after_an_error(training: bool) -> None:
    layer = torch.nn.Sequential(torch.nn.Dropout(0.5)).train(training)
    with pytest.raises(RuntimeError), evaluating(layer):
        assert not layer.training and not layer[0].training
        raise RuntimeError
    assert layer.training is training and layer[0].training is training


def test_every_domain_source_gets_an_equal_part(
    small_corpora: Workspace, tiny_tokenizer: TextTokenizer, model: PeftModel
) -> None:
    sources = [SourceShare(source=name, share=1, domain=True) for name in ("field", "world")]
    config = MeasureConfig(domain_tokens=120, general_tokens=0, prompt_tokens=0)
    both = Measures(small_corpora, tiny_tokenizer, config, MixtureConfig(sources=sources, row_tokens=128)).domain
    alone = [
        Measures(
            small_corpora,
            tiny_tokenizer,
            MeasureConfig(domain_tokens=60, general_tokens=0, prompt_tokens=0),
            MixtureConfig(sources=[source], row_tokens=128),
        ).domain
        for source in sources
    ]
    assert both.tokens == 120 and both.piece_bytes == [59, 59]
    head = models.output_head(model.get_base_model())
    assert bits_by_piece(model, head, both).tolist() == [bits_by_piece(model, head, one)[0] for one in alone]


def test_validation_reads_training_documents_and_no_held_out_one(
    small_corpora: Workspace, tiny_tokenizer: TextTokenizer
) -> None:
    config = MeasureConfig(on="validation", domain_tokens=10_000, general_tokens=0, prompt_tokens=0)
    read = Measures(small_corpora, tiny_tokenizer, config, mixture(512)).domain.documents
    field = Corpus.open(small_corpora, "field")
    train = field.documents("train")
    assert set(read) == {train[index].id for index in validation_documents(field, 0)}
    assert not set(read) & {document.id for document in field.documents("heldout")}
