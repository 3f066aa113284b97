"""bench/loss.py: peers compute the same or are left out with a sentence, and every line of the table is whole."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

_PATH = Path(__file__).parents[1] / "bench" / "loss.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_loss", _PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_whole_and_names_who_is_left_out(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(case: Any, student: torch.Tensor) -> Any:
        return 2 * bench.usual(case, student)

    def missing(case: Any, student: torch.Tensor) -> torch.Tensor:
        raise ImportError("No module named 'nowhere'")

    peers = {"ours": bench.ours, "usual code": bench.usual, "Wrong": wrong, "Missing": missing}
    monkeypatch.setattr(bench, "WORK", {"KL": peers})
    monkeypatch.setattr(bench, "QUICK", [(600, 16)])
    monkeypatch.setattr(bench, "extra_memory", lambda work, name, case, arguments: 1_500_000)
    header, _, *rows = bench.lines(bench.parsed(["--quick", "--tokens", "40", "--runs", "1"]), [])
    assert header.startswith("| vocabulary × width | work | loss | time |")
    told = {row.split(" | ")[2] for row in rows}
    assert told == {"ours", "usual code"}
    assert all("1.5 MB | 100% |" in row and row.startswith("| 600 × 16 | KL |") for row in rows)
    said = capsys.readouterr().err
    assert "Missing is left out: No module named 'nowhere'" in said
    assert "Wrong is left out: its loss is " in said and "its gradient 100% off" in said


def test_both_works_agree_between_ours_and_the_usual_code(bench: Any) -> None:
    case = bench.Case.of(1003, 16, 50, "fp32", "cpu", 16)
    for peers in bench.WORK.values():
        (loss, gradient), (other, same) = (bench.run(peers[name], case) for name in ("ours", "usual code"))
        assert loss.item() == pytest.approx(other.item(), rel=1e-5)
        torch.testing.assert_close(gradient, same, atol=1e-5, rtol=1e-4)


def test_extra_memory_of_a_call_is_what_it_holds_at_its_peak(bench: Any) -> None:
    """In a process of its own: 64 MB are held beside the gradient of the states."""

    def holds(case: Any, student: torch.Tensor) -> torch.Tensor:
        torch.ones(16_000_000)
        return student.sum()

    arguments = ["--tokens", "64"]
    case = bench.Case.of(4000, 32, 64, "bf16", "cpu", 32)
    found = bench.extra_memory("KL", "usual code", case, arguments)
    whole = 64 * 4000 * 4  # one tensor of fp32 logits
    assert 3 * whole < found < 20 * whole
    bench.WORK["KL"]["holds"] = holds
    try:
        assert 60e6 < bench.extra_bytes(holds, case) < 90e6
    finally:
        del bench.WORK["KL"]["holds"]
