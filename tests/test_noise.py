"""Noisy copies: so many training documents spoiled, and what is held out left as it was."""

import pytest

from mixcpt.corpus import Corpus
from mixcpt.errors import BadInput
from mixcpt.noise import noisy_copy, shuffled
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


def texts(workspace: Workspace, name: str, split: str) -> list[str]:
    documents = Corpus.open(workspace, name).documents("train" if split == "train" else "heldout")
    return [documents[number].text for number in range(len(documents))]


def test_a_share_of_the_training_documents_is_shuffled_and_nothing_else(
    small_corpora: Workspace, tiny_tokenizer: TextTokenizer
) -> None:
    noisy_copy(small_corpora, "field", "noisy", 0.5, tiny_tokenizer)
    before, after = texts(small_corpora, "field", "train"), texts(small_corpora, "noisy", "train")
    changed = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
    assert len(before) == 38 and len(changed) == 19
    assert all(sorted(one.split()) == sorted(other.split()) for one, other in changed)
    assert texts(small_corpora, "noisy", "heldout") == texts(small_corpora, "field", "heldout")


def test_it_is_made_once_and_another_of_its_name_is_not_overwritten(
    small_corpora: Workspace, tiny_tokenizer: TextTokenizer
) -> None:
    made = noisy_copy(small_corpora, "field", "noisy", 0.25, tiny_tokenizer)
    assert noisy_copy(small_corpora, "field", "noisy", 0.25, tiny_tokenizer) == made
    with pytest.raises(BadInput, match="a corpus 'noisy' already, made of something else"):
        noisy_copy(small_corpora, "field", "noisy", 0.5, tiny_tokenizer)
    with pytest.raises(BadInput, match="noise is put into documents"):
        noisy_copy(small_corpora, "builtin/instructions", "n", 0.5, tiny_tokenizer)


def test_shuffling_is_the_same_every_time() -> None:
    assert shuffled("one two three four five", 3) == shuffled("one  two three four\nfive", 3)
    assert sorted(shuffled("b a c", 0).split()) == ["a", "b", "c"]
