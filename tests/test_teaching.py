"""The cached teacher against the live one, and what a run keeps of it: on random two-layer models, on the CPU."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, PeftModelForCausalLM
from test_training import At, adapter_digest, losses, new_run, quiet, stage
from torch import Tensor

from mixcpt import models
from mixcpt.errors import Interrupted
from mixcpt.mixture import realise
from mixcpt.packing import IGNORED, Row, build_row
from mixcpt.runs import Run
from mixcpt.settings import override
from mixcpt.stages import Stage
from mixcpt.teachercache import Origin, clear, set_limit, size
from mixcpt.teacherstore import Store
from mixcpt.teaching import CachedTeacher, LiveTeacher, Piece, origin_of, segments_of
from mixcpt.training import collate, train
from mixcpt.workspace import Workspace, read_json

WIDTH = 64


@pytest.fixture(params=["fp32", "bf16"])
def model(request: pytest.FixtureRequest, tiny_model_folder: Path) -> PeftModel:
    """With an adapter that changes something, so that a teacher which forgets to switch it off is noticed."""
    base = models.load_base(tiny_model_folder, "cpu", request.param)
    adapted = models.attach_adapter(base, stage(tiny_model_folder).adapter, seed=0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return adapted


@pytest.fixture
def teacher(workspace: Workspace) -> Any:
    store = Store(workspace, Origin("tiny", "0" * 16, "cpu", "x"), owner="run", width=WIDTH, say=pytest.fail)
    yield CachedTeacher(store)
    store.close()


def segment(number: int, length: int) -> tuple[int, np.ndarray]:
    return number, np.random.default_rng(number).integers(0, 256, length)


def batch(*rows: list[tuple[int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, positions and labels of rows made of segments, each given as (number, length)."""
    made: list[Row] = [build_row([segment(*one) for one in row]) for row in rows]
    inputs = collate(made, pad_id=256)
    return inputs["input_ids"], inputs["position_ids"], inputs["shift_labels"]


FIRST = batch([(1, 30), (2, 9)], [(3, 25)])
SECOND = batch([(3, 25), (4, 12)], [(5, 1), (1, 30), (2, 9)])
"""Three of its segments are in FIRST; the one of a single token does not count."""


def at_labels(states: Tensor, labels: Tensor) -> Tensor:
    """The states from which something is predicted."""
    return states[labels.flatten() != IGNORED].float()


def near(found: Tensor, wanted: Tensor) -> bool:
    """To bf16 rounding: 8 bits of mantissa, of the computation in bf16 a little more."""
    return bool((found - wanted).abs().max() <= 2**-6 * wanted.abs().max())


def test_computed_just_now_they_are_the_live_ones_rounded(model: PeftModel, teacher: CachedTeacher) -> None:
    found = teacher.states(model, *FIRST)
    live = LiveTeacher().states(model, *FIRST)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, live.to(torch.bfloat16))
    assert teacher.figures() == {"cached_tokens": 0}


def test_read_again_they_are_the_same_bits_and_the_model_is_not_asked(
    model: PeftModel, teacher: CachedTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = at_labels(teacher.states(model, *FIRST), FIRST[2])
    teacher.figures()
    monkeypatch.setattr(PeftModelForCausalLM, "forward", None)
    assert torch.equal(at_labels(teacher.states(model, *FIRST), FIRST[2]), first)
    assert teacher.figures() == {"cached_tokens": 30 + 9 + 25}
    assert teacher.figures() == {"cached_tokens": 0}  # of the next step


def test_of_a_partly_known_batch_only_the_rest_is_computed(
    model: PeftModel, teacher: CachedTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher.states(model, *FIRST)
    teacher.figures()
    asked: list[Tensor] = []
    forward: Any = PeftModelForCausalLM.forward

    def watched(self: PeftModelForCausalLM, **options: Any) -> Any:
        asked.append(options["input_ids"])
        return forward(self, **options)

    monkeypatch.setattr(PeftModelForCausalLM, "forward", watched)
    found = teacher.states(model, *SECOND)
    assert [ids.tolist() for ids in asked] == [[segment(4, 12)[1].tolist() + 52 * [0]]]  # padded to 64
    assert teacher.figures() == {"cached_tokens": 25 + 30 + 9}
    live = LiveTeacher().states(model, *SECOND)
    assert near(at_labels(found, SECOND[2]), at_labels(live, SECOND[2]))
    asked.clear()
    assert torch.equal(teacher.states(model, *SECOND), found)
    assert asked == []


def test_many_missing_segments_are_packed(model: PeftModel, teacher: CachedTeacher) -> None:
    teacher.states(model, *batch([(1, 30)]))
    mixed = batch([(1, 30), (6, 20)], [(7, 8), (8, 12), (9, 17)])
    found, live = teacher.states(model, *mixed), LiveTeacher().states(model, *mixed)
    assert near(at_labels(found, mixed[2]), at_labels(live, mixed[2]))


def test_a_segment_that_comes_twice_in_a_batch_is_computed_once(model: PeftModel, teacher: CachedTeacher) -> None:
    twice = batch([(1, 30), (2, 9)], [(1, 30)])
    found, live = teacher.states(model, *twice), LiveTeacher().states(model, *twice)
    assert near(at_labels(found, twice[2]), at_labels(live, twice[2]))
    assert teacher.figures() == {"cached_tokens": 0}
    assert torch.equal(found[:30], found[64 : 64 + 30])  # rows are padded to 64


def test_a_batch_in_which_nothing_counts_needs_nothing(model: PeftModel, teacher: CachedTeacher) -> None:
    ids, positions, labels = FIRST
    nothing = torch.full_like(labels, IGNORED)
    assert teacher.states(model, ids, positions, nothing).shape == (ids.numel(), WIDTH)


def test_segments_by_hand() -> None:
    positions = np.array([[0, 1, 2, 0, 1, 0], [0, 1, 0, 1, 2, 3]])
    labels = np.array([[5, 6, IGNORED, 7, IGNORED, IGNORED], [8, IGNORED, IGNORED, IGNORED, IGNORED, IGNORED]])
    assert segments_of(positions, labels) == [Piece(0, 0, 3), Piece(0, 3, 5), Piece(1, 0, 2)]


def test_the_origin_of_a_loaded_model(tiny_model_folder: Path) -> None:
    base = models.load_base(tiny_model_folder, "cpu", "fp32")
    assert origin_of("tiny", "f" * 16, base, "cpu", "fp32") == Origin("tiny", "f" * 16, "cpu", "fp32")
    nf4 = models.load_base(tiny_model_folder, "cpu", "nf4")
    assert origin_of("tiny", "f" * 16, nf4, "cpu", "nf4").compute in ("bf16", "fp32")


# Whole runs


def said_by(workspace: Workspace, run: Run) -> list[str]:
    said: list[str] = []
    train(workspace, run, say=said.append)
    return said


def cached(run: Run) -> list[int]:
    return [record["cached_tokens"] for record in run.losses()]


def test_the_second_run_is_wholly_cached_and_equal_to_the_byte(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    config = stage(tiny_model_folder)
    cold, warm = new_run(small_corpora, config), new_run(small_corpora, config)
    assert "teacher cache: 0% of the tokens are at hand" in said_by(small_corpora, cold)
    assert "teacher cache: 100% of the tokens are at hand" in said_by(small_corpora, warm)
    assert losses(cold) == losses(warm)
    assert adapter_digest(cold) == adapter_digest(warm)
    read = warm.losses()[-1]["tokens"]
    assert sum(cached(warm)) == read
    assert sum(cached(cold)) < read


def test_a_run_over_other_shares_and_another_seed_starts_warm(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    """The first run reads both corpora whole."""
    config = stage(tiny_model_folder, mixture__budget_tokens=20_000, measures__every_steps=0, training__rows_per_step=8)
    train(small_corpora, new_run(small_corpora, config), say=quiet)
    changes = {"mixture.sources.0.share": 90, "mixture.sources.1.share": 10, "mixture.budget_tokens": 1000}
    other = new_run(small_corpora, override(config.with_seed(5), changes))
    train(small_corpora, other, say=quiet)
    assert sum(cached(other)) == other.losses()[-1]["tokens"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
def test_losses_agree_with_those_of_the_live_teacher(
    small_corpora: Workspace, tiny_model_folder: Path, precision: str
) -> None:
    runs = []
    for use in (False, True, True):
        changes: dict[str, Any] = {"training__teacher_cache": use, "training__learning_rate": 1e-4}
        config = stage(tiny_model_folder, model__precision=precision, mixture__budget_tokens=1000, **changes)
        runs.append(new_run(small_corpora, config))
        train(small_corpora, runs[-1], say=quiet)
    live, cold, warm = ([record["retention"] for record in run.losses()] for run in runs)
    assert all("cached_tokens" not in record for record in runs[0].losses())
    assert cold == pytest.approx(live, rel=5e-3)
    assert warm == cold
    if precision == "bf16":  # its states are bf16 anyway
        assert cold[0] == live[0]


def kill_at(workspace: Workspace, run: Run, step: int) -> None:
    script = (
        "import sys, os, signal\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "from test_training import At, quiet\n"
        "from mixcpt.runs import Runs\n"
        "from mixcpt.training import train\n"
        "from mixcpt.workspace import Workspace\n"
        "home = Workspace(sys.argv[1])\n"
        "kill = At(int(sys.argv[4]), lambda **_: os.kill(os.getpid(), signal.SIGKILL))\n"
        "train(home, Runs(home).get(sys.argv[2]), say=quiet, callbacks=(kill,))\n"
    )
    arguments = [sys.executable, "-c", script, str(workspace.root), run.id, str(Path(__file__).parent), str(step)]
    assert subprocess.run(arguments, env=os.environ, check=False).returncode == -signal.SIGKILL


def several_epochs(folder: Path) -> Stage:
    """Two documents of the field are read again and again, each time beside other pieces of text."""
    return stage(
        folder, mixture__budget_tokens=2900, mixture__domain_documents=2, measures__every_steps=0, adapter__dropout=0.1
    )


def test_a_killed_run_whose_first_half_was_live_goes_on_exactly(
    small_corpora: Workspace, tiny_model_folder: Path
) -> None:
    """The cache is cold for both, so steps that are done again find states which were computed the first time. And
    between the two halves another run, with other rows, fills the cache: the stopped run must not see that."""
    config = several_epochs(tiny_model_folder)
    killed = new_run(small_corpora, config)
    kill_at(small_corpora, killed, 8)  # the last checkpoint is that of step 6
    assert 0 < sum(cached(killed)) < killed.losses()[-1]["tokens"]
    between = {"mixture.domain_documents": None, "mixture.budget_tokens": 18_000, "training.rows_per_step": 8}
    train(small_corpora, new_run(small_corpora, override(config.with_seed(9), between)), say=quiet)
    train(small_corpora, killed, say=quiet)

    clear(small_corpora)
    whole = new_run(small_corpora, config)
    train(small_corpora, whole, say=quiet)
    assert losses(killed) == losses(whole)
    assert cached(killed)[8:] == cached(whole)[8:]
    assert adapter_digest(killed) == adapter_digest(whole)


def test_what_a_run_began_with_it_ends_with(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    """The limit is changed while a run is stopped: without the cache it goes on without, with it with it."""
    config = several_epochs(tiny_model_folder)

    def stopped(limit: float) -> Run:
        set_limit(small_corpora, limit)
        run = new_run(small_corpora, config)

        def check() -> None:
            if len(run.losses()) == 4:
                raise Interrupted("stop")

        with pytest.raises(Interrupted):
            train(small_corpora, run, check=check, say=quiet)
        return run

    live, kept = stopped(0), stopped(1)
    assert not (live.folder / "teacher.json").exists()
    assert read_json(kept.folder / "teacher.json")["seen"] == {}
    set_limit(small_corpora, 1)
    train(small_corpora, live, say=quiet)
    assert all("cached_tokens" not in record for record in live.losses())
    set_limit(small_corpora, 0)
    train(small_corpora, kept, say=quiet)
    assert all("cached_tokens" in record for record in kept.losses())

    set_limit(small_corpora, 1)
    whole = new_run(small_corpora, config)
    train(small_corpora, whole, say=quiet)
    first = [record["retention"] for record in kept.losses()]
    assert first == pytest.approx([record["retention"] for record in whole.losses()], rel=2e-3)


def test_a_damaged_cache_changes_no_loss(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    config = stage(tiny_model_folder)
    cold, warm = new_run(small_corpora, config), new_run(small_corpora, config)
    train(small_corpora, cold, say=quiet)
    states = next(small_corpora.teacher_cache.glob("*/*.states"))
    data = bytearray(states.read_bytes())
    data[len(data) // 2] ^= 64
    states.write_bytes(data)
    said = said_by(small_corpora, warm)
    assert sum("was damaged" in sentence for sentence in said) == 1
    assert [loss for _, loss, _ in losses(warm)] == pytest.approx([loss for _, loss, _ in losses(cold)], rel=1e-3)
    assert size(small_corpora).tokens > 0


def test_a_disk_that_is_full_stops_no_training(
    small_corpora: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int, data: memoryview, start: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    run = new_run(small_corpora, stage(tiny_model_folder))
    said = said_by(small_corpora, run)
    assert [sentence for sentence in said if "cannot be written (No space left on device" in sentence]
    assert sum("cannot be written" in sentence for sentence in said) == 1
    assert cached(run) == [0] * 12


def test_damaged_settings_of_the_cache_stop_no_training(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    small_corpora.teacher_cache.mkdir()
    (small_corpora.teacher_cache / "settings.json").write_text("{", encoding="utf-8")
    run = new_run(small_corpora, stage(tiny_model_folder))
    said = said_by(small_corpora, run)
    assert [sentence for sentence in said if sentence.startswith("training without the teacher cache: ")]
    assert run.adapter.exists()


def test_no_file_stays_open(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    run = new_run(small_corpora, stage(tiny_model_folder))

    def stop(**_: Any) -> None:
        raise RuntimeError("in the midst")

    with pytest.raises(RuntimeError, match="in the midst"):
        train(small_corpora, run, say=quiet, callbacks=(At(3, stop),))
    links = [
        os.readlink(f"/proc/self/fd/{name}")
        for name in os.listdir("/proc/self/fd")
        if os.path.islink(f"/proc/self/fd/{name}")
    ]
    assert not [link for link in links if link.endswith((".states", ".index")) and str(small_corpora.root) in link]


def test_the_kept_states_are_those_of_the_plain_model(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    """Of one whole document, by transformers alone."""
    from transformers import AutoModel

    from mixcpt.teachercache import segment_key
    from mixcpt.tokens import TextTokenizer

    config = stage(tiny_model_folder)
    run = new_run(small_corpora, config)
    train(small_corpora, run, say=quiet)
    mixture = realise(small_corpora, config.mixture, TextTokenizer.from_folder(tiny_model_folder))
    ids = mixture.segment_ids(5)
    plain = AutoModel.from_pretrained(tiny_model_folder, dtype=torch.float32)
    with torch.no_grad():
        wanted = plain(torch.from_numpy(ids).long()[None], use_cache=False).last_hidden_state[0]
    base = models.load_base(tiny_model_folder, "cpu", "fp32")
    origin = origin_of("tiny", models.model_fingerprint(tiny_model_folder), base, "cpu", "fp32")
    store = Store(small_corpora, origin, owner="look", width=WIDTH, say=pytest.fail)
    bits = store.find(segment_key(ids))
    assert bits is not None
    found = torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16).float()
    store.close()
    assert torch.allclose(found, wanted, rtol=2**-8, atol=1e-6)
    assert hashlib.sha256(found.numpy().tobytes()).digest() != hashlib.sha256(wanted.numpy().tobytes()).digest()
