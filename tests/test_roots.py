"""Which paths a person may name."""

from pathlib import Path

import pytest

from mixcpt.errors import BadInput
from mixcpt.roots import allowed_roots, check_inside, check_path, suggestions
from mixcpt.workspace import Workspace


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "allowed"
    (root / "inner" / "deep").mkdir(parents=True)
    (root / "inner" / "a.md").write_text("a")
    (root / "inner" / "deep" / "b.md").write_text("b")
    (root / ".ssh").mkdir()
    (root / ".ssh" / "key").write_text("secret")
    (tmp_path / "outside.md").write_text("secret")
    (tmp_path / "allowed-not").mkdir()
    (root / "way-out").symlink_to(tmp_path)
    (root / "file-out.md").symlink_to(tmp_path / "outside.md")
    (root / "loop").symlink_to(root / "loop")
    monkeypatch.setenv("MIXCPT_ROOTS", f"{root}::{tmp_path / 'missing'}")
    return root


def test_the_inbox_is_always_allowed_and_others_by_the_owner(
    workspace: Workspace, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = workspace.root / "inbox"
    assert allowed_roots(workspace) == [inbox, root, tmp_path / "missing"]
    assert inbox.is_dir()
    monkeypatch.delenv("MIXCPT_ROOTS")
    assert allowed_roots(workspace) == [inbox]


def test_what_lies_inside_is_found_absolute_or_relative(workspace: Workspace, root: Path) -> None:
    assert check_path(workspace, str(root / "inner" / "a.md")) == root / "inner" / "a.md"
    assert check_path(workspace, " inner/a.md ") == root / "inner" / "a.md"
    assert check_path(workspace, "inner/../inner") == root / "inner"
    assert check_path(workspace, str(root)) == root
    check_inside(workspace, ["inner", root / "inner" / "a.md"])


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/etc/there-is-no-such-file",
        "../outside.md",
        "inner/../../outside.md",
        "../allowed-not",
        ".ssh/key",
        "/dev/zero",
    ],
)
def test_nothing_outside_may_be_read_nor_asked_about(workspace: Workspace, root: Path, path: str) -> None:
    with pytest.raises(BadInput, match="may not be read: only what lies under"):
        check_path(workspace, path)
    with pytest.raises(BadInput, match="may not be read"):
        check_inside(workspace, ["inner", path])


@pytest.mark.parametrize("link", ["way-out/outside.md", "file-out.md", "way-out/none.md"])
def test_links_that_lead_out_may_not_be_read(workspace: Workspace, root: Path, link: str) -> None:
    with pytest.raises(BadInput, match="may not be read"):
        check_path(workspace, str(root / link))
    with pytest.raises(BadInput, match="is not there"):  # for the inbox might have it
        check_path(workspace, link)


@pytest.mark.parametrize("path", ["", "  ", "a\0b"])
def test_what_is_no_path(workspace: Workspace, root: Path, path: str) -> None:
    with pytest.raises(BadInput, match="is no path"):
        check_path(workspace, path)


@pytest.mark.parametrize("path", ["inner/none.md", "loop", "x" * 5000, "~nobody-here/x"])
def test_what_is_not_there(workspace: Workspace, root: Path, path: str) -> None:
    with pytest.raises(BadInput, match="is not there"):
        check_path(workspace, path)


def test_suggestions_go_two_levels_deep_and_leave_links_and_hidden_files_out(workspace: Workspace, root: Path) -> None:
    assert suggestions(workspace) == [root, root / "inner", root / "inner" / "a.md", root / "inner" / "deep"]
    for number in range(300):
        (root / f"n{number}").touch()
    assert len(suggestions(workspace)) == 200
