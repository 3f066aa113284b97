"""A copy of a corpus in which a share of the training documents is spoiled: for asking what noise costs.

Spoiled means that the words of a document stand in a random order, so its vocabulary stays and its sense goes. What is
held out is left as it was, so that all copies are measured on the same clean text. It gives up other kinds of noise,
such as wrong letters or foreign pages.
"""

import random
from collections.abc import Iterator

from mixcpt.builtin import open_source
from mixcpt.corpus import Corpus, corpus_names, ingest_records
from mixcpt.errors import BadInput
from mixcpt.manifest import Manifest, Spec
from mixcpt.records import Record
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

SEED = 0


def noisy_copy(workspace: Workspace, source: str, name: str, share: float, tokenizer: TextTokenizer) -> Manifest:
    """The corpus `name`: the documents of `source`, a `share` (0 to 1) of those for training spoiled; the one that is
    there when it was made of the same.

    Raises:
        BadInput: there is a corpus of that name which was made of something else, or the source holds no documents.
    """
    corpus = open_source(workspace, source, tokenizer)
    if corpus.manifest.kind != "documents":
        raise BadInput(
            f"The source {source!r} holds {corpus.manifest.kind}, but noise is put into documents: take another."
        )
    spec = Spec(files=[f"{share:g} of {corpus.manifest.fingerprint}, words shuffled"])
    if name in corpus_names(workspace):
        there = Corpus.open(workspace, name).manifest
        if there.spec == spec:
            return there
        raise BadInput(f"There is a corpus {name!r} already, made of something else: `mixcpt corpus remove {name}`.")
    heldout = [f"heldout {number}" for number in range(len(corpus.documents("heldout")))]
    return ingest_records(
        workspace, name, _records(corpus, share), files=[], spec=spec, heldout_ids=heldout, tokenizer=tokenizer
    )


def _records(corpus: Corpus, share: float) -> Iterator[Record]:
    train = corpus.documents("train")
    spoiled = set(random.Random(SEED).sample(range(len(train)), round(share * len(train))))
    for number in range(len(train)):
        text = train[number].text
        yield _record(shuffled(text, number) if number in spoiled else text, f"train {number}")
    held = corpus.documents("heldout")
    for number in range(len(held)):
        yield _record(held[number].text, f"heldout {number}")


def _record(text: str, id: str) -> Record:
    return Record(kind="documents", text=text, meta={"id": id}, file="noise")


def shuffled(text: str, seed: int) -> str:
    """The words of a text in a random order, a space between each."""
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)
