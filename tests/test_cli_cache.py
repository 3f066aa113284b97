"""The command `cache`: what it says of the teacher cache, and what it drops."""

import json
from typing import Any

import numpy as np
import pytest
from test_cli import check_keys

from mixcpt import cli
from mixcpt.teachercache import Origin, limit, size
from mixcpt.teacherstore import Store
from mixcpt.workspace import Workspace

WIDTH = 100


@pytest.fixture
def filled(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """40 tokens of the built-in model, 8,000 bytes and a record of 32."""
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    store = Store(workspace, Origin("smollm2-135m", "0" * 16, "cpu", "bf16"), owner="run", width=WIDTH)
    store.add([(b"0" * 16, np.zeros((40, WIDTH), np.uint16))])
    store.close()
    return workspace


def in_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main(["cache", *arguments, "--json"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


@pytest.mark.parametrize("action", [[], ["show"]])
def test_it_tells_its_size(filled: Workspace, capsys: pytest.CaptureFixture[str], action: list[str]) -> None:
    shown = in_json(capsys, *action)
    check_keys("mixcpt cache", [shown])
    check_keys("mixcpt cache", shown["origins"], table=1)
    assert (shown["bytes"], shown["tokens"], shown["limit_bytes"]) == (8032, 40, 20_000_000_000)
    (one,) = shown["origins"]
    assert (one["name"], one["precision"], one["tokens"]) == ("smollm2-135m", "bf16", 40)
    assert one["used"].endswith("Z")
    assert cli.main(["cache", *action]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("teacher cache: 8.0 kB of at most 20.0 GB\n  smollm2-135m             bf16 on cpu")
    assert "40 tokens" in printed and str(filled.teacher_cache) in printed


def test_it_is_emptied(filled: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", "clear"]) == 0
    assert capsys.readouterr().out == "8.0 kB dropped\n"
    assert size(filled).bytes == 0
    assert in_json(capsys, "clear") == {"dropped_bytes": 0}


def test_its_limit_is_set(filled: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert in_json(capsys, "limit", "0.5") == {"dropped_bytes": 0}
    assert limit(filled) == 500_000_000
    assert in_json(capsys, "limit", "0") == {"dropped_bytes": 8032}
    assert cli.main(["cache", "limit", "-1"]) == 2
    assert capsys.readouterr().err == "mixcpt: The limit of the teacher cache is -1 GB: give 0 (no cache) or more.\n"
    assert limit(filled) == 0
