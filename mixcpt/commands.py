"""How the commands of `mixcpt` are declared, for the modules that do."""

import argparse
from typing import Any


def command(commands: Any, name: str, action: Any, help: str, json: bool = False) -> argparse.ArgumentParser:
    """A command that calls `action(workspace, options)`; with `json` it can print one JSON document."""
    one: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    one.set_defaults(action=action, json=False)
    if json:
        one.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else")
    return one


def at_least(least: int) -> Any:
    """The type of an option that takes whole numbers from `least` on."""

    def number(text: str) -> int:
        if int(text) < least:
            raise ValueError(text)
        return int(text)

    number.__name__ = "number"  # argparse names it when it refuses
    return number
