import hashlib
import io
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixcpt import uploads
from mixcpt.cleaning import fingerprint
from mixcpt.corpus import Corpus, FileInfo, Manifest, corpus_names, ingest, ingest_records, list_corpora, remove
from mixcpt.errors import BadConfig, BadCorpus, BadFile, BadInput, Interrupted, NotFound, TooLittle
from mixcpt.manifest import Spec
from mixcpt.records import Message, Record
from mixcpt.split import choose, cut, cut_and_choose
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, read_json, write_json


def write(path: Path, texts: Iterable[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def hundred(path: Path) -> Path:
    """A hundred documents of 20 bytes each, so 20 tokens each and 2,000 together."""
    return write(path, [f"document number {number:04}" for number in range(100)])


def prose(words: int, seed: int = 0) -> str:
    """Paragraphs of sentences, no two alike."""
    rng = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    text = ""
    for number in range(words):
        text += "".join(rng.choices(letters, k=rng.randint(2, 9)))
        text += "\n\n" if number % 60 == 59 else ". " if number % 12 == 11 else " "
    return text.strip()


def texts(workspace: Workspace, name: str) -> tuple[list[str], list[str]]:
    corpus = Corpus.open(workspace, name)
    return [d.text for d in corpus.documents("train")], [d.text for d in corpus.documents("heldout")]


def leftovers(workspace: Workspace) -> list[str]:
    return [path.name for path in workspace.corpora.iterdir()]


# ---- ingest


def test_the_report_counts_what_was_read(workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer) -> None:
    path = hundred(tmp_path / "a.jsonl")
    with open(path, "a") as file:
        file.write('{"text": "document number  0007"}\n{"text": "broken\n{"text": ""}\n')  # lines 101, 102, 103
    (tmp_path / "b.txt").write_text("Grüße\r\n")  # 5 characters, 7 bytes once it is clean
    manifest = ingest(workspace, "mine", [tmp_path / "b.txt", path], tokenizer=tiny_tokenizer)

    assert (manifest.kind, manifest.documents, manifest.exact_duplicates) == ("documents", 101, 1)
    assert (manifest.characters, manifest.bytes, manifest.tokens) == (2005, 2007, 2007)
    assert [(item.file, item.line) for item in manifest.refused] == [("a.jsonl", 102), ("a.jsonl", 103)]
    assert manifest.refused_total == 2
    assert [(info.name, info.documents) for info in manifest.files] == [("a.jsonl", 100), ("b.txt", 1)]
    assert manifest.files[1].bytes == 9
    assert manifest.files[1].sha256 == hashlib.sha256("Grüße\r\n".encode()).hexdigest()
    assert (manifest.lengths.edges, manifest.lengths.counts) == ([0, 16, 32], [1, 100])
    assert (manifest.tokenizer.vocabulary, manifest.tokenizer.fingerprint) == (257, tiny_tokenizer.fingerprint)

    train, heldout = manifest.split.train, manifest.split.heldout
    assert manifest.split.method == "documents"
    assert (train.documents + heldout.documents, train.tokens + heldout.tokens) == (101, 2007)
    assert heldout.tokens in (107, 120)  # 5 % of 2,007 is 100.35: five of 20 do not reach it, one more of 7 or 20 does
    corpus = Corpus.open(workspace, "mine")
    assert corpus.manifest == manifest
    assert len(corpus.documents("train")) == train.documents
    assert sum(document.tokens for document in corpus.documents("heldout")) == heldout.tokens


def test_documents_are_read_by_index_slice_and_iteration(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer
) -> None:
    ingest(workspace, "mine", [hundred(tmp_path / "a.jsonl")], tokenizer=tiny_tokenizer)
    documents = Corpus.open(workspace, "mine").documents("train")
    everything = list(documents)
    assert len(documents) == len(everything) == 95
    assert [documents[0], documents[94], documents[-1]] == [everything[0], everything[94], everything[94]]
    assert documents[10:13] == everything[10:13]
    assert [document.line for document in everything] == sorted(document.line for document in everything)
    first = everything[0]
    assert (first.kind, first.record, first.file, first.bytes, first.tokens) == ("documents", "", "a.jsonl", 20, 20)
    assert len({document.id for document in everything}) == 95
    for outside in (95, -96):
        with pytest.raises(IndexError):
            documents[outside]


def test_same_inputs_and_seed_give_the_same_corpus_in_any_order(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer
) -> None:
    paths = []
    for folder in ("copy-0", "copy-1"):
        (tmp_path / folder).mkdir()
    for name in ("b", "a"):
        texts_of = [f"text {number} of file {name}" for number in range(60)]
        paths.append(write(tmp_path / "copy-0" / f"{name}.jsonl", texts_of))
        write(tmp_path / "copy-1" / f"{name}.jsonl", texts_of)
    made = [
        ingest(workspace, "one", paths, tokenizer=tiny_tokenizer),
        ingest(workspace, "two", paths[::-1], tokenizer=tiny_tokenizer),
        ingest(workspace, "three", [tmp_path / "copy-1"], tokenizer=tiny_tokenizer),
    ]
    assert len({manifest.fingerprint for manifest in made}) == 1
    other = ingest(workspace, "four", paths, seed=1, tokenizer=tiny_tokenizer)
    assert other.fingerprint != made[0].fingerprint
    assert texts(workspace, "four")[1] != texts(workspace, "one")[1]


def test_a_bad_file_among_several_is_refused_but_alone_it_is_an_error(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer
) -> None:
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(BadFile, match=r"table\.csv has no text column"):
        ingest(workspace, "mine", [tmp_path / "table.csv"], tokenizer=tiny_tokenizer)
    assert leftovers(workspace) == []
    hundred(tmp_path / "good.jsonl")
    manifest = ingest(workspace, "mine", [tmp_path / f for f in ("table.csv", "scan.pdf", "good.jsonl")],
                      tokenizer=tiny_tokenizer)  # fmt: skip
    assert [(item.file, item.line) for item in manifest.refused] == [("scan.pdf", 0), ("table.csv", 0)]
    assert manifest.documents == 100


def test_a_second_kind_is_refused(workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer) -> None:
    hundred(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text('{"prompt": "Q", "chosen": "A", "rejected": "B"}\n')
    manifest = ingest(workspace, "mine", [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tokenizer=tiny_tokenizer)
    assert [item.reason for item in manifest.refused] == [
        "it holds preferences, but this corpus holds documents: make another corpus of it"
    ]


def test_refusals_are_counted_beyond_those_listed(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer
) -> None:
    path = hundred(tmp_path / "a.jsonl")
    with open(path, "a") as file:
        file.write("broken\n" * 1200)
    manifest = ingest(workspace, "mine", [path], tokenizer=tiny_tokenizer)
    assert (len(manifest.refused), manifest.refused_total) == (1000, 1200)


# ---- what cannot become a corpus


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"text": ""}', "nonsense"], r"Nothing is left .* line 1: 'text' is empty; x\.jsonl, line 2: not JSON"),
        (['{"text": "\\u0007"}'], "Nothing is left .* line 1: nothing is left after cleaning"),
        (['{"text": "too short"}'] * 3, r"only 9 of the 200 tokens .* exact duplicates left out: 2, .*: add more text"),
        ([json.dumps({"text": "word " * 9999})], "too uniform"),
        ([json.dumps({"prompt": "Q" * 300, "chosen": "A", "rejected": "B"})], "too few documents"),
    ],
)  # fmt: skip
def test_what_cannot_become_a_corpus_leaves_nothing_behind(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer, lines: list[str], message: str
) -> None:
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    with pytest.raises(BadCorpus, match=message):
        ingest(workspace, "mine", [tmp_path / "x.jsonl"], tokenizer=tiny_tokenizer)
    assert leftovers(workspace) == []


def test_a_name_is_taken_once_unless_replaced(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer
) -> None:
    path = hundred(tmp_path / "a.jsonl")
    ingest(workspace, "mine", [path], tokenizer=tiny_tokenizer)
    with pytest.raises(BadCorpus, match="There is a corpus 'mine' already: choose another name"):
        ingest(workspace, "mine", [path], tokenizer=tiny_tokenizer)
    write(path, [f"something else {number:05}" for number in range(80)])
    assert ingest(workspace, "mine", [path], tokenizer=tiny_tokenizer, replace=True).documents == 80
    assert leftovers(workspace) == ["mine"]


def test_settings_that_cannot_be(workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer) -> None:
    path = hundred(tmp_path / "a.jsonl")
    with pytest.raises(BadInput, match=r"The corpus name '\.\./up' cannot be used"):
        ingest(workspace, "../up", [path], tokenizer=tiny_tokenizer)
    for fraction in (0, 0.21, float("nan")):
        with pytest.raises(BadConfig, match="heldout_fraction"):
            ingest(workspace, "mine", [path], tokenizer=tiny_tokenizer, heldout_fraction=fraction)


def test_a_full_disk_is_told_before_anything_is_written(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(TooLittle, match=r"The corpus 'mine' needs .* GB of disk"):
        ingest(workspace, "mine", [hundred(tmp_path / "a.jsonl")], tokenizer=tiny_tokenizer)
    assert leftovers(workspace) == []


@pytest.mark.parametrize("after", [0, 1, 50, 103])
def test_a_cancelled_ingest_leaves_nothing_behind(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer, after: int
) -> None:
    calls = 0

    def should_stop() -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            raise Interrupted("cancelled")

    with pytest.raises(Interrupted):
        ingest(workspace, "mine", [hundred(tmp_path / "a.jsonl")], tokenizer=tiny_tokenizer, should_stop=should_stop)
    assert leftovers(workspace) == []


def test_progress_goes_up_to_one(workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer) -> None:
    told: list[float | None] = []
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", [f"{name} {number:06}" for number in range(600)])
    ingest(workspace, "mine", [tmp_path], tokenizer=tiny_tokenizer,
           progress=lambda message, fraction: told.append(fraction))  # fmt: skip
    known = [fraction for fraction in told if fraction is not None]
    assert known == sorted(known) and known[0] == 0 and known[-1] == 1
    assert any(0.4 < fraction < 0.5 for fraction in known)  # after the first of two equal files


# ---- the held-out side


def test_few_documents_are_cut_into_sections(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer
) -> None:
    books = [prose(2000, seed) for seed in range(3)]
    for number, book in enumerate(books):
        (tmp_path / f"book{number}.txt").write_text(book)
    manifest = ingest(workspace, "mine", sorted(tmp_path.glob("*.txt")), tokenizer=tiny_tokenizer)
    assert (manifest.documents, manifest.split.method) == (3, "sections")
    assert 0.02 <= manifest.split.fraction <= 0.08
    train, heldout = texts(workspace, "mine")
    assert (manifest.split.train.documents, manifest.split.heldout.documents) == (len(train), len(heldout))
    for piece in train + heldout:
        assert sum(piece in book for book in books) == 1  # contiguous, and whole at both ends:
        assert piece[-1] == "." or any(book.endswith(piece) or piece + "\n\n" in book for book in books)
    assert sorted(" ".join(train + heldout).split()) == sorted(" ".join(books).split())  # no word lost, none twice
    ids = [document.id for side in ("train", "heldout") for document in Corpus.open(workspace, "mine").documents(side)]
    assert len(set(ids)) == len(train) + len(heldout)


def test_a_huge_document_among_small_ones_is_cut(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer
) -> None:
    write(tmp_path / "x.jsonl", [prose(5000), *(f"small {number}" for number in range(40))])
    manifest = ingest(workspace, "mine", [tmp_path / "x.jsonl"], tokenizer=tiny_tokenizer)
    assert manifest.split.method == "sections"
    assert 0.02 <= manifest.split.fraction <= 0.08


def test_the_same_text_never_stands_on_both_sides(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer
) -> None:
    rows = [{"prompt": f"Q{number}", "chosen": "A" * 20, "rejected": other} for number in range(50) for other in "BCD"]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in range(5):
        manifest = ingest(workspace, f"s{seed}", [tmp_path / "x.jsonl"], seed=seed, tokenizer=tiny_tokenizer)
        assert manifest.documents == 150  # other rejected answers make other preferences …
        train, heldout = texts(workspace, f"s{seed}")
        assert heldout and not set(train) & set(heldout)  # … of the same text


def test_given_ids_are_held_out_with_their_duplicates(workspace: Workspace, tiny_tokenizer: TextTokenizer) -> None:
    def conversation(name: str, answer: str) -> Record:
        messages = (Message("user", "Question?"), Message("assistant", answer))
        return Record("instructions", messages=messages, meta={"id": name}, file="built-in", line=1)

    given = [conversation(f"i{number}", f"Answer {number}.") for number in range(30)]
    twin = conversation("i30", "Answer 4.")
    settings: dict[str, Any] = {"files": [FileInfo(name="built-in")], "tokenizer": tiny_tokenizer}
    manifest = ingest_records(workspace, "mine", [*given, twin], heldout_ids={"i2", "i30"}, **settings)
    assert (manifest.split.method, manifest.exact_duplicates, manifest.files[0].documents) == ("given", 1, 30)
    assert texts(workspace, "mine")[1] == ["Question?\n\nAnswer 2.", "Question?\n\nAnswer 4."]
    held = Corpus.open(workspace, "mine").documents("heldout")[0]
    assert Record.from_json(held.record, held.file, held.line) == given[2]
    with pytest.raises(BadCorpus, match="None of the ids to hold out"):
        ingest_records(workspace, "other", given, heldout_ids={"nobody"}, **settings)


@given(st.lists(st.integers(1, 1000), max_size=60), st.integers(0, 5))
def test_choose_keeps_its_bounds(weights: list[int], seed: int) -> None:
    chosen = choose(weights, 0.05, seed)
    assert chosen == choose(weights, 0.05, seed)
    if chosen:
        assert 0.02 * sum(weights) <= sum(weights[index] for index in chosen) <= 0.2 * sum(weights)
        assert len(chosen) <= len(weights) / 4


def test_choose_by_hand() -> None:
    assert len(choose([1] * 100, 0.05, 0)) == 5
    assert choose([10] * 5, 0.05, 0) in [{0}, {1}, {2}, {3}, {4}]  # 20 % is the least there is, and allowed
    assert choose([10] * 4, 0.05, 0) == set()  # 25 % is not
    assert choose([], 0.05, 0) == set()
    for seed in range(200):  # a document of 15 % would be allowed, but the small ones come nearer to 5 %
        assert 0 not in choose([15, *[1] * 85], 0.05, seed)


@given(st.text("ab. \n", max_size=400), st.integers(1, 50))
def test_cut_covers_the_text(text: str, size: int) -> None:
    spans = cut(text, size)
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(0 < end - start <= 1.5 * size + 1 for start, end in spans if text)


def test_cut_prefers_paragraphs_to_sentences_to_blanks() -> None:
    def parts(text: str) -> list[str]:
        return [text[start:end] for start, end in cut(text, 10)]

    assert parts("aaaaa. aa\n\nbbb bbbbb.") == ["aaaaa. aa\n\n", "bbb bbbbb."]
    assert parts("aa aa aa. bb bb bb bb.") == ["aa aa aa. ", "bb bb bb bb."]
    assert parts("aaaaaa aaaa bbbbbbbbb") == ["aaaaaa aaaa ", "bbbbbbbbb"]
    assert parts("a" * 21) == ["a" * 10, "a" * 11]
    assert parts("short") == ["short"]


def test_sections_that_repeat_must_not_leave_more_held_out_than_trained_on(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer
) -> None:
    same = "Exactly the same words in each of these paragraphs, again and again and again.\n\n"
    (tmp_path / "x.txt").write_text(same * 200 + "One that differs.")
    with pytest.raises(BadCorpus, match="too uniform"):
        ingest(workspace, "mine", [tmp_path / "x.txt"], tokenizer=tiny_tokenizer)


def test_a_section_that_repeats_leaves_training() -> None:
    repeated = "The same words again and again here.\n\n"  # 38 characters
    text = prose(700, 1) + "\n\n" + repeated * 40 + prose(700, 2)
    for seed in range(8):
        pieces = cut_and_choose([text], len(text), 0.05, seed)
        held = {fingerprint(piece.text) for piece in pieces if piece.held}
        assert held
        assert not held & {fingerprint(piece.text) for piece in pieces if not piece.held}


# ---- names


def test_corpora_are_listed_opened_and_removed(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer
) -> None:
    with pytest.raises(NotFound, match="There is no corpus 'mine': add one with"):
        Corpus.open(workspace, "mine")
    (workspace.corpora / ".building-x").mkdir()
    made = [ingest(workspace, name, [hundred(tmp_path / "a.jsonl")], tokenizer=tiny_tokenizer) for name in ("b", "a")]
    assert corpus_names(workspace) == ["a", "b"]
    assert list_corpora(workspace) == made[::-1]
    with pytest.raises(NotFound, match="choose from a, b"):
        Corpus.open(workspace, "../b")
    remove(workspace, "a")
    assert corpus_names(workspace) == ["b"]
    with pytest.raises(NotFound):
        remove(workspace, "a")


def test_the_manifest_is_strict(workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer) -> None:
    manifest = ingest(workspace, "mine", [hundred(tmp_path / "a.jsonl")], tokenizer=tiny_tokenizer)
    with pytest.raises(ValueError, match="extra"):
        Manifest.model_validate({**manifest.model_dump(), "extra": 1})


def test_the_manifest_keeps_what_was_asked_for_and_older_ones_still_open(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hundred(tmp_path / "a.jsonl")
    ingest(workspace, "mine", ["a.jsonl"], kind="documents", limit=90, tokenizer=tiny_tokenizer)
    spec = Corpus.open(workspace, "mine").manifest.spec
    assert spec == Spec(files=[str(tmp_path / "a.jsonl")], kind="documents", limit=90)
    path = workspace.corpora / "mine" / "manifest.json"
    older = read_json(path)
    del older["spec"]
    write_json(path, older)
    assert Corpus.open(workspace, "mine").manifest.spec is None


# ---- real data


@pytest.mark.parametrize(
    ("file", "kind", "documents"),
    [
        ("tatqa/documents.jsonl.gz", "documents", 555),
        ("pubmedqa/documents.jsonl.gz", "documents", 1000),
        ("instructions_general/dolly_small.jsonl.gz", "instructions", 999),
        ("preferences_general/llmbar_adversarial.jsonl.gz", "preferences", 319),
    ],
)
def test_real_sets(
    workspace: Workspace, shared_data: Path, tiny_tokenizer: TextTokenizer, file: str, kind: str, documents: int
) -> None:
    manifest = ingest(workspace, "real", [shared_data / file], tokenizer=tiny_tokenizer)
    assert (manifest.kind, manifest.documents, manifest.refused_total) == (kind, documents, 0)
    assert 0.05 <= manifest.split.fraction <= 0.0625


def test_removing_a_corpus_removes_what_was_uploaded_for_it(
    workspace: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer
) -> None:
    mine, other = (
        uploads.keep(workspace, name, [("a.jsonl", io.BytesIO(hundred(tmp_path / "a.jsonl").read_bytes()))])
        for name in ("mine", "mine-2")
    )
    ingest(workspace, "mine", [mine], tokenizer=tiny_tokenizer)
    remove(workspace, "mine")
    assert not mine.exists() and other.exists()
