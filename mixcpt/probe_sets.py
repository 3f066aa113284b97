"""Probes as question sets of a run: the entries `probes` and `probes:CORPUS` of `evaluation.tasks`.

`probes` alone means the run's own field: the sources of its mixture that are marked so. Each corpus gives two sets,
`probes_CORPUS_memorised` and `probes_CORPUS_generalised`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mixcpt.builtin import open_source, require_source
from mixcpt.config import EvaluationConfig
from mixcpt.errors import BadConfig, BadCorpus, NotFound
from mixcpt.probes import ITEMS, SIDES, make
from mixcpt.questions import PROBES, Question, is_probes
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

if TYPE_CHECKING:
    from mixcpt.worker import JobContext


def corpora(entries: Sequence[str], domain: Sequence[str]) -> list[str]:
    """The corpora whose probes are asked for, each once; `domain` are the sources of the run's field.

    Raises:
        BadConfig: `probes` alone, but the run has no field, or `probes:` without a name.
    """
    found: list[str] = []
    for entry in filter(is_probes, entries):
        name = entry.removeprefix(PROBES).removeprefix(":")
        if entry == PROBES and not domain:
            raise BadConfig(
                "evaluation.tasks asks for probes, but no source is marked as the field: name a corpus, probes:CORPUS, "
                "or set domain: true on a source."
            )
        if entry != PROBES and not name:
            raise BadConfig(f"evaluation.tasks names {entry!r}: name the corpus, as in probes:my-corpus.")
        found += [name] if name else domain
    return list(dict.fromkeys(found))


def require(workspace: Workspace, entries: Sequence[str], domain: Sequence[str]) -> None:
    """See that the corpora of all probes are there. Whether they are large enough is found when the probes are made.

    Raises:
        NotFound: one is not there, with those that are. BadConfig: as `corpora`.
    """
    for name in corpora(entries, domain):
        require_source(workspace, name)


def task_name(corpus: str, side: str) -> str:
    """How a set is called in results and for lm-eval; only letters, digits and _."""
    return f"probes_{re.sub(r'[^A-Za-z0-9]+', '_', corpus).strip('_')}_{side}"


def task_names(entries: Sequence[str], domain: Sequence[str]) -> list[str]:
    """The sets that the entries ask for, by name."""
    return [task_name(name, side) for name in corpora(entries, domain) for side in SIDES]


def unavailable_name(corpus: str) -> str:
    """Under which name results say why a corpus has no probes."""
    return f"{PROBES} {corpus}"


@dataclass(frozen=True)
class Asked:
    """The sets that could be made, facts about each that results keep (`corpus`, `side`, `seed`, and `checks`, what
    blind strategies score), and why others could not be made."""

    sets: dict[str, list[Question]]
    facts: dict[str, dict[str, Any]]
    unavailable: dict[str, str]


def asked(
    workspace: Workspace,
    config: EvaluationConfig,
    domain: Sequence[str],
    tokenizer: TextTokenizer,
    should_stop: Callable[[], None] = lambda: None,
) -> Asked:
    """The probes that a configuration asks for; with `items` so many of each set are made, and these are balanced."""
    found = Asked({}, {}, {})
    for name in corpora(config.tasks, domain):
        try:
            corpus = open_source(workspace, name, tokenizer)
            made = make(corpus, config.items or ITEMS, should_stop=should_stop)
        except (BadCorpus, NotFound) as problem:
            found.unavailable[unavailable_name(name)] = str(problem)
            continue
        for side, questions in made.sets().items():
            task = task_name(name, side)
            found.sets[task] = questions
            checks = [asdict(check) for check in made.checks]
            found.facts[task] = {"corpus": name, "side": side, "seed": made.seed, "checks": checks}
    return found


def run_job(context: "JobContext") -> str:
    """The `probes` job: makes the probes of a corpus, so that they can be looked at. Payload: `corpus`, the name of its
    folder, and `items` and `seed`."""
    from mixcpt.corpus import Corpus

    name, items, seed = (context.job.payload[key] for key in ("corpus", "items", "seed"))
    context.progress(None, "reading the corpus")
    made = make(Corpus.open(context.workspace, name), items, seed, context.check)
    return f"{len(made.probes)} probes of {name}."
