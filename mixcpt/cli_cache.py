"""Commands of `mixcpt` about the teacher cache: how large it is, its limit, and emptying it."""

import argparse
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from mixcpt import teachercache
from mixcpt.cli_show import print_json
from mixcpt.commands import command
from mixcpt.figures import size
from mixcpt.teachercache import CacheSize
from mixcpt.workspace import Workspace


def add(commands: Any) -> None:
    about = "what the frozen original said of each piece of text, kept on disk: show, clear, limit"
    cache = command(commands, "cache", show, about, json=True)
    actions = cache.add_subparsers(metavar="ACTION")
    command(actions, "show", show, "how large it is, by model (what is done when no action is named)", json=True)
    command(actions, "clear", clear, "empty it; runs that are training go on", json=True)
    one = command(actions, "limit", limit, "set how much of the disk it may take", json=True)
    one.add_argument("gigabytes", type=float, metavar="GB", help="in GB (20 when never set); 0 turns the cache off")


def show(workspace: Workspace, options: argparse.Namespace) -> None:
    found = teachercache.size(workspace)
    if options.json:
        return print_json(_plain(workspace, found))
    print(f"teacher cache: {size(found.bytes)} of at most {size(found.limit_bytes)}")
    for one in found.origins:
        print(
            f"  {one.name:24} {one.precision} on {one.device:4}  {size(one.bytes):>10} {one.tokens:>12,} tokens, last "
            f"used {_time(one.used)}"
        )
    print(f"  folder {workspace.teacher_cache}")


def clear(workspace: Workspace, options: argparse.Namespace) -> None:
    _dropped(teachercache.clear(workspace), options.json)


def limit(workspace: Workspace, options: argparse.Namespace) -> None:
    _dropped(teachercache.set_limit(workspace, options.gigabytes), options.json)


def _dropped(bytes: int, as_json: bool) -> None:
    if as_json:
        return print_json({"dropped_bytes": bytes})
    print(f"{size(bytes)} dropped")


def _plain(workspace: Workspace, found: CacheSize) -> dict[str, Any]:
    origins = [one._asdict() | {"used": _time(one.used)} for one in found.origins]
    return asdict(found) | {"tokens": found.tokens, "origins": origins, "folder": str(workspace.teacher_cache)}


def _time(seconds: float) -> str:
    """As times are written everywhere: UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
