"""A comparison as a whole: rows for pages that are drawn again and again, and a page of its own that stands alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mixcpt import charts, summaries
from mixcpt.claim_table import in_words
from mixcpt.claims import claims, pairs_against
from mixcpt.columns import FORMATS, HOW_TO_READ, HOW_TO_READ_FORMATS, differences_table, formats_table
from mixcpt.compare import Row, summarise, tasks, titled, with_curves
from mixcpt.curves import MEASURES, title_of
from mixcpt.diagnosis_table import in_short
from mixcpt.errors import MixcptError
from mixcpt.findings import cautions, findings, leaders
from mixcpt.plotting import Code, Heading, Part, Table
from mixcpt.runs import Run, Runs
from mixcpt.settings_diff import SAME_SETTINGS, settings_table
from mixcpt.stamps import Kept
from mixcpt.unseen import unseen
from mixcpt.workspace import Workspace, now


@dataclass(frozen=True)
class Refused:
    """A run that cannot be compared, and why, in a sentence."""

    run: str
    reason: str


_ROWS: Kept[Row] = Kept()
_FILES = ("run.json", "labels.json", "metrics.jsonl", "results.json")


def rows_of(
    workspace: Workspace, ids: Sequence[str], domain_tokens: int | None = None
) -> tuple[list[Row], list[Refused]]:
    """`with_curves` for a page that is drawn again and again: what did not change is not read again, curves are
    thinned, and a run that cannot be compared is refused with the reason instead of an error."""
    rows, refused = [], []
    runs = Runs(workspace)
    known = {run.id: run for run in runs.all()}
    for id in dict.fromkeys(ids):
        try:
            rows.append(_row_of(known.get(id) or runs.get(id), domain_tokens))
        except (MixcptError, FileNotFoundError) as problem:
            refused.append(Refused(id, str(problem)))
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            refused.append(Refused(id, f"Its files are damaged ({problem}): run it again, or delete it."))
    return titled(rows), refused


def _row_of(run: Run, domain_tokens: int | None) -> Row:
    def read() -> Row:
        return summaries.read(run, domain_tokens) if domain_tokens else summaries.kept(run)

    return _ROWS.get((run.folder, domain_tokens), [str(run.folder / name) for name in _FILES], read)


def as_html(
    workspace: Workspace, runs: Sequence[Run], domain_tokens: int | None = None, leave_out: bool = False
) -> str:
    """A page that stands alone and needs no network: what was found, charts, tables, how to read them, fingerprints of
    the data, and the command that gives the figures again. `leave_out`: without questions that any of the runs read.

    Raises:
        BadInput: a run has no measures yet, or none near so many tokens of the field. Damaged: a file of a run is not
            what it should be.
    """
    rows = with_curves(runs, domain_tokens)
    rows = unseen(rows, runs) if leave_out else rows
    arms = summarise(rows)
    point = f", each where it had read about {domain_tokens:,} tokens of the field" if domain_tokens else ""
    runs_word = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    parts: list[Part] = [f"{runs_word}{point}. Written {now()} by Mix-CPT Studio.", Heading("What came out")]
    parts += [f"{finding.title} {finding.words}." for finding in [*findings(arms), *leaders(arms)]]
    parts += in_words(claims(pairs_against(arms), None if domain_tokens else workspace))
    parts += cautions(arms)
    parts += [Heading("Gain against forgetting"), charts.plane(rows)]
    for name, measure in MEASURES.items():
        parts += [Heading(f"Over tokens: {measure.axis}"), charts.forgetting_curves(rows, name)]
    if len(arms) > 1:
        parts += [Heading("Each arm by itself"), charts.multiples(rows)]
    parts += [Heading("Differences to the base"), differences_table(arms), HOW_TO_READ]
    if formats := formats_table(arms):
        parts += [Heading(FORMATS), formats, HOW_TO_READ_FORMATS]
    if tasks(arms):
        parts += [Heading("Questions"), charts.questions(arms)]
    sentence, signs = in_short(workspace, rows)
    parts += [Heading("Diagnosis"), sentence, *([signs] if signs.rows else [])]
    settings = settings_table(runs, rows)
    parts += [Heading("In which settings they differ"), settings if settings.rows else SAME_SETTINGS]
    parts += [Heading("Which runs and data"), _origins(runs, rows)]
    again = f"mixcpt compare {' '.join(run.id for run in runs)}"
    again += (f" --domain-tokens {domain_tokens}" if domain_tokens else "") + (" --unseen" if leave_out else "")
    parts += [Heading("The same figures again"), Code(again)]
    return charts.as_html(parts, "Runs compared")


def as_json(rows: Sequence[Row]) -> str:
    """What `mixcpt compare --json` prints, with the curves: every run, and every arm over its seeds."""
    return json.dumps({"runs": list(rows), "arms": summarise(rows)}, indent=2, ensure_ascii=False) + "\n"


def _origins(runs: Sequence[Run], rows: Sequence[Row]) -> Table:
    lines = []
    for run, row in zip(runs, rows, strict=True):
        training = run.results().get("training", {})
        fingerprint = training.get("mixture", {}).get("fingerprint", "–")
        where = f"{training['device']}, {training['precision']}" if "device" in training else "–"
        lines.append(
            [title_of(row), str(row["seed"]), run.id, row["model"], where, fingerprint, training.get("finished", "–")]
        )
    heads = ["Arm", "Seed", "Run", "Model", "Trained on", "Fingerprint of the data read", "Finished"]
    return Table(heads, lines, note="Two runs with one fingerprint read the same tokens in the same order.")
