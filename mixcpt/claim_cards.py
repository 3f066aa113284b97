"""Claim cards: claims about two arms with all that it takes to check them: data hashes, model, seeds, the settings that
differ, and the command that gives the card again. As Markdown and as HTML, for slides and the notebook.

What this gives up: the hashes are those of the sources as they lie here now; what a run really read is told by the
fingerprints on the page of a comparison.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mixcpt import builtin
from mixcpt.claims import Claim, Pair, claims
from mixcpt.compare import Row, compare
from mixcpt.curves import title_of
from mixcpt.errors import NotFound
from mixcpt.findings import cautions
from mixcpt.notes import escape_for_files, fenced, table_for_files
from mixcpt.plotting import Code, Heading, Part, Table
from mixcpt.runs import Run
from mixcpt.settings_diff import settings_table
from mixcpt.workspace import Workspace


@dataclass(frozen=True)
class Card:
    """Claims about two arms, and all that it takes to check them: `facts` are names and values, `settings` what
    differs, as (setting, value of one, value of other), `command` prints the card again."""

    one: str
    other: str
    claims: tuple[Claim, ...]
    cautions: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str, str], ...]
    command: str

    @property
    def title(self) -> str:
        return f"{self.one} against {self.other}"


def cards(
    workspace: Workspace, pairs: Sequence[Pair], domain_tokens: int | None = None, command: str = ""
) -> list[Card]:
    """A card for each pair of arms. `domain_tokens` is where their curves were read, as in `compare.compare`;
    `command` is what gives the cards again where that is not `compare_command`.

    Raises:
        NotFound: a run was deleted meanwhile. Damaged: what was measured of one is not what it should be.
    """
    told = claims(pairs, None if domain_tokens else workspace)
    command = command or compare_command(pairs, domain_tokens)
    return [card(workspace, pair, own, domain_tokens, command) for pair, own in zip(pairs, told, strict=True)]


def compare_command(pairs: Sequence[Pair], domain_tokens: int | None = None) -> str:
    """What gives the cards of these pairs, which are all against one arm, again. It names the runs of all of them, for
    titles are told apart and p is corrected among those that are compared together."""
    if not pairs:
        return ""
    ids = dict.fromkeys(id for arm in (pairs[0][1], *(one for one, _ in pairs)) for id in arm["runs"])
    point = ["--domain-tokens", str(domain_tokens)] if domain_tokens else []
    point += ["--unseen"] if any("left_out" in arm for pair in pairs for arm in pair) else []
    return shlex.join(["mixcpt", "compare", *ids, "--claims", "--against", title_of(pairs[0][1]), *point])


def card(workspace: Workspace, pair: Pair, own: Sequence[Claim], domain_tokens: int | None, command: str) -> Card:
    """The card of a pair whose claims are known, for they are corrected for all pairs that are shown together. Raises
    as `cards`."""
    one, other = pair
    return Card(
        title_of(one),
        title_of(other),
        tuple(own),
        tuple(cautions([one, other])),
        tuple(_facts(workspace, one, other, domain_tokens)),
        tuple(_settings(workspace, one, other)),
        command,
    )


def _facts(workspace: Workspace, one: Row, other: Row, domain_tokens: int | None) -> list[tuple[str, str]]:
    runs = [Run(workspace.runs / id) for id in (*one["runs"], *other["runs"])]
    models = dict.fromkeys([one["model"], other["model"]])
    seeds = " and ".join(dict.fromkeys(", ".join(map(str, arm["seeds"])) for arm in (one, other)))
    facts = [("Model", ", ".join(models)), ("Seeds", seeds)]
    sources = dict.fromkeys(name for run in runs for name in _sources(run))
    facts += [(f"Data, {name}", _hash(workspace, name)) for name in sources]
    tokens = dict.fromkeys(f"{arm['tokens']:,}" for arm in (one, other))
    facts.append(("Tokens read", " and ".join(tokens)))
    if domain_tokens:
        facts.append(("Compared at", f"{domain_tokens:,} tokens of the field"))
    for arm in (one, other):
        facts.append((f"Runs, {title_of(arm)}", ", ".join(arm["runs"])))
    return facts


def _sources(run: Run) -> Iterator[str]:
    stage = run.config
    yield from stage.mixture.target_tokens()
    yield stage.measures.general


def _hash(workspace: Workspace, source: str) -> str:
    """The fingerprint of a source as it lies here now."""
    try:
        return builtin.fingerprint(workspace, source)
    except NotFound:
        return "not in this workspace any more"


def _settings(workspace: Workspace, one: Row, other: Row) -> list[tuple[str, str, str]]:
    runs = [Run(workspace.runs / arm["runs"][0]) for arm in (one, other)]
    seedless = [line for line in settings_table(runs, compare(runs)).rows if "seed" not in line[1].lower()]
    return [(f"{part}: {setting}", mine, its) for part, setting, mine, its in seedless]


# To take along


def as_parts(card: Card) -> list[Part]:
    """The card as parts of a page (`plotting.as_html`)."""
    parts: list[Part] = [Heading(card.title), *(f"{claim.sentence()}." for claim in card.claims)]
    parts.append(" ".join(card.cautions))
    parts.append(Table(["", ""], [list(fact) for fact in card.facts]))
    if card.settings:
        parts.append(Table(["Setting that differs", card.one, card.other], [list(line) for line in card.settings]))
    return [*parts, Code(card.command)]


def as_markdown(card: Card) -> str:
    """The card as Markdown that shows users' text as it is."""
    escaped = escape_for_files
    lines = [f"### {escaped(card.title)}", ""]
    lines += [f"- **{claim.sentence(escaped)}.**" for claim in card.claims]
    lines += ["", " ".join(card.cautions), ""]
    lines += [table_for_files([["Fact", ""], *card.facts]), ""]
    if card.settings:
        lines += [table_for_files([["Setting that differs", card.one, card.other], *card.settings]), ""]
    return "\n".join([*lines, fenced(card.command, "bash")]) + "\n"


def as_facts(card: Card) -> dict[str, Any]:
    """The card as plain values (docs/cli.md, `compare --claims --json`)."""
    return {
        "one": card.one,
        "other": card.other,
        "claims": [
            {
                "measure": claim.measure.key,
                "verdict": claim.verdict,
                "sentence": claim.sentence(),
                "difference": claim.difference,
                "interval": claim.found.interval if claim.found else None,
                "seeds": claim.found.seeds if claim.found else None,
                "points": claim.found.points if claim.found else None,
                "p": claim.p,
                "comparisons": claim.pairs,
                "detectable": claim.detectable,
                "over_items": asdict(claim.over_items) if claim.over_items else None,
            }
            for claim in card.claims
        ],
        "cautions": card.cautions,
        "facts": dict(card.facts),
        "settings": [{"setting": setting, "one": one, "other": other} for setting, one, other in card.settings],
        "command": card.command,
    }
