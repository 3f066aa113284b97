"""Live pieces: the queue in the sidebar and on the Runs page, and the figures, curves and log of one run.

Each is a fragment that draws itself anew every second or two while something moves, so forms beside it keep what is
being typed. When a run changes its state the whole page is drawn once more, because other actions make sense then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from app import show, state
from app.pins import pin_button
from app.tiles import tiles
from app.words import ago, plain, printable
from mixcpt import charts
from mixcpt.chains import links
from mixcpt.errors import MixcptError, NotFound
from mixcpt.estimate import minutes
from mixcpt.jobs import MOVING, is_part_of_run
from mixcpt.overview import RunSummary, summary
from mixcpt.palette import STAGE_NAMES
from mixcpt.queue import QueueItem, queue
from mixcpt.runs import Run, Runs
from mixcpt.stamps import Stamp, stamp

RUNS = "../pages/runs.py"
QUEUE_SECONDS, FIGURES_SECONDS, CURVES_SECONDS = 2.0, 1.0, 3.0
LOG_LINES = 400


@dataclass(frozen=True)
class Look:
    """How a state is shown: a word, an icon, and a colour of Streamlit's badges."""

    word: str
    icon: str
    colour: Any


STATES = {
    "new": Look("not started", ":material/radio_button_unchecked:", "gray"),
    "queued": Look("waiting", ":material/hourglass_empty:", "gray"),
    "running": Look("running", ":material/play_circle:", "blue"),
    "paused": Look("paused", ":material/pause_circle:", "orange"),
    "done": Look("done", ":material/check_circle:", "green"),
    "failed": Look("failed", ":material/error:", "red"),
    "cancelled": Look("cancelled", ":material/cancel:", "gray"),
    "damaged": Look("damaged", ":material/broken_image:", "red"),
}
WORK = {
    "ingest": "adding a corpus",
    "prepare": "preparing texts",
    "probes": "making probes",
    "train": "training",
    "evaluate": "asking questions",
    "measure": "measuring again",
    "score": "scoring",
    "export": "exporting",
    "study": "a study",
    "doctor": "measuring this machine",
    "fetch": "fetching a model",
}


def work(kind: str) -> str:
    """A kind of job in words."""
    return WORK.get(kind, kind)


def state_badge(name: str) -> None:
    look = STATES[name]
    st.badge(look.word, icon=look.icon, color=look.colour)


def tag_badge(tag: str) -> None:
    """A tag as text. Of what `plain` escapes, badges escape the square brackets a second time."""
    st.badge(plain(tag).replace("\\[", "[").replace("\\]", "]"), icon=":material/label:", color="gray")


# ---- the queue -------------------------------------------------------------------------------------------------------


@st.fragment(run_every=QUEUE_SECONDS)
def queue_panel() -> None:
    """For the sidebar: what runs, how far it is, and how many wait. Quiet when there is nothing to do."""
    _stopped_queue()
    items = queue(state.workspace())
    running = [item for item in items if item.status.state == "running"]
    for item in running:
        with st.container(border=True, gap="xxsmall"):
            _title(item, "queue")
            _bar(item)
    if waiting := len(items) - len(running):
        st.caption(f":material/hourglass_empty: {waiting} waiting")


def _stopped_queue() -> None:
    problem = state.queue_error()
    if problem is None:
        return
    st.error(f"The queue has stopped: {plain(problem)}", icon=":material/error:")
    if st.button("Start it again", key="queue_restart"):
        state.supervisor()
        st.rerun(scope="fragment")


def _title(item: QueueItem, place: str) -> None:
    """What it is called; of a run, the way to its page (a page link would be drawn as the page that is open)."""
    title = plain(item.title)
    if not item.run:
        st.markdown(f"**{title}**")
    elif st.button(f"**{title}**", key=f"{place}_open_{item.job.id}", type="tertiary", help="Open this run"):
        st.switch_page(RUNS, query_params={"run": item.run.id})


def _bar(item: QueueItem) -> None:
    """How far it is: a bar where that is known, else the words of the job."""
    doing = "stopping" if item.stopping else work(item.job.kind)
    if item.status.progress is None:
        st.caption(f"{doing}: {plain(item.status.message)}" if item.status.message not in ("", doing) else doing)
        return
    st.progress(item.status.progress, text=f"{doing}, {item.status.progress:.0%}")
    if item.seconds_left is not None:
        st.caption(f"about {minutes(item.seconds_left)} left")


@st.fragment(run_every=QUEUE_SECONDS)
def queue_list(shown: Sequence[tuple[str, str]]) -> None:
    """For the Runs page: what runs and what waits, in order, each with a way to stop it. `shown` is the `queue_key`
    with which the page was drawn: when the queue is another one, the page's history is too."""
    items = queue(state.workspace())
    if queue_key(items) != shown:
        st.rerun()
    if not items:
        st.caption("Nothing is running and nothing waits.")
    for item in items:
        with st.container(border=True):
            _queue_row(item)


def queue_key(items: Sequence[QueueItem]) -> list[tuple[str, str]]:
    """What of a queue changes the history below it."""
    return [(item.job.id, item.status.state) for item in items]


def _queue_row(item: QueueItem) -> None:
    title, how_far, stop = st.columns([3, 4, 1], vertical_alignment="center")
    with title:
        _title(item, "runs")
        what = [work(item.job.kind), *(f"then {work(kind)}" for kind in item.then)]
        stage = f"{STAGE_NAMES.get(item.stage, item.stage)}: " if item.stage else ""
        st.caption(f"{STATES[item.status.state].icon} {stage}{', '.join(what)}")
    with how_far:
        if item.status.state == "running":
            _bar(item)
        else:
            st.caption(f"queued {ago(item.job.created)}")
    with (
        stop,
        st.popover("Stop", icon=":material/stop_circle:", disabled=item.stopping, key=f"runs_stop_{item.job.id}"),
    ):
        _ask_to_stop(item)


def _ask_to_stop(item: QueueItem) -> None:
    st.markdown("Stop it? A run keeps its last checkpoint and can be resumed." if item.job.run else "Stop it?")
    st.button(
        "Yes, stop", key=f"runs_stop_yes_{item.job.id}", type="primary", on_click=stop, args=(item.job.id, item.title)
    )


def stop(job_id: str, title: str) -> None:
    """Ask a job, and what follows it in its run, to end. Asking twice does no more than asking once."""
    jobs = state.jobs()
    try:
        job = jobs.get(job_id)
        folder = state.workspace().runs / (job.run or "")
        if is_part_of_run(job) and folder.is_dir():
            Runs(state.workspace()).cancel(Run(folder))
        else:
            jobs.request_cancel(job)
    except MixcptError as problem:  # a callback's error would not reach the page's own handling
        st.toast(plain(problem), icon=":material/info:")
    else:
        st.toast(f"Stopping {plain(title)}.", icon=":material/stop_circle:")


# ---- one run ---------------------------------------------------------------------------------------------------------


def run_panel(run: RunSummary) -> None:
    """How far a run is and what it reached, live until it has ended."""
    _live(_figures, FIGURES_SECONDS, run)


def curves_panel(run: RunSummary) -> None:
    """The curves of a run, live until it has ended."""
    _live(_curves, CURVES_SECONDS, run)


def log_panel(run: RunSummary) -> None:
    """The end of a run's log, live until it has ended."""
    _live(_log, QUEUE_SECONDS, run)


def _live(draw: Callable[[RunSummary], None], seconds: float, shown: RunSummary) -> None:
    def draw_now(id: str) -> None:
        now = summary(state.workspace(), id)
        if now is None or (now.state, now.kind) != (shown.state, shown.kind):
            st.rerun()  # deleted, or on to its next state: the rest of the page is out of date
            return
        try:
            draw(now)
        except MixcptError as problem:  # a fragment that redraws itself is out of reach of the frame's own handling
            show.error(problem)

    draw_now.__name__ = draw.__name__  # what Streamlit knows a fragment by
    st.fragment(draw_now, run_every=seconds if shown.state in MOVING else None)(shown.id)


def _figures(now: RunSummary) -> None:
    run = Run(state.workspace().runs / now.id)
    if now.state in MOVING:
        st.progress(now.progress or 0.0, text=_doing(now))
    with st.container(border=True):
        for place, tile in zip([*st.columns(5), *st.columns(5)], tiles(now, run), strict=True):
            label, value, help = tile
            place.metric(label, value, help=help)


def _doing(now: RunSummary) -> str:
    if now.state == "queued":
        return "waiting for its turn"
    return f"{work(now.kind)}: {plain(now.message)}" if now.message else work(now.kind)


FIGURES: dict[str, Callable[[Run], go.Figure]] = {
    "chain": lambda run: charts.chain(links(run)),
    "rewards": lambda run: charts.rewards(run.losses()),
    "preferred": lambda run: charts.preferred(run.losses()),
    "forgetting_curve": lambda run: charts.forgetting_curve(run.curve()),
    "losses": lambda run: charts.losses(run.losses()),
    "learning_rate": lambda run: charts.learning_rate(run.losses()),
    "speed": lambda run: charts.speed(run.losses()),
    "memory": lambda run: charts.memory(run.losses()),
}


@lru_cache(100)
def _figure(name: str, folder: Path, metrics: Stamp) -> go.Figure:
    """Made anew only when the metrics have changed: drawing them takes longer than all the rest of the page."""
    return FIGURES[name](Run(folder))


def _curves(now: RunSummary) -> None:
    if now.state in MOVING and not Run(state.workspace().runs / now.id).losses():
        first = "The base model is being measured first; the" if now.state == "running" else "The"
        st.caption(f"{first} curves begin with the first step.")
        return
    if now.parent:
        _whole_chain(now)
    _chart(now, "In this stage" if now.parent else "Gained and forgotten", "forgetting_curve")
    st.caption("Measured on texts that the model never trains on. Lower is better; dotted lines are the base model.")
    if now.stage == "dpo":
        _pair(now, ("Rewards", "rewards"), ("Pairs in the right order", "preferred"))
        st.caption(
            "A reward is how much likelier an answer became than it is under the reference, in nats times beta. What "
            "counts is the margin between the two; where both fall, the model forgets how to answer at all."
        )
    _pair(now, ("Loss", "losses"), ("Speed", "speed"))
    _pair(now, ("Learning rate", "learning_rate"), ("Memory", "memory"))


def _whole_chain(now: RunSummary) -> None:
    try:
        _chart(now, "Over the whole chain", "chain")
    except NotFound as problem:  # an ancestor was deleted by hand; the run's own curves are there all the same
        st.caption(plain(problem))
        return
    st.caption(
        "From the base through every stage, over all tokens that were read. Lower is better; dotted lines are the base "
        "model."
    )


def _pair(now: RunSummary, *pair: tuple[str, str]) -> None:
    """Two charts side by side."""
    for place, (title, name) in zip(st.columns(2, gap="medium"), pair, strict=True):
        with place:
            _chart(now, title, name)


def _chart(now: RunSummary, title: str, name: str) -> None:
    """With every new point it is another chart to Streamlit, which draws what one was first given and nothing later."""
    run = Run(state.workspace().runs / now.id)
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(title, anchor=False, width="content")
        pin_button(now.experiment, name, [now.id], key=f"runs_pin_{name}")
    figure = _figure(name, run.folder, stamp(str(run.metrics)))
    show.chart(figure, key=f"runs_chart_{name}_{now.id}")


def _log(now: RunSummary) -> None:
    jobs = [job for job, _ in state.jobs().snapshot() if job.run == now.id and job.log.exists()]
    if not jobs:
        st.caption("There is no log: this run was recorded elsewhere, or has not started yet.")
        return
    kinds = {job.kind: job for job in jobs}  # of each kind the latest
    chosen = st.segmented_control(
        "Log of", list(kinds), default=jobs[-1].kind, format_func=work, required=True, key="runs_log_kind"
    )
    shown = kinds.get(chosen, jobs[-1])
    lines = shown.tail(LOG_LINES)
    with st.container(height=420, autoscroll=True):
        st.code(printable("\n".join(lines)) or "Nothing was printed yet.", language=None, wrap_lines=True)
