"""Which runs are compared, and where on their curves. The choice stands in the address, to be shared and reloaded."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from app import forms, show, state
from app.words import plain, printable
from mixcpt.compare import Row, task_words, tasks
from mixcpt.comparison import Refused, rows_of
from mixcpt.overview import RunSummary, overview
from mixcpt.palette import STAGE_NAMES
from mixcpt.runs import Run
from mixcpt.unseen import Seen, seen, unseen

LAUNCH = "../pages/launch.py"
MOST = 300
_WRAPPED = 30
"""Of more runs than these, the list of those chosen scrolls instead of growing."""
_RUNS, _EXPERIMENT, _EQUAL, _AT = "compare_runs", "compare_experiment", "compare_equal", "compare_tokens"
_UNSEEN = "compare_unseen"


@dataclass(frozen=True)
class Choice:
    """What is compared: rows of `comparison.rows_of`, at how many tokens of the field (None: at the end), and whether
    without the questions that stand in what any of the runs read."""

    rows: list[Row]
    domain_tokens: int | None
    unseen: bool = False


def choose() -> Choice | None:
    """Draws the chooser; None as long as nothing that can be compared is chosen."""
    runs = overview(state.workspace())
    if not any(_comparable(run) for run in runs):
        show.empty(
            "Nothing to compare yet",
            "Runs can be compared once they have measured something. Launch two that differ in one thing, for example "
            "the same documents with a mixture and without.",
            page=LAUNCH,
            label="Launch a run",
            icon=":material/rocket_launch:",
        )
        return None
    unknown = _from_address(runs)
    _pickers(runs)
    chosen: list[str] = st.session_state[_RUNS]
    _to_address("runs", ",".join([*chosen, *unknown]))
    ends, refused = rows_of(state.workspace(), [*chosen, *unknown])
    if not chosen and not unknown:
        _invite(runs)
        return None
    at = _equal_tokens(ends) if ends else None
    rows = ends
    if at is not None:
        rows, without_point = rows_of(state.workspace(), [row["run"] for row in ends], at)
        refused += without_point
    _say_refused(refused, {run.id: run.title for run in runs})
    if at is None and any(row.get(f"{task}_contaminated") for row in rows for task in tasks([row])):
        compared = [Run(state.workspace().runs / row["run"]) for row in rows]
        found = seen(rows, compared)
        if _leave_out(found):
            return Choice(unseen(rows, compared, found), None, unseen=True)
    return Choice(rows, at) if rows else None


def _comparable(run: RunSummary) -> bool:
    return any(figure is not None for figure in (run.domain_gain, run.forgetting, run.prompt_kl))


def _from_address(runs: Sequence[RunSummary]) -> list[str]:
    """Takes what the address names as the choice when the page is opened; returns what is no run of this workspace."""
    known = {run.id for run in runs}
    named = [id for id in dict.fromkeys(st.query_params.get("runs", "").split(",")) if id]
    if _RUNS not in st.session_state:
        st.session_state[_RUNS] = [id for id in named if id in known][:MOST]
    else:
        st.session_state[_RUNS] = [id for id in st.session_state[_RUNS] if id in known]  # one may be deleted meanwhile
    return [id for id in named if id not in known][:MOST]


def _to_address(name: str, value: str) -> None:
    if st.query_params.get(name, "") == value:
        return
    if value:
        st.query_params[name] = value
    else:
        del st.query_params[name]


def _pickers(runs: Sequence[RunSummary]) -> None:
    by_experiment = Counter(run.experiment for run in runs if _finished(run))
    few, many = st.columns([1, 2], gap="medium")
    few.selectbox(
        "All finished runs of an experiment",
        list(by_experiment),
        index=None,
        **forms.bound(_EXPERIMENT, None, _take_experiment),
        placeholder="Choose an experiment",
        format_func=lambda name: f"{printable(name)} ({by_experiment[name]})",
        help=f"Takes its finished runs instead of those chosen now, the newest {MOST} at most. Short tries of a tuning "
        "are left out, for they were measured on other documents.",
    )
    many.multiselect(
        "Runs",
        list(_labels(runs)),
        key=_RUNS,
        format_func=_labels(runs).__getitem__,
        max_selections=MOST,
        wrap=len(st.session_state[_RUNS]) <= _WRAPPED,
        placeholder="Find runs by name",
        help=f"Type to search; up to {MOST} runs. Of those called the same, stage, experiment or seed is told.",
    )


def _finished(run: RunSummary) -> bool:
    return run.state == "done" and _comparable(run)


def _labels(runs: Sequence[RunSummary]) -> dict[str, str]:
    """Run id to what the list says: its title, and of stage, experiment, seed and id what it takes to be unlike any
    other."""
    words = {run.id: printable(run.title) for run in runs}
    for part in _APART:
        alike: dict[str, list[RunSummary]] = defaultdict(list)
        for run in runs:
            alike[words[run.id]].append(run)
        for text, rivals in alike.items():
            if len({part(run) for run in rivals}) > 1:
                words |= {run.id: f"{text} · {part(run)}" for run in rivals}
    return {run.id: words[run.id] + ("" if _comparable(run) else " · no measures yet") for run in runs}


_APART: tuple[Callable[[RunSummary], str], ...] = (
    lambda run: STAGE_NAMES.get(run.stage, run.stage),
    lambda run: printable(run.experiment),
    lambda run: f"seed {run.seed}",
    lambda run: run.id[-6:],
)


def _take_experiment(name: str | None) -> None:
    if name:
        _take(name)


def _take(experiment: str) -> None:
    """Choose the finished runs of the experiment, oldest first, without those that were measured for tuning only."""
    ids = [run.id for run in overview(state.workspace()) if run.experiment == experiment and _finished(run)]
    rows, _ = rows_of(state.workspace(), ids)
    kept = [row["run"] for row in rows if row["measured_on"] == "heldout"] or [row["run"] for row in rows]
    st.session_state[_RUNS] = kept[:MOST][::-1]


def _invite(runs: Sequence[RunSummary]) -> None:
    """Nothing chosen: what comes of choosing, and the newest experiments a click away."""
    with st.container(border=True):
        st.markdown("#### Choose two runs or more")
        st.markdown("You then see what each gained in the field, what it forgot, and in which settings they differ.")
        newest = list(dict.fromkeys(run.experiment for run in runs if _finished(run)))[:3]
        with st.container(horizontal=True):
            for number, name in enumerate(newest):
                st.button(
                    f"All of {plain(name)}",
                    key=f"compare_take_{number}",
                    icon=":material/compare_arrows:",
                    on_click=_take,
                    args=(name,),
                )


def _equal_tokens(rows: Sequence[Row]) -> int | None:
    """The tokens of the field to compare at, when that is asked for; the address keeps the number."""
    least = min(row["domain_tokens"] for row in rows)
    if least == 0:
        return None  # a run that never read the field has no such point
    if _EQUAL not in st.session_state:
        asked = st.query_params.get("at", "")
        st.session_state[_EQUAL] = asked.isdecimal()
        st.session_state[_AT] = max(1, min(int(asked[:20]), 10**12)) if asked.isdecimal() else least
    with st.container(horizontal=True, vertical_alignment="center"):
        equal = st.toggle(
            "Compare at equal tokens of the field",
            key=_EQUAL,
            help="Reads every curve where the run had read so many tokens of the field, instead of at its end. So runs "
            "of other lengths and mixtures are compared at the same amount of learning. Questions are left out, for "
            "they are asked at the end.",
        )
        if equal:
            if _AT not in st.session_state:
                st.session_state[_AT] = least
            st.number_input(
                "Tokens of the field", min_value=1, max_value=10**12, step=500, key=_AT, width=220,
                help=f"The shortest of these runs read {least:,}.",
            )  # fmt: skip
    at: int | None = st.session_state[_AT] if equal else None
    _to_address("at", str(at) if at else "")
    return at


def _leave_out(found: Seen) -> bool:
    """Whether the questions that stand in training text are to be left out."""
    known = ", ".join(f"{len(places)} of {task_words(task)}" for (task, _), places in found.items())
    if _UNSEEN not in st.session_state:
        st.session_state[_UNSEEN] = "unseen" in st.query_params
    chosen = st.toggle(
        "Leave out questions that these runs have read",
        key=_UNSEEN,
        help=f"Questions that were found in the training text of a run: {plain(known)}. What one run read is left out "
        "for all that were asked the same, so that they stay comparable.",
    )
    _to_address("unseen", "1" if chosen else "")
    return chosen


def _say_refused(refused: Sequence[Refused], titles: dict[str, str]) -> None:
    if refused:
        lines = "\n".join(f"- **{plain(titles.get(one.run, one.run))}**: {plain(one.reason)}" for one in refused)
        st.warning(f"Not compared:\n{lines}", icon=":material/block:")
