"""What a run really read, and the scores without the questions that stand in it: worked out by hand."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mixcpt import answers, contamination
from mixcpt.answers import Answered
from mixcpt.contamination import again, item_text, look, read_by
from mixcpt.corpus import Corpus
from mixcpt.errors import BadInput, Unavailable
from mixcpt.mixture import realise
from mixcpt.runs import Run, Runs
from mixcpt.scores import ScoredSample, write_samples
from mixcpt.settings import validate
from mixcpt.stages import Dpo, Sft, Stage
from mixcpt.statistics import paired_interval, share_interval
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, write_json


def new_run(home: Workspace, folder: Path, budget: int = 100_000, **more: Any) -> Run:
    sources = [{"source": "field", "share": 1, "domain": True}, {"source": "world", "share": 1}]
    mixture = {"sources": sources, "budget_tokens": budget, "row_tokens": 64}
    stage = {"model": {"name": str(folder)}, "mixture": mixture, **more}
    return Runs(home).create(validate(Stage, stage, "the test"), experiment="test")


def texts(home: Workspace, run: Run) -> list[tuple[str, str]]:
    return [(source, text) for _, source, text in read_by(home, run)]


def test_a_run_that_read_all_read_every_document_once(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    found = texts(small_corpora, new_run(small_corpora, tiny_model_folder))
    for name in ("field", "world"):
        wanted = [document.text for document in Corpus.open(small_corpora, name).documents()]
        assert sorted(text for source, text in found if source == name) == sorted(wanted)


def test_a_run_that_read_little_read_only_its_rows(
    small_corpora: Workspace, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer
) -> None:
    run = new_run(small_corpora, tiny_model_folder, budget=700)
    mixture = realise(small_corpora, run.config.mixture, tiny_tokenizer)
    rows = "".join(tiny_tokenizer.decode(row.ids.tolist()) for row in mixture)
    found = texts(small_corpora, run)
    pieces = [text.replace("<eos>", "") for _, text in found]
    assert 0 < len(pieces) < 10 and sum(map(len, pieces)) <= len(rows)
    assert all(piece[:40] in rows for piece in pieces)


def sample(number: int, kind: str) -> ScoredSample:
    record: dict[str, Any] = {"kind": kind, "messages": [{"role": "user", "content": f"Ask {number}?"}]}
    if kind == "preferences":
        record |= {"chosen": f"Good {number}.", "rejected": f"Bad {number}."}
    else:
        record["messages"].append({"role": "assistant", "content": f"Say {number}."})
    return ScoredSample(str(number), json.dumps(record), 1, 1, {})


def test_the_samples_of_every_run_of_a_chain_count(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    runs, first = Runs(small_corpora), new_run(small_corpora, tiny_model_folder)
    model = {"model": {"name": str(tiny_model_folder)}, "mixture": first.config.mixture.model_dump()}
    sft = runs.create(validate(Sft, {"stage": "sft", **model}, "t"), experiment="test", parent=first.id)
    dpo = runs.create(validate(Dpo, {"stage": "dpo", **model}, "t"), experiment="test", parent=sft.id)
    for run, kind in ((sft, "instructions"), (dpo, "preferences")):
        write_samples(run.folder / "samples.jsonl", [sample(1, kind), sample(2, kind)])
        write_json(run.folder / "samples.json", {"source": f"my-{kind}"})
    found = [(run, source, text) for run, source, text in read_by(small_corpora, dpo) if run != first.id]
    assert found == [
        (sft.id, "my-instructions", "Ask 1?\nSay 1.\n"), (sft.id, "my-instructions", "Ask 2?\nSay 2.\n"),
        (dpo.id, "my-preferences", "Ask 1?\nGood 1.\nBad 1."), (dpo.id, "my-preferences", "Ask 2?\nGood 2.\nBad 2."),
    ]  # fmt: skip
    assert {run for run, _, _ in read_by(small_corpora, dpo)} == {first.id, sft.id, dpo.id}


def test_text_that_is_no_longer_there_is_said_so(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    run = new_run(small_corpora, tiny_model_folder)
    run.write_results("training", {"mixture": {"fingerprint": "other"}})
    with pytest.raises(Unavailable, match=rf"a source of {run.id} was replaced since"):
        texts(small_corpora, run)
    run.write_results("training", {})
    shutil.rmtree(small_corpora.corpora / "world")
    answers.write(run, "t", [Answered("Who?", [], ["x"], "", "", 0, 0)])
    assert "There is no corpus 'world'" in look(small_corpora, run, ["t"])["t"]["unknown"]


def test_an_item_is_the_question_with_its_right_answer() -> None:
    row = Answered("Who?", ["me", "you"], ["you", "he"], "me", "you", 0, 1)
    assert item_text(row) == "Who? you"


def test_scores_without_and_on_what_was_found(
    small_corpora: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five questions: two stand in the text; base right 1, 0 | 1, 0, 0 and run right 1, 1 | 0, 0, 1."""
    run = new_run(small_corpora, tiny_model_folder)
    seen = ["The cat of the old miller sleeps on the", "A dog of the young smith runs along the"]
    unseen = [f"Nobody has ever written this sentence number {word} in the" for word in ("one", "two", "three")]
    right = zip([*seen, *unseen], (1, 0, 1, 0, 0), (1, 1, 0, 0, 1), strict=True)
    answers.write(run, "t", [Answered(text, [], ["wall"], "", "", base, final) for text, base, final in right])
    text = "So it is: the cat of the old miller sleeps on the wall. And a dog of the young smith runs along the wall!"
    monkeypatch.setattr(contamination, "read_by", lambda *_: iter([("r", "book", text)]))
    found = look(small_corpora, run, ["t", "none"])
    assert list(found) == ["t"], "a set whose answers were not kept cannot be looked for"
    one = found["t"]
    assert (one["items"], one["sources"], one["too_short"], one["by_construction"]) == ([0, 1], {"book": 2}, 0, False)
    assert one["without"]["items"] == 3 and one["only"]["items"] == 2
    assert one["without"]["base"] == {"accuracy": 1 / 3, "interval": share_interval(1, 3)}
    assert one["without"]["final"] == {"accuracy": 1 / 3, "interval": share_interval(1, 3)}
    assert one["without"]["gain"] == {"difference": 0, "interval": paired_interval([1, 0, 0], [0, 0, 1])}
    assert one["only"]["final"]["accuracy"] == 1 and one["only"]["gain"]["difference"] == 1 / 2
    kept = answers.read(run, "t")
    assert [row.found_in for row in kept] == ["book", "book", "", "", ""]
    assert kept[0].found == "the cat of the old miller sleeps on the wall"
    monkeypatch.setattr(contamination, "read_by", lambda *_: iter([("r", "book", "")]))
    assert look(small_corpora, run, ["t"], ["t"])["t"]["by_construction"]
    assert not any(row.found_in for row in answers.read(run, "t")), "old marks are taken away"


def test_a_run_that_keeps_no_answers_is_refused(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    run = new_run(small_corpora, tiny_model_folder)
    with pytest.raises(BadInput, match=f"keeps no answers to look for: ask it with `mixcpt evaluate {run.id}`"):
        again(small_corpora, run)
