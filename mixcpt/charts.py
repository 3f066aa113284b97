"""Charts by name, pure: records and rows in, a Plotly figure out; every page, notebook and export draws with these.

Names come from users, so they are made safe and short by `mixcpt.plotting.label`. `draw` makes a chart again from what
lies on disk, which is what a pin in a notebook is.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixcpt import chains, measured, spread
from mixcpt.chain_chart import chain as chain
from mixcpt.changes import changes
from mixcpt.changes_chart import by_kind as by_kind
from mixcpt.changes_chart import largest as largest
from mixcpt.compare import Row, summarise, task_words, with_curves
from mixcpt.corpus import Corpus
from mixcpt.curves import forgetting_curve as forgetting_curve
from mixcpt.curves import forgetting_curves as forgetting_curves
from mixcpt.curves import learning_rate as learning_rate
from mixcpt.curves import losses as losses
from mixcpt.curves import memory as memory
from mixcpt.curves import numbered, title_of
from mixcpt.curves import preferred as preferred
from mixcpt.curves import rewards as rewards
from mixcpt.curves import speed as speed
from mixcpt.errors import BadInput, NotFound
from mixcpt.manifest import Histogram
from mixcpt.matrices import arms, ends
from mixcpt.matrix import matrix
from mixcpt.matrix_chart import matrices_chart as matrices_chart
from mixcpt.matrix_chart import matrix_chart as matrix_chart
from mixcpt.multiples_chart import multiples as multiples
from mixcpt.palette import DOMAIN, KIND_WORDS, NEUTRAL, STAGES, run_colour, source_colour
from mixcpt.plane import plane as plane
from mixcpt.plotting import as_fragment as as_fragment
from mixcpt.plotting import as_html as as_html
from mixcpt.plotting import frame, label, nothing
from mixcpt.runs import Run, Runs
from mixcpt.seed_chart import seeds as seeds
from mixcpt.selection import Selection, open_selection
from mixcpt.strength_chart import strengths as strengths
from mixcpt.strengths import anew
from mixcpt.study_kinds import short
from mixcpt.workspace import Workspace


def shares(reports: Iterable[Any]) -> go.Figure:
    """What share of the tokens each source of a mixture has, as a bar, and what was asked for, as a mark.

    `reports` are `mixture.SourceReport`s, or the same as mappings, as results.json keeps them.
    """
    sources = [
        asdict(report) if is_dataclass(report) and not isinstance(report, type) else report for report in reports
    ]
    if not sources:
        return nothing("shares", "No sources yet: a mixture has at least one.")
    places = list(range(len(sources)))
    figure = go.Figure()
    figure.add_bar(
        y=places,
        x=[100 * source["realised_share"] for source in sources],
        orientation="h",
        width=0.62,
        marker={"color": [source_colour(source["kind"], source["domain"]) for source in sources]},
        name="realised",
        showlegend=False,
        hovertext=[_source_hover(source) for source in sources],
        hoverinfo="text",
    )
    figure.add_scatter(
        y=places,
        x=[100 * source["requested_share"] for source in sources],
        mode="markers",
        marker={"symbol": "line-ns", "size": 26, "line": {"width": 2.5, "color": NEUTRAL}, "color": NEUTRAL},
        name="requested",
        hovertemplate="requested: %{x:.1f} % of the tokens<extra></extra>",
    )
    most = 100 * max(max(source["realised_share"], source["requested_share"]) for source in sources)
    figure.add_scatter(  # a column of its own, where no mark can lie across a word
        y=places,
        x=[1.04 * most] * len(sources),
        text=[f"{100 * source['realised_share']:.1f} % · {_times(source['epochs'])}" for source in sources],
        mode="text",
        textposition="middle right",
        cliponaxis=False,
        showlegend=False,
        hoverinfo="skip",
    )
    frame(figure, "shares", x="share of the tokens (%)", height=110 + 38 * len(sources))
    figure.update_xaxes(range=[0, 1.6 * most], tickvals=_ticks(most))
    names = [label(source["source"], 28) for source in sources]
    figure.update_yaxes(tickvals=places, ticktext=names, autorange="reversed", showgrid=False)
    return figure


def _ticks(most: float) -> list[int]:
    """Percentages up to the longest bar; none below the column of words."""
    return list(range(0, int(most) + 1, 5 if most <= 25 else 10 if most <= 50 else 20))


def _times(epochs: float) -> str:
    return f"read {epochs:.1f} times" if epochs >= 1 else f"{100 * epochs:.0f} % of it read"


def _source_hover(source: Mapping[str, Any]) -> str:
    kind = KIND_WORDS[source["kind"]] + (", your field" if source["domain"] else "")
    return (
        f"<b>{label(source['source'], 80)}</b> ({kind})"
        f"<br>{100 * source['realised_share']:.1f} % of the tokens, requested {100 * source['requested_share']:.1f} %"
        f"<br>{source['tokens']:,} tokens of {source['available_tokens']:,} there are: {source['epochs']:.2f} epochs"
        f"<br>{source['documents']:,} documents of {source['available_documents']:,}"
    )


def lengths(histogram: Histogram) -> go.Figure:
    """How many documents have how many tokens, in bins that double."""
    edges = zip(histogram.edges[:-1], histogram.edges[1:], histogram.counts, strict=True)
    bins = [(low, high - 1, documents) for low, high, documents in edges]
    filled = [place for place, (_, _, documents) in enumerate(bins) if documents]
    if not filled:
        return nothing("lengths", "No documents yet.")
    bins = bins[filled[0] : filled[-1] + 1]
    names = [f"{low:,}–{high:,}" for low, high, _ in bins]
    figure = go.Figure()
    figure.add_bar(
        x=names,
        y=[documents for _, _, documents in bins],
        marker={"color": DOMAIN},
        customdata=[100 * documents / sum(histogram.counts) for _, _, documents in bins],
        hovertemplate="%{y:,} documents of %{x} tokens (%{customdata:.1f} %)<extra></extra>",
    )
    frame(figure, "lengths", x="length of a document (tokens)", y="documents", height=280)
    figure.update_layout(bargap=0.15)
    figure.update_xaxes(type="category")
    return figure


_COLUMNS = 3


def questions(rows: Sequence[Row]) -> go.Figure:
    """Share of questions answered right, a panel a question set: the base of each model, then every row, with 95 %
    intervals.

    `rows` are those of `compare` (intervals over questions) or of `summarise` (over seeds, where they repeat).
    """
    tasks = list(
        dict.fromkeys(key.removesuffix("_accuracy") for row in rows for key in row if key.endswith("_accuracy"))
    )
    if not tasks:
        return nothing(
            "questions", "No questions were asked yet: a run's answers are counted when its evaluation is done."
        )
    answered = [(number, row) for number, row in numbered(rows) if any(f"{task}_accuracy" in row for task in tasks)]
    columns = min(_COLUMNS, len(tasks))
    lines = -(-len(tasks) // columns)
    panels = make_subplots(
        rows=lines,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.05,
        vertical_spacing=0.25 / lines,
        subplot_titles=[label(task_words(task), 30) for task in tasks],
    )
    models = list(dict.fromkeys(row.get("model", "") for _, row in answered))
    for place, task in enumerate(tasks):
        _add_panel(panels, answered, models, task, row=place // columns + 1, col=place % columns + 1, first=place == 0)
    frame(panels, "questions", height=lines * (110 + 30 * (len(models) + len(answered))))
    panels.update_layout(margin={"t": 48}, legend={"y": 1 + 34 / panels.layout.height, "itemclick": False})
    panels.update_annotations(font={"size": 13})
    names = [_name_of_base(model, models) for model in models] + [label(title_of(row), 32) for _, row in answered]
    panels.update_xaxes(range=[-4, 104], tickvals=[0, 25, 50, 75, 100])
    panels.update_xaxes(title_text="answered right (%)", row=lines)
    panels.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.4, -0.6], showgrid=False
    )
    return panels


def _name_of_base(model: str, models: Sequence[str]) -> str:
    return "base" if len(models) == 1 else label(f"base, {short(model)}", 32)


def _add_panel(
    figure: go.Figure,
    rows: Sequence[tuple[int, Row]],
    models: Sequence[str],
    task: str,
    *,
    row: int,
    col: int,
    first: bool,
) -> None:
    scored = [
        (place, number, line) for place, (number, line) in enumerate(rows, len(models)) if f"{task}_accuracy" in line
    ]
    sample = scored[0][2]
    for key, name, dash in (("chance", "guessing", "dot"), ("majority", "always the most frequent", "dash")):
        figure.add_scatter(
            x=[100 * sample[f"{task}_{key}"]] * 2,
            y=[-0.6, len(models) + len(rows) - 0.4],
            mode="lines",
            line={"color": NEUTRAL, "width": 1.2, "dash": dash},
            name=name,
            legendgroup=key,
            showlegend=first,
            hovertemplate=f"{name}: %{{x:.0f}} %<extra></extra>",
            row=row,
            col=col,
        )
    for place, model in enumerate(models):
        if own := next((line for _, _, line in scored if line.get("model", "") == model), None):
            head = f"<b>{_name_of_base(model, models)}</b>"
            _add_score(figure, place, STAGES["base"], _score(own, task, "base"), head, row, col, symbol="diamond")
    for place, number, line in scored:
        head = f"<b>{label(title_of(line), 80)}</b>"
        _add_score(figure, place, run_colour(number), _score(line, task, "accuracy"), head, row, col)


def _score(row: Row, task: str, what: str) -> tuple[float, Sequence[float] | None, str]:
    """Value, interval and what the interval is over."""
    value, over_seeds = row[f"{task}_{what}"], row.get(f"{task}_{what}_ci")
    if over_seeds:
        return value, over_seeds, f"mean of {len(row['seeds'])} seeds, 95 % interval over seeds"
    interval = row.get(f"{task}_interval" if what == "accuracy" else f"{task}_base_interval")
    return value, interval, f"of {row[f'{task}_items']} questions, 95 % interval over questions"


def _add_score(
    figure: go.Figure,
    place: int,
    colour: str,
    score: tuple[float, Sequence[float] | None, str],
    head: str,
    row: int,
    col: int,
    symbol: str = "circle",
) -> None:
    value, interval, over = score
    low, high = interval or (value, value)
    spread = f" ({100 * low:.0f}–{100 * high:.0f} %)" if interval else ""
    figure.add_scatter(
        x=[100 * value],
        y=[place],
        mode="markers",
        marker={"size": 10, "color": colour, "symbol": symbol},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (max(high, value) - value)],
            "arrayminus": [100 * (value - min(low, value))],
            "color": colour,
            "thickness": 1.6,
            "width": 4,
        },
        showlegend=False,
        hovertemplate=f"{head}<br>%{{x:.1f}} % answered right{spread}<br>{over}<extra></extra>",
        row=row,
        col=col,
    )


@dataclass(frozen=True)
class Chart:
    """A chart that can be asked for by name: `of` says whether its subjects are run ids or names of something else."""

    title: str
    of: str
    draw: Callable[[Workspace, Sequence[str]], go.Figure]


def _of_run(figure: Callable[[Run], go.Figure]) -> Callable[[Workspace, Sequence[str]], go.Figure]:
    return lambda workspace, subjects: figure(Runs(workspace).get(subjects[0]))


def _of_rows(figure: Callable[[Sequence[Row]], go.Figure]) -> Callable[[Workspace, Sequence[str]], go.Figure]:
    def draw(workspace: Workspace, subjects: Sequence[str]) -> go.Figure:
        runs = Runs(workspace)
        return figure(with_curves(runs.get(id) for id in subjects))

    return draw


def _matrices(workspace: Workspace, subjects: Sequence[str]) -> go.Figure:
    runs = [Runs(workspace).get(id) for id in subjects]
    return matrices_chart(arms(ends(runs)))


def _strength_plane(workspace: Workspace, subjects: Sequence[str]) -> go.Figure:
    """The plane of the measures that were taken anew, with all strengths."""
    runs = [Runs(workspace).get(id) for id in subjects]
    found, _ = anew(with_curves(runs), runs)
    return plane(found, pareto=True)


def _of_selection(figure: Callable[[Selection], go.Figure]) -> Callable[[Workspace, Sequence[str]], go.Figure]:
    return lambda workspace, names: figure(open_selection(workspace, names[0]))


CHARTS: dict[str, Chart] = {
    "losses": Chart("Losses", "run", _of_run(lambda run: losses(run.losses()))),
    "learning_rate": Chart("Learning rate", "run", _of_run(lambda run: learning_rate(run.losses()))),
    "speed": Chart("Speed", "run", _of_run(lambda run: speed(run.losses()))),
    "memory": Chart("Memory", "run", _of_run(lambda run: memory(run.losses()))),
    "forgetting_curve": Chart("Forgetting curve", "run", _of_run(lambda run: forgetting_curve(run.curve()))),
    "chain": Chart("Forgetting over the whole chain", "run", _of_run(lambda run: chain(chains.links(run)))),
    "matrix": Chart("Over several adaptations", "run", _of_run(lambda run: matrix_chart(matrix(run)))),
    "matrices": Chart("Over several adaptations, mean over seeds", "runs", _matrices),
    "rewards": Chart("Rewards of the answers", "run", _of_run(lambda run: rewards(run.losses()))),
    "preferred": Chart("Pairs in the right order", "run", _of_run(lambda run: preferred(run.losses()))),
    "shares": Chart("Shares of the mixture", "run", _of_run(lambda run: shares(_sources(run)))),
    "forgetting_curves": Chart("Forgetting over tokens", "runs", _of_rows(forgetting_curves)),
    "gain_curves": Chart("Gain over tokens", "runs", _of_rows(lambda rows: forgetting_curves(rows, "domain"))),
    "kl_curves": Chart(
        "Distance to the base over tokens", "runs", _of_rows(lambda rows: forgetting_curves(rows, "kl"))
    ),
    "multiples": Chart("Each arm by itself", "runs", _of_rows(multiples)),
    "plane": Chart("Gain against forgetting", "runs", _of_rows(plane)),
    "strength_plane": Chart("Gain against forgetting at all strengths", "runs", _strength_plane),
    "strengths": Chart(
        "Gain and forgetting over strength", "run", _of_run(lambda run: strengths(measured.points(run)))
    ),
    "changes": Chart("Largest changes in held-out text", "run", _of_run(lambda run: largest(changes(run)))),
    "change_kinds": Chart("Change by text and kind of token", "run", _of_run(lambda run: by_kind(changes(run)))),
    "seeds": Chart("Differences seed by seed", "runs", _of_rows(seeds)),
    "questions": Chart("Questions", "runs", _of_rows(lambda rows: questions(summarise(rows)))),
    "lengths": Chart(
        "Lengths of documents",
        "corpus",
        lambda workspace, names: lengths(Corpus.open(workspace, names[0]).manifest.lengths),
    ),
    "selection": Chart("Spread of the score", "selection", _of_selection(spread.of_selection)),
    "disagreement": Chart("Two scores of each sample", "selection", _of_selection(spread.disagreement_of)),
    "agreement": Chart("How alike scores order samples", "selection", _of_selection(spread.agreement_of)),
}
"""What can be pinned in a notebook, or drawn from the command line."""


def _sources(run: Run) -> list[dict[str, Any]]:
    sources: list[dict[str, Any]] = run.results().get("training", {}).get("mixture", {}).get("sources", [])
    return sources


def draw(workspace: Workspace, name: str, subjects: Sequence[str]) -> go.Figure:
    """The chart of this name, drawn from what lies on disk now.

    Raises:
        NotFound: there is no such chart, run, corpus or selection.
        BadInput: a run has no measures yet, or no subject is named.
    """
    if name not in CHARTS:
        raise NotFound(f"There is no chart {name!r}: choose from {', '.join(CHARTS)}.")
    if not subjects:
        raise BadInput(f"The chart {name!r} needs a {CHARTS[name].of}: name at least one.")
    return CHARTS[name].draw(workspace, subjects)
