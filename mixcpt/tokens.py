"""Text to token ids without torch: the tokenizer that lies in a model's folder.

Special tokens that stand *inside* a user's text are encoded as ordinary characters: a document that contains the
letters of an end-of-text mark must not end there. A tokenizer may want every text to begin with a token of its own
(BOS); callers put `opening` before whatever the model reads from its position 0 on.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mixcpt.errors import BadInput


class TextTokenizer:
    """A fast tokenizer with its end-of-sequence id, the id it begins texts with (None: it does not), a fingerprint of
    them, and the folder that it was read from."""

    def __init__(
        self, tokenizer: Tokenizer, eos_id: int, bos_id: int | None, fingerprint: str, folder: Path | None = None
    ):
        self.folder = folder
        self.eos_id = eos_id
        self.bos_id = bos_id
        self.fingerprint = fingerprint
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True

    @classmethod
    def from_folder(cls, folder: Path) -> "TextTokenizer":
        """Read `tokenizer.json` and the end token's name from a model folder.

        Raises:
            BadInput: the folder holds no fast tokenizer or names no end-of-sequence token.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise BadInput(f"{folder} holds no tokenizer.json: save the model with a fast tokenizer.")
        tokenizer = Tokenizer.from_file(str(path))
        settings = folder / "tokenizer_config.json"
        eos = json.loads(settings.read_text(encoding="utf-8")).get("eos_token") if settings.is_file() else None
        eos = eos["content"] if isinstance(eos, dict) else eos
        eos_id = tokenizer.token_to_id(eos) if eos else None
        if eos_id is None:
            raise BadInput(f"The tokenizer in {folder} names no end-of-sequence token: set eos_token in it.")
        # What the tokenizer itself puts first is no part of the text.
        probe = tokenizer.encode("a", add_special_tokens=True)
        bos_id = probe.ids[0] if probe.special_tokens_mask[0] else None
        # A base and its chat version often share the file and differ in the end token only.
        identity = path.read_bytes() + str(eos_id).encode() + (b"" if bos_id is None else f"|{bos_id}".encode())
        return cls(tokenizer, eos_id, bos_id, hashlib.sha256(identity).hexdigest()[:16], folder)

    @property
    def opening(self) -> np.ndarray:
        """What every segment begins with (int32): the BOS, or nothing."""
        return np.array([] if self.bos_id is None else [self.bos_id], dtype=np.int32)

    @property
    def vocabulary(self) -> int:
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids (int32) of each text, no special tokens added."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def encode_with_offsets(self, text: str) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Token ids (int32) and each token's [start, end) in characters of `text`."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return np.array(encoding.ids, dtype=np.int32), list(encoding.offsets)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Each token as text of its own, for showing tokens one by one."""
        return [self.decode([i]) for i in ids]
