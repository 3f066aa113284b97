"""The forgetting matrix of a chain of adaptations: what every stage did to every corpus and to general text.

A row is the state after a stage, the base first; a column is the held-out part of a corpus of the chain, a kind of
general text, or the KL to the base on general prompts. Cells are those of `mixcpt.measured`: measured anew, on the same
documents in every row. What this gives up: rows of runs whose adapter is gone, and weights by length, for in the means
below every corpus counts alike.

With T corpora that are learned one after the other, b(i, j) the bits per byte of corpus j after stage i, and the gain
R(i, j) = b(base, j) - b(i, j), positive where the text is read better than by the base:

    backward transfer   BWT = mean over j of R(last, j) - R(j, j)          Lopez-Paz and Ranzato 2017 (GEM), eq. 3
    forward transfer    FWT = mean over j >= 2 of R(j - 1, j)              the same, eq. 4, with the base for b-bar
    forgetting          F   = mean over j of max(1 <= i < last) R(i, j) - R(last, j)  Chaudhry et al. 2018, eq. 3

where R(j, j) is that right after the stage that learned corpus j. The means of BWT and F are over the corpora that some
stage came after; where SFT or DPO end a chain that is every corpus. Below 0 backward transfer is forgetting; F is
positive where something was lost. The average gain is the mean over j of R(last, j): what is there in the end (GEM, eq.
2). All are in bits per byte. GEM writes them for accuracies; taking gains for those keeps the signs. `mixcpt.matrices`
has the same over seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from mixcpt import measured
from mixcpt.builtin import GENERAL
from mixcpt.errors import BadInput
from mixcpt.figures import signed
from mixcpt.jobs import Job
from mixcpt.measured import FEW, Interval, Order, Taken
from mixcpt.palette import STAGE_NAMES
from mixcpt.runs import Run
from mixcpt.stages import Stage
from mixcpt.statistics import leaves_out_zero, mean_ratio_interval
from mixcpt.workspace import Workspace

FIELD = "corpus"
"""What a column is that is no kind of general text."""
BITS, NATS = "bits per byte", "nats per token"


@dataclass(frozen=True)
class Column:
    """A text that is measured after every stage. kind: "corpus", the kind of general text, or "KL on prompts". unit: of
    its cells; KL(base || run) is in nats per token, and 0 of the base. learned: the rows whose stage had it for its
    field."""

    text: str
    kind: str
    learned: tuple[int, ...] = ()
    unit: str = BITS

    @property
    def title(self) -> str:
        """Its name in a table, the unit with it where that is not bits per byte."""
        name = self.text if self.kind == FIELD else self.kind
        return name if self.unit == BITS else f"{name} ({self.unit})"

    @property
    def key(self) -> str:
        """The unit as the name of a value."""
        return self.unit.replace(" ", "_")


@dataclass(frozen=True)
class Line:
    """A row of the matrix; `run` is None for the base. Cells are in the order of the columns, None where that text was
    not measured; those of the base too, for it is measured beside every run."""

    run: str | None
    title: str
    stage: str
    cells: tuple[Taken | None, ...]


@dataclass(frozen=True)
class Transfer:
    """A mean over corpora, bits per byte; `parts` are the corpora with their own figures, `spread` is of each the
    change of every document (bits) and its size (bytes)."""

    value: float
    parts: tuple[tuple[str, float], ...]
    spread: tuple[tuple[Sequence[float], Sequence[float]], ...]

    @property
    def documents(self) -> int:
        """How many there are in all."""
        return sum(len(sizes) for _, sizes in self.spread)

    @cached_property
    def interval(self) -> Interval:
        """95 %, by bootstrap over the documents of each corpus."""
        return mean_ratio_interval(self.spread)

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return leaves_out_zero(self.interval)


@dataclass(frozen=True)
class Matrix:
    """The first of the `lines` is the base."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]

    def gain(self, row: int, column: int) -> float | None:
        """R(row, column): bits per byte of the base minus those after the stage (of a KL, minus it); None where they
        were not measured."""
        if row == 0:
            return 0.0 if self.base(column) else None
        cell = self.lines[row].cells[column]
        return -cell.difference if cell else None

    def base(self, column: int) -> Taken | None:
        """A cell of this column, in which the base stands beside the run."""
        return next((line.cells[column] for line in self.lines if line.cells[column]), None)

    @property
    def fields(self) -> list[int]:
        """The columns that are corpora of the chain, in the order in which they were learned."""
        return [number for number, column in enumerate(self.columns) if column.learned]

    @property
    def missing(self) -> list[str]:
        """Ids of the runs of which a text was not measured that another row has, or nothing at all was."""
        return [line.run for line in self.lines if line.run and (None in line.cells or not line.cells)]


def matrix(run: Run) -> Matrix:
    """The matrix of the chain that ends with `run`, of what was measured so far. Raises as `matrices`."""
    return matrices([run])[0]


def matrices(runs: Sequence[Run]) -> list[Matrix]:
    """The matrices of the chains that end with these runs; a text counts where it was measured on the same documents as
    in all the others.

    Raises:
        NotFound: a run of a chain was deleted. Damaged: a measure cannot be read.
    """
    chains = [run.chain() for run in runs]
    taken = [[_taken_of(run) for run in chain] for chain in chains]
    every = [mine for chain in taken for mine in chain]
    return [_matrix(chain, own, every) for chain, own in zip(chains, taken, strict=True)]


_Key = tuple[str, str]
"""A text and the unit of what was measured on it."""


def _taken_of(run: Run) -> dict[_Key, Taken]:
    return {(one.text, BITS if one.measure == "bits" else NATS): one for one in measured.at_strength(run)}


def _matrix(chain: Sequence[Run], taken: Sequence[dict[_Key, Taken]], every: Sequence[dict[_Key, Taken]]) -> Matrix:
    columns = tuple(_columns(chain, every))
    lines = [Line(None, STAGE_NAMES["base"], "base", (None,) * len(columns))]
    keys = [(column.text, column.unit) for column in columns]
    latest = {key: _latest(key, every) for key in keys}
    for each, mine in zip(chain, taken, strict=True):
        cells = tuple(_like(mine.get(key), latest[key]) for key in keys)
        lines.append(Line(each.id, each.title, each.info.stage, cells))
    return Matrix(columns, tuple(lines))


def _columns(chain: Sequence[Run], every: Sequence[dict[_Key, Taken]]) -> list[Column]:
    """The corpora of the chain first, then general text and prompts, as far as any run was measured on them."""
    learned: dict[str, list[int]] = {}
    for row, run in enumerate(chain, 1):
        if isinstance(run.config, Stage):
            for name in run.config.mixture.domain_sources():
                learned.setdefault(name, []).append(row)
    general = [run.config.measures.general for run in chain]
    seen = dict.fromkeys(key for mine in every for key in mine)
    texts = [text for text in dict.fromkeys([*GENERAL, *general]) if (text, BITS) in seen and text not in learned]
    return [
        *(Column(name, FIELD, tuple(rows)) for name, rows in learned.items()),
        *(Column(text, GENERAL.get(text, text)) for text in texts),
        *(Column(text, "KL on prompts", unit=NATS) for text, unit in seen if unit == NATS),
    ]


def _latest(key: _Key, taken: Sequence[dict[_Key, Taken]]) -> Taken | None:
    """The newest measure of a text: all rows must have been measured like it."""
    return max((mine[key] for mine in taken if key in mine), key=lambda one: one.finished, default=None)


def _like(one: Taken | None, newest: Taken | None) -> Taken | None:
    """None where it was measured on other documents, or in other numbers, than the newest."""
    alike = one and newest and one.how == newest.how and one.documents == newest.documents
    return one if alike else None


# What the stages did to each other's corpora


def backward(matrix: Matrix) -> Transfer | None:
    """BWT; None where nothing came after any corpus, or what it needs was not measured."""
    last = len(matrix.lines) - 1
    return _mean(matrix, [(j, matrix.columns[j].learned[-1], last) for j in _before(matrix)])


def forward(matrix: Matrix) -> Transfer | None:
    """FWT; None where no corpus came after another, or what it needs was not measured."""
    later = [(j, matrix.columns[j].learned[0]) for j in matrix.fields if matrix.columns[j].learned[0] > 1]
    return _mean(matrix, [(j, 0, row - 1) for j, row in later])


def forgetting(matrix: Matrix) -> Transfer | None:
    """F, positive where something was lost; None as of `backward`. In its interval the best stage of each corpus is
    taken for granted."""
    last = len(matrix.lines) - 1
    pairs = []
    for j in _before(matrix):
        gains = {row: gain for row in range(1, last) if (gain := matrix.gain(row, j)) is not None}
        if len(gains) < last - 1:
            return None
        pairs.append((j, last, max(gains, key=lambda row: gains[row])))
    return _mean(matrix, pairs)


def average_gain(matrix: Matrix) -> Transfer | None:
    """The gain in every corpus at the end of the chain; None where one was not measured."""
    return _mean(matrix, [(j, 0, len(matrix.lines) - 1) for j in matrix.fields])


def _before(matrix: Matrix) -> list[int]:
    """The corpora that some stage came after."""
    last = len(matrix.lines) - 1
    return [j for j in matrix.fields if matrix.columns[j].learned[-1] < last]


def _mean(matrix: Matrix, pairs: Sequence[tuple[int, int, int]]) -> Transfer | None:
    """The mean over (column, from row, to row) of R(to, column) - R(from, column)."""
    parts: list[tuple[str, float]] = []
    documents: list[tuple[list[float], tuple[float, ...]]] = []
    for j, start, end in pairs:
        before, after, cell = _bits(matrix, start, j), _bits(matrix, end, j), matrix.base(j)
        if before is None or after is None or cell is None:
            return None
        changes = [old - new for old, new in zip(before, after, strict=True)]
        documents.append((changes, cell.sizes))
        parts.append((matrix.columns[j].text, sum(changes) / sum(cell.sizes)))
    if not parts:
        return None
    value = sum(part for _, part in parts) / len(parts)
    return Transfer(value, tuple(parts), tuple(documents))


def _bits(matrix: Matrix, row: int, column: int) -> tuple[float, ...] | None:
    """Bits that each document needs after a stage."""
    cell = matrix.base(column) if row == 0 else matrix.lines[row].cells[column]
    return None if cell is None else cell.base_values if row == 0 else cell.values


# Measuring what is missing


def order_of(runs: Sequence[Run], tokens: int | None = None) -> Order:
    """What has to be measured of every run of chains for their matrices; of each text `tokens`, the usual number when
    not given."""
    stages = [one.config for run in runs for one in run.chain()]
    fields = (name for stage in stages if isinstance(stage, Stage) for name in stage.mixture.domain_sources())
    return Order(on=tuple(dict.fromkeys(fields)), tokens=tokens or measured.TOKENS)


def submit(workspace: Workspace, runs: Sequence[Run], tokens: int | None = None) -> Job:
    """Queue the measuring of the whole chains that end with these runs, in one job; what is known is not measured
    again.

    Raises:
        BadInput: no run of them has an adapter. NotFound: a corpus of a chain is gone.
    """
    found = measured.runs_of(workspace, dict.fromkeys(one.id for run in runs for one in run.chain()))
    if not found:
        chains = " and ".join(run.id for run in runs)
        raise BadInput(f"No run of the chain of {chains} has a finished adapter, so nothing can be measured: train it.")
    return measured.submit(workspace, found, order_of(runs, tokens))


# In words


def as_table(matrix: Matrix) -> list[tuple[str, ...]]:
    """The header and the rows: bits per byte of every text, and behind it the difference to the base; of prompts the
    KL in nats per token."""
    rows = [("after", *(column.title for column in matrix.columns))]
    for number, line in enumerate(matrix.lines):
        rows.append((stage_words(line), *(cell_words(matrix, number, j) for j in range(len(matrix.columns)))))
    return rows


def stage_words(line: Line) -> str:
    """A row by its stage and title."""
    return line.title if line.run is None else f"{STAGE_NAMES.get(line.stage, line.stage)}: {line.title}"


def cell_words(matrix: Matrix, row: int, column: int) -> str:
    """As in "0.812 (−0.041)"; without a difference of the base, and of a KL, which is one."""
    cell = matrix.lines[row].cells[column] if row else matrix.base(column)
    if cell is None:
        return "–"
    if row == 0:
        return f"{cell.base:.3f}"
    return f"{cell.figure:.3f}" + (f" ({signed(cell.difference)})" if matrix.columns[column].unit == BITS else "")


@dataclass(frozen=True)
class Figure:
    """What a whole matrix comes to: its name, and what it means above and below 0."""

    name: str
    of: Callable[[Matrix], Transfer | None]
    above: str
    below: str

    def meaning(self, value: float, sure: bool) -> str:
        """In words, of a value whose interval leaves out zero, or does not."""
        return (self.above if value > 0 else self.below) if sure else "the same within noise"


FIGURES = {
    "backward_transfer": Figure(
        "Backward transfer", backward,
        "what came later helped the corpora before", "what came later cost the corpora before",
    ),
    "forward_transfer": Figure(
        "Forward transfer", forward,
        "what came before helped the corpora after it", "what came before hindered the corpora after",
    ),
    "field_forgetting": Figure(
        "Forgetting", forgetting,
        "so much was lost since the best stage", "nothing was lost since the best stage",
    ),
    "average_gain": Figure(
        "Average gain", average_gain,
        "in the end all corpora together are read better than by the base",
        "in the end all corpora together are read worse than by the base",
    ),
}  # fmt: skip


def figures(matrix: Matrix) -> dict[str, float]:
    """Those of `FIGURES` that can be told, bits per byte."""
    found = {key: figure.of(matrix) for key, figure in FIGURES.items()}
    return {key: transfer.value for key, transfer in found.items() if transfer}


def sentences(matrix: Matrix) -> list[str]:
    """What came of it in words, each figure with its interval and its number of documents."""
    found = []
    for figure in FIGURES.values():
        transfer = figure.of(matrix)
        if transfer is None:
            continue
        low, high = transfer.interval
        few = ", which is few" if transfer.documents < FEW * len(transfer.parts) else ""
        parts = "; ".join(f"{text} {signed(value)}" for text, value in transfer.parts)
        found.append(
            f"{figure.name} {signed(transfer.value)} bits per byte (95 % interval {signed(low)} to {signed(high)}, "
            f"{transfer.documents} documents{few}): {figure.meaning(transfer.value, transfer.is_sure)} ({parts})."
        )
    return found
