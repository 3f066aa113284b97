"""What the teacher cache holds for a stage: counted by hand, and against the rows that the stage really reads."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_training import stage

from mixcpt import coverage as module
from mixcpt import shards
from mixcpt.coverage import Coverage, SegmentKeys, cover, coverage, keys_of, origin_of
from mixcpt.machine import Machine, Timings
from mixcpt.mixture import realise
from mixcpt.outlook import outlook
from mixcpt.teachercache import segment_key, set_limit
from mixcpt.teacherstore import Store
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

WIDTH = 64
FACTS = Machine(
    cpu="Some CPU",
    cores=2,
    memory_gb=24.0,
    memory_available_gb=20.0,
    disk_free_gb=50.0,
    python="3.11",
    torch="2.13.0",
    cuda=None,
    cuda_missing="no NVIDIA GPU was found",
    bitsandbytes="0.50.2",
    nf4_missing=None,
    timings=Timings(fp32=1.0, bf16=2.0, cpu="Some CPU", threads=2, torch="2.13.0"),
)


def segments(*parts: tuple[bytes, int, int]) -> SegmentKeys:
    """Of (key, tokens, readings)."""
    keys, tokens, readings = zip(*parts, strict=True)
    return SegmentKeys(list(keys), np.array(tokens), np.array(readings))


THREE = segments((b"a", 10, 1), (b"b", 20, 3), (b"c", 30, 2))


def test_a_cold_cache_by_hand() -> None:
    """130 tokens are read; each of the three is computed once: 60."""
    cold = cover(THREE, set())
    assert cold == Coverage(tokens=130, at_hand=0, to_compute=60)
    assert cold.share == 0
    assert cold.saved == pytest.approx(70 / 130)


def test_a_warm_cache_by_hand() -> None:
    warm = cover(THREE, {b"b", b"x"})
    assert warm == Coverage(tokens=130, at_hand=60, to_compute=40)
    assert warm.words() == "teacher cache: 46% of the tokens are at hand"
    assert cover(THREE, {b"a", b"b", b"c"}) == Coverage(tokens=130, at_hand=130, to_compute=0)


def test_what_finds_no_room_is_computed_at_every_reading() -> None:
    """Room for half of the 60: of the 120 tokens that are missing 50 come first, of the other 70 half is saved."""
    assert cover(THREE, {b"a"}, room_tokens=30) == Coverage(tokens=130, at_hand=10, to_compute=50 + 35)


def test_the_keys_are_those_of_the_segments_in_the_rows(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    config = stage(tiny_model_folder, mixture__budget_tokens=30_000).mixture  # so much that documents come again
    mixture = realise(small_corpora, config, TextTokenizer.from_folder(tiny_model_folder))
    read: Counter[bytes] = Counter()
    lengths = {}
    for row in mixture:
        for number in np.unique(row.segment):
            ids = row.ids[row.segment == number]
            read[segment_key(ids)] += 1
            lengths[segment_key(ids)] = len(ids)
    found = keys_of(mixture)
    assert max(read.values()) > 1
    assert min(lengths.values()) > 1
    assert dict(zip(found.keys, found.readings.tolist(), strict=True)) == dict(read)
    assert dict(zip(found.keys, found.tokens.tolist(), strict=True)) == lengths


def test_of_a_segment_of_one_token_nothing_is_predicted(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    config = stage(tiny_model_folder).mixture
    mixture = realise(small_corpora, config, TextTokenizer.from_folder(tiny_model_folder))
    whole = len(keys_of(mixture).keys)
    mixture.segments[0, 3] = 1
    mixture.segments[1, 3] = 1
    assert len(keys_of(mixture).keys) <= whole - 1
    assert keys_of(mixture).tokens.min() > 1


def told(workspace: Workspace, folder: Path, **changes: Any) -> Coverage | None:
    return coverage(workspace, stage(folder, **changes), folder, FACTS, WIDTH)


def fill(workspace: Workspace, folder: Path, **changes: Any) -> None:
    """Keep states of all that this stage reads."""
    config = stage(folder, **changes)
    store = Store(workspace, origin_of(config, folder, FACTS), owner="run", width=WIDTH)
    for key in keys_of(realise(workspace, config.mixture, TextTokenizer.from_folder(folder))).keys:
        store.add([(key, np.zeros((2, WIDTH), np.uint16))])
    store.close()


def test_it_is_told_once_the_texts_are_tokenised(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    assert told(small_corpora, tiny_model_folder) is None
    mixture = realise(small_corpora, stage(tiny_model_folder).mixture, TextTokenizer.from_folder(tiny_model_folder))
    assert told(small_corpora, tiny_model_folder) == Coverage(mixture.tokens, 0, mixture.tokens)
    fill(small_corpora, tiny_model_folder)
    assert told(small_corpora, tiny_model_folder) == Coverage(mixture.tokens, mixture.tokens, 0)


def test_other_shares_and_seeds_start_warm(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    """Both corpora are read whole by the first; what the second reads of them does not matter."""
    fill(small_corpora, tiny_model_folder, mixture__budget_tokens=30_000)
    shares = {"mixture__sources__0__share": 90, "mixture__sources__1__share": 10, "mixture__seed": 7}
    realise(small_corpora, stage(tiny_model_folder, **shares).mixture, TextTokenizer.from_folder(tiny_model_folder))
    found = told(small_corpora, tiny_model_folder, **shares)
    assert found is not None and found.share == 1
    assert told(small_corpora, tiny_model_folder, model__precision="bf16", **shares) == Coverage(
        found.tokens, 0, found.tokens
    )


def test_it_is_not_told_where_it_plays_no_part(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    fill(small_corpora, tiny_model_folder)
    assert told(small_corpora, tiny_model_folder, training__teacher_cache=False) is None
    assert told(small_corpora, tiny_model_folder, objective__retention="none") is None
    assert told(small_corpora, tiny_model_folder, mixture__budget_tokens=module.MOST_TOKENS + 1) is None
    assert told(small_corpora, tiny_model_folder, mixture__sources__0__source="gone") is None
    set_limit(small_corpora, 0)
    assert told(small_corpora, tiny_model_folder) is None
    (small_corpora.teacher_cache / "settings.json").write_text("{", encoding="utf-8")
    assert told(small_corpora, tiny_model_folder) is None


def test_the_mixture_is_looked_at_only_once(
    small_corpora: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages ask at every click."""
    fill(small_corpora, tiny_model_folder)
    first = told(small_corpora, tiny_model_folder)
    monkeypatch.setattr(module, "realise", None)
    monkeypatch.setattr(shards, "read_index", None)
    assert told(small_corpora, tiny_model_folder) == first


def test_the_estimate_counts_what_is_at_hand(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    config = stage(tiny_model_folder)
    unknown = outlook(small_corpora, config, FACTS)
    fill(small_corpora, tiny_model_folder)
    warm = outlook(small_corpora, config, FACTS)
    assert unknown is not None and warm is not None
    assert unknown.cover is None and unknown.needed.at_hand is None
    assert warm.cover is not None and warm.needed.at_hand == 1
    assert warm.needed.seconds < unknown.needed.seconds
    assert warm.needed.memory_bytes == unknown.needed.memory_bytes


@pytest.mark.parametrize(
    ("cuda", "precision", "wanted"),
    [
        (False, "auto", ("cpu", "bf16", "")),
        (False, "fp32", ("cpu", "fp32", "")),
        (False, "nf4", ("cpu", "nf4", "bf16")),
        (True, "auto", ("cuda", "nf4", "bf16")),
        (True, "bf16", ("cuda", "bf16", "")),
    ],
)
def test_the_origin_names_what_is_computed_with(
    tiny_model_folder: Path, cuda: bool, precision: str, wanted: tuple[str, str, str]
) -> None:
    facts: Any = FACTS.model_copy(update={"cuda": SimpleNamespace()}) if cuda else FACTS
    config = stage(tiny_model_folder, model__precision=precision, model__device="auto")
    found = origin_of(config, tiny_model_folder, facts)
    assert (found.device, found.precision, found.compute) == wanted
