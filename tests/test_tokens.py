"""Text to token ids: plain, exact, and no special token out of a user's text."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from mixcpt.errors import BadInput
from mixcpt.tokens import TextTokenizer


def variant(folder, target, **settings):
    """A copy of the tokenizer folder with its settings replaced."""
    shutil.copytree(folder, target)
    (target / "tokenizer_config.json").write_text(json.dumps(settings))
    return target


def with_template(folder: Path, target: Path, template: str, bos: str = "<bos>") -> TextTokenizer:
    """The tokenizer of the folder with special tokens put around every text, as Gemma's and Llama's do."""
    shutil.copytree(folder, target)
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    tokenizer.add_special_tokens([bos])
    special = [(token, tokenizer.token_to_id(token)) for token in {bos, "<eos>"}]
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    tokenizer.save(str(target / "tokenizer.json"))
    return TextTokenizer.from_folder(target)


def test_a_byte_is_a_token_and_no_end_token_is_added(tiny_tokenizer):
    (ids,) = tiny_tokenizer.encode(["abca"])
    assert ids.dtype == np.int32
    assert len(ids) == 4 and ids[0] == ids[3] and len(set(ids.tolist())) == 3
    assert tiny_tokenizer.eos_id not in ids


def test_encoding_and_decoding_give_the_text_back(tiny_tokenizer):
    texts = ["", "plain", " leading and trailing ", "two\n\nlines\t", "Grüße, 世界 🚲", "\u0000\u200b"]
    encoded = tiny_tokenizer.encode(texts)
    assert [tiny_tokenizer.decode(ids) for ids in encoded] == texts
    assert [len(ids) for ids in encoded] == [len(text.encode()) for text in texts]


def test_the_letters_of_the_end_token_in_a_text_are_ordinary_letters(tiny_tokenizer):
    (ids,) = tiny_tokenizer.encode(["a<eos>b"])
    assert len(ids) == 7
    assert tiny_tokenizer.eos_id not in ids
    with_offsets, _ = tiny_tokenizer.encode_with_offsets("a<eos>b")
    assert with_offsets.tolist() == ids.tolist()


def test_the_end_token_is_shown_when_decoded(tiny_tokenizer):
    assert tiny_tokenizer.decode([tiny_tokenizer.eos_id]) == "<eos>"


def test_offsets_are_characters_not_bytes(tiny_tokenizer):
    """ "ü" is two bytes, hence two tokens over the same character; "b" follows at character 2."""
    _, offsets = tiny_tokenizer.encode_with_offsets("aüb")
    assert offsets == [(0, 1), (1, 2), (1, 2), (2, 3)]


def test_pieces_show_tokens_one_by_one(tiny_tokenizer):
    (ids,) = tiny_tokenizer.encode(["a b"])
    assert tiny_tokenizer.pieces(ids) == ["a", " ", "b"]


def test_vocabulary_counts_added_tokens(tiny_tokenizer):
    assert tiny_tokenizer.vocabulary == 257
    assert tiny_tokenizer.eos_id == 256


def test_truncation_and_padding_of_the_saved_tokenizer_are_off(tiny_tokenizer_folder, tmp_path):
    """A tokenizer saved with both would silently shorten documents."""
    folder = variant(tiny_tokenizer_folder, tmp_path / "t", eos_token="<eos>")
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    saved["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "x",
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    assert [len(ids) for ids in TextTokenizer.from_folder(folder).encode(["abcdef", "a"])] == [6, 1]


def test_the_end_token_may_be_written_as_an_object(tiny_tokenizer_folder, tmp_path):
    folder = variant(tiny_tokenizer_folder, tmp_path / "t", eos_token={"content": "<eos>", "lstrip": False})
    assert TextTokenizer.from_folder(folder).eos_id == 256


@pytest.mark.parametrize("settings", [{}, {"eos_token": None}, {"eos_token": "<unknown>"}])
def test_a_tokenizer_without_an_end_token_is_refused(tiny_tokenizer_folder, tmp_path, settings):
    folder = variant(tiny_tokenizer_folder, tmp_path / "t", **settings)
    with pytest.raises(BadInput, match="names no end-of-sequence token: set eos_token in it"):
        TextTokenizer.from_folder(folder)


def test_a_tokenizer_without_settings_is_refused_in_the_same_words(tiny_tokenizer_folder, tmp_path):
    folder = variant(tiny_tokenizer_folder, tmp_path / "t")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(BadInput, match="names no end-of-sequence token"):
        TextTokenizer.from_folder(folder)


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"holds no tokenizer\.json: save the model with a fast tokenizer"):
        TextTokenizer.from_folder(tmp_path)


def test_the_fingerprint_follows_the_files_not_the_folder(tiny_tokenizer_folder, tmp_path):
    one = TextTokenizer.from_folder(tiny_tokenizer_folder).fingerprint
    same = variant(tiny_tokenizer_folder, tmp_path / "t", eos_token="<eos>")
    assert TextTokenizer.from_folder(same).fingerprint == one
    changed = variant(tiny_tokenizer_folder, tmp_path / "u", eos_token="<eos>")
    text = (changed / "tokenizer.json").read_text()
    (changed / "tokenizer.json").write_text(text.replace('"version": "1.0"', '"version":  "1.0"'))
    assert (changed / "tokenizer.json").read_text() != text
    assert TextTokenizer.from_folder(changed).fingerprint != one


def test_another_end_token_is_another_fingerprint(tiny_tokenizer_folder, tmp_path):
    """A base and its chat version often share tokenizer.json; ids kept on disk for one must not serve the other."""
    other = variant(tiny_tokenizer_folder, tmp_path / "t", eos_token="a")
    assert TextTokenizer.from_folder(other).fingerprint != TextTokenizer.from_folder(tiny_tokenizer_folder).fingerprint


@pytest.mark.parametrize(
    ("template", "bos"), [("<bos> $A", 257), ("<bos> $A <eos>", 257), ("$A <eos>", None), ("$A", None)]
)
def test_the_bos_is_what_the_tokenizer_itself_puts_first(tiny_tokenizer_folder, tmp_path, template, bos):
    tokenizer = with_template(tiny_tokenizer_folder, tmp_path / "t", template)
    assert tokenizer.bos_id == bos
    assert tokenizer.opening.tolist() == ([] if bos is None else [bos]) and tokenizer.opening.dtype == np.int32
    assert len(tokenizer.encode(["abc"])[0]) == len(tokenizer.encode_with_offsets("abc")[0]) == 3


def test_only_a_bos_is_added_to_the_fingerprint(tiny_tokenizer_folder, tiny_tokenizer, tmp_path):
    """What was kept on disk for tokenizers without one stays good."""
    content = (tiny_tokenizer_folder / "tokenizer.json").read_bytes()
    assert tiny_tokenizer.bos_id is None
    assert tiny_tokenizer.fingerprint == hashlib.sha256(content + b"256").hexdigest()[:16]
    other = with_template(tiny_tokenizer_folder, tmp_path / "t", "<bos> $A")
    content = (tmp_path / "t" / "tokenizer.json").read_bytes()
    assert other.fingerprint == hashlib.sha256(content + b"256|257").hexdigest()[:16]
