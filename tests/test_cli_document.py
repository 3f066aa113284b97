"""docs/cli.md knows every command and every option that there is, and no other command."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixcpt.cli import _parser

TEXT = (Path(__file__).parents[1] / "docs" / "cli.md").read_text("utf-8")


def commands(one: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command by its words, as in "corpus add", with the parser of its arguments; what is done anyway when no
    action is named counts without it."""
    below = [action for action in one._actions if isinstance(action, argparse._SubParsersAction)]
    if one.get_default("action"):
        yield name, one
    for action in below:
        for word, parser in action.choices.items():
            if parser.get_default("action") != one.get_default("action") or not parser.get_default("action"):
                yield from commands(parser, f"{name} {word}".strip())


COMMANDS = dict(commands(_parser()))


def section(command: str) -> str:
    """What the document says under the heading that names the command, alone or with others of its kind."""
    for heading, body in re.findall(r"^## mixcpt (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S):
        if {command, command.split()[0]} & set(heading.split(", ")):
            return str(body)
    raise AssertionError(f"no section tells of mixcpt {command}")


def test_all_commands_are_looked_at() -> None:
    assert len(COMMANDS) > 30 and {"run", "corpus add", "selection import", "evaluate"} <= COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_a_section_an_example_and_a_place_in_the_table(command: str) -> None:
    assert re.search(rf"^    mixcpt {command}\b", section(command), re.M), "no example"
    first, _, second = command.partition(" ")
    table = TEXT[TEXT.index("| command | |") :].split("\n\n")[0]
    named = re.findall(r"`([a-z ]+)`", table.replace("`, `", "` `"))
    assert command in named or first in named or second in named


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_told(command: str) -> None:
    told, general = section(command), TEXT[: TEXT.index("\n## ")]
    for action in COMMANDS[command]._actions:
        for option in set(action.option_strings) - {"-h", "--help"}:
            assert re.search(rf"{option}\b", told) or (option == "--json" and option in general), option


def test_no_command_is_told_that_is_none() -> None:
    first = {command.split()[0] for command in COMMANDS}
    assert set(re.findall(r"^    mixcpt (\w+)", TEXT, re.M)) == first
    links = set(re.findall(r"\]\(#([\w-]+)\)", TEXT))
    headings = [heading.lower() for heading in re.findall(r"^##+ (.*)", TEXT, re.M)]
    assert links <= {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}
