"""The folders of this server from which people may take files by naming a path.

Whoever opens the app could otherwise read every file that the server can. The owner allows folders by $MIXCPT_ROOTS
(several are separated as in $PATH); the workspace's own folder inbox/ is always among them. Whoever types commands on
this machine is not bound by this. What it gives up: a link that is exchanged between the check and the reading.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mixcpt.errors import BadInput
from mixcpt.workspace import Workspace

VARIABLE = "MIXCPT_ROOTS"
_MOST_SUGGESTED = 200
_DEPTH = 2


def allowed_roots(workspace: Workspace) -> list[Path]:
    """The allowed folders, links resolved: the workspace's inbox, made when it is missing, then those of
    $MIXCPT_ROOTS."""
    inbox = workspace.root / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    named = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part.strip()]
    return list(dict.fromkeys(_real(path) for path in (str(inbox), *named)))


def check_path(workspace: Workspace, path: str) -> Path:
    """The real path of a file or folder that a person named; a relative one is looked for in each allowed folder.

    Raises:
        BadInput: it lies outside the allowed folders (whether it exists there is not told), below a hidden folder, or
            is not there.
    """
    roots = allowed_roots(workspace)
    typed = os.path.expanduser(path.strip())
    if not typed or "\0" in typed:
        raise BadInput(f"{path!r} is no path: name a file or folder under {_listed(roots)}.")
    inside = [real for root in roots if _is_allowed(real := _real(str(root / typed)), roots)]
    if not inside:
        raise BadInput(
            f"{path!r} may not be read: only what lies under {_listed(roots)} may. Copy it there, or ask the owner of "
            f"this server to add its folder to {VARIABLE}."
        )
    found = next((real for real in inside if os.path.isfile(real) or os.path.isdir(real)), None)
    if found is None:
        raise BadInput(f"{path!r} is not there, or neither a file nor a folder: check the path.")
    return found


def check_inside(workspace: Workspace, paths: Iterable[Path | str]) -> None:
    """As `check_path` for each of several paths, say those that an uploaded recipe names."""
    for path in paths:
        check_path(workspace, str(path))


def suggestions(workspace: Workspace) -> list[Path]:
    """What somebody may want to name: the allowed folders that hold something, and what lies up to two levels below;
    200 at most."""
    found: list[Path] = []
    for root in allowed_roots(workspace):
        inside = list(_below(root, _DEPTH, _MOST_SUGGESTED - len(found)))
        found += [root, *inside] if inside else []
    return found[:_MOST_SUGGESTED]


def _below(folder: Path, depth: int, most: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # it went away, or may not be read: then there is nothing in it to suggest
    for entry in entries:
        if most <= 0:
            return
        if entry.name.startswith(".") or entry.is_symlink():
            continue
        yield Path(entry.path)
        most -= 1
        if depth > 1 and entry.is_dir():
            for path in _below(Path(entry.path), depth - 1, most):
                yield path
                most -= 1


def _real(path: str) -> Path:
    return Path(os.path.realpath(os.path.expanduser(path)))


def _is_allowed(real: Path, roots: list[Path]) -> bool:
    """Below an allowed folder, and through no hidden one: keys and settings lie in those."""
    return any(
        real.is_relative_to(root) and not any(part.startswith(".") for part in real.relative_to(root).parts)
        for root in roots
    )


def _listed(roots: list[Path]) -> str:
    return ", ".join(map(str, roots))
