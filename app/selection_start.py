"""The form that orders a scoring, and how the orders stand."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from app import show, state
from app.watching import cancel
from app.words import ago, count, moment, plain, printable
from mixcpt import score_jobs
from mixcpt.builtin import find_source
from mixcpt.errors import BadInput, MixcptError
from mixcpt.estimate import minutes
from mixcpt.jobs import LIVE, Job, Status
from mixcpt.launching import local_models
from mixcpt.modelstore import find_folder
from mixcpt.overview import RunSummary
from mixcpt.palette import KIND_WORDS
from mixcpt.records import Message
from mixcpt.runs import Run
from mixcpt.score_jobs import NO_TEMPLATE, ScoreOrder
from mixcpt.scores import list_tables
from mixcpt.settings import validate
from mixcpt.templates import NAMED, OWN, ChatTemplate, named_template
from mixcpt.tokens import TextTokenizer

CORPORA, LAUNCH = "../pages/corpora.py", "../pages/launch.py"
SOURCE, UNDER, TEMPLATE = "source", "under", "template"
"""What the form keeps in the address."""
_FORMS = {"template": "with template", "plain": "plain text", "alone": "answer alone"}
_PROBLEM = "selection_start_problem"
_TELLING = 0.05
"""Share of a scoring from which its time is told."""
_EXAMPLE = (
    Message("user", "What grinds corn?"),
    Message("assistant", "A mill does."),
)


def introduction() -> None:
    st.markdown(
        "Stage two teaches the **format**: how to answer, and when to stop. A few samples are enough, and those that "
        "the model already finds **easy** teach the format without new facts. Score samples with the model, choose by "
        "the score, look at what you chose, and train on it."
    )


def form() -> None:
    """One button queues one `score` job."""
    workspace = state.workspace()
    runs = score_jobs.scorers(workspace)
    bases = score_jobs.bases(workspace, local_models(workspace))
    wanted = UNDER in st.query_params or not list_tables(workspace)  # sent here to score, or nothing else to see yet
    with st.expander("Score samples", expanded=wanted, icon=":material/speed:", key="selection_start"):
        if not runs and not bases:
            show.empty(
                "No model is here yet",
                "Samples are scored by a model. Launch fetches the built-in one.",
                page=LAUNCH,
                label="Go to launch",
                icon=":material/rocket_launch:",
            )
            return
        left, middle, right = st.columns([3, 4, 3])
        with left:
            source = _source()
        with middle:
            under = _under(runs, bases)
        with right:
            template = _template(under)
        options = _options(source, under)
        order = _order(source, under, template, options)
        _read_as(source, under, template, options)
        _button(order)


# ---- the fields ------------------------------------------------------------------------------------------------------


def _kept(name: str, options: Sequence[str], default: str | None) -> str:
    """The key of a choice that stands in the address; its value is seen to be one of the options."""
    key = f"selection_{name}"
    chosen = st.session_state.get(key, st.query_params.get(name))
    st.session_state[key] = chosen if chosen in options else default
    return key


def _keep(name: str) -> None:
    st.query_params[name] = st.session_state[f"selection_{name}"]


def _source() -> str:
    known = score_jobs.sources(state.workspace())
    can = [name for name, kind in known.items() if kind != "documents"]
    cannot = [name for name, kind in known.items() if kind == "documents" and not name.startswith("builtin/")]
    source = st.selectbox(
        "Source",
        can,
        format_func=lambda name: printable(f"{name} ({KIND_WORDS[known[name]]})"),
        key=_kept(SOURCE, can, can[0]),
        on_change=partial(_keep, SOURCE),
        help="Instructions are for fine-tuning (SFT), preference pairs for preference training (DPO). Add your own on "
        "the page Corpora.",
    )
    if cannot:
        some = ", ".join(cannot[:3]) + (", …" if len(cannot) > 3 else "")
        st.caption(plain(f"Documents have no answers to score: {some}."))
    return source


def _under(runs: list[RunSummary], bases: list[str]) -> str:
    """The id of a run or the name of a base; a run's id never looks like a model's name."""
    by_id = {run.id: run for run in runs}

    def words(option: str) -> str:
        run = by_id.get(option)
        return printable(f"{run.title} ({run.stage}, {ago(run.created)})" if run else f"{option} (base)")

    options = [*by_id, *bases]
    return st.selectbox(
        "Under which model",
        options,
        format_func=words,
        key=_kept(UNDER, options, options[0]),
        on_change=partial(_keep, UNDER),
        help="What is easy depends on who is asked. The paper asks the model after the knowledge stage: take the run "
        "that you want to go on with. The base is there to compare.",
    )


def _template(under: str) -> str | None:
    """The chosen template; None where the model brings none and none was chosen yet."""
    own = _own(under)
    options = [*([OWN] if own else []), *NAMED, NO_TEMPLATE]
    words = {OWN: "the model's own", NO_TEMPLATE: "none: plain text only"}
    template = st.selectbox(
        "Chat template",
        options,
        index=0 if own else None,
        format_func=lambda name: words.get(name, name),
        key=_kept(TEMPLATE, options, OWN if own else None),
        on_change=partial(_keep, TEMPLATE),
        placeholder="choose one",
        help="How a conversation is written for the model: marks for who speaks and where an answer ends. Training "
        "uses the same one later.",
    )
    if template is None:
        st.caption("This model brings no chat template: choose the one it shall learn.")
    return template


def _own(under: str) -> str | None:
    try:
        return score_jobs.own_template(state.workspace(), _asked(under))
    except MixcptError:  # the run was deleted just now: the order says so
        return None


def _asked(under: str) -> ScoreOrder:
    return ScoreOrder(**_model(under))


def _model(under: str) -> dict[str, Any]:
    is_run = (state.workspace().runs / Path(under).name / "run.json").is_file()
    return {"run": under} if is_run else {"model": {"name": under}}


def _options(source: str, under: str) -> dict[str, Any]:
    pairs = score_jobs.sources(state.workspace()).get(source) == "preferences"
    with st.expander("More options", key="selection_more"):
        places = st.columns([2, 2, 3])
        limit = places[0].number_input(
            "Samples at most",
            min_value=1,
            value=None,
            step=100,
            key="selection_limit",
            persist_state="session",
            placeholder="all",
            help=_help("limit"),
        )
        longest = places[1].number_input(
            "Longest sample (tokens)",
            min_value=16,
            value=ScoreOrder().max_tokens,
            step=256,
            key="selection_longest",
            persist_state="session",
            help=_help("max_tokens"),
        )
        options = {"limit": limit, "max_tokens": longest}
        if pairs and "run" in _model(under):
            beta = places[2].number_input(
                "Beta",
                min_value=0.01,
                max_value=10.0,
                value=0.1,
                key="selection_beta",
                persist_state="session",
                help=_help("beta"),
            )
            return options | {"beta": beta}
        if not pairs:
            what = places[2].multiselect(
                "Read",
                list(_FORMS),
                default=list(_FORMS),
                format_func=_FORMS.__getitem__,
                key="selection_what",
                persist_state="session",
                help="Each sample is read once in each of these ways; fewer are faster and give fewer scores.",
            )
            return options | {"what": what}
        return options


def _help(name: str) -> str:
    return plain(ScoreOrder.model_fields[name].description)


def _order(source: str, under: str, template: str | None, options: dict[str, Any]) -> ScoreOrder | MixcptError:
    """The order as it stands in the form, or why it is none."""
    if template is None:
        return BadInput("Choose a chat template first, or none for plain text only.")
    try:
        wanted = {"source": source, "template": template, **_model(under), **options}
        order = validate(ScoreOrder, wanted, "this form")
        score_jobs.check(state.workspace(), order)
    except MixcptError as problem:
        return problem
    return order


def _button(order: ScoreOrder | MixcptError) -> None:
    problem, wanted = (order, None) if isinstance(order, MixcptError) else (None, order)
    st.button(
        "Score",
        key="selection_score_go",
        type="primary",
        icon=":material/speed:",
        disabled=wanted is None,
        on_click=partial(_submit, wanted) if wanted else None,
        help="Puts the scoring into the queue. What was scored before is not scored again.",
    )
    if problem:
        st.caption(plain(problem))
    elif said := st.session_state.pop(_PROBLEM, None):
        show.error(said)


def _submit(order: ScoreOrder) -> None:
    try:
        job = score_jobs.submit(state.workspace(), order)
    except MixcptError as problem:
        st.session_state[_PROBLEM] = problem
    else:
        st.toast(f"{plain(job.label)} is in the queue.", icon=":material/speed:")


# ---- what will be read -----------------------------------------------------------------------------------------------


@st.cache_data(max_entries=64, show_spinner=False)
def _rendered(folder: str, template: str, source: str) -> str:
    """A short conversation as the model reads it."""
    chat = ChatTemplate(Path(folder), source, template)
    return chat.tokenizer.decode(chat.render(_EXAMPLE).ids.tolist())


def _read_as(source: str, under: str, template: str | None, options: dict[str, Any]) -> None:
    """How much is read, and what a conversation looks like under the template."""
    st.caption(_how_much(source, options))
    folder = _folder(under)
    if template in (None, NO_TEMPLATE) or folder is None:
        return
    own = _own(under) if template == OWN else None
    try:
        jinja = own or named_template(str(template), TextTokenizer.from_folder(folder))
        shown = _rendered(str(folder), str(template), jinja)
    except MixcptError as problem:
        st.caption(plain(problem))
        return
    with st.expander("What a conversation looks like under this template", key="selection_example"):
        st.code(printable(shown), language=None, wrap_lines=True)


def _folder(under: str) -> Path | None:
    asked = _model(under)
    run = Run(state.workspace().runs / under) if "run" in asked else None
    return find_folder(state.workspace(), run.config.model.name if run else under)


def _how_much(source: str, options: dict[str, Any]) -> str:
    try:
        corpus = find_source(state.workspace(), source)
    except MixcptError as problem:
        return plain(problem)
    if corpus is None:
        return "This built-in source is made when it is first scored."
    train = corpus.manifest.split.train
    ways = len(options.get("what", ())) or 1
    again = f", read {ways} times" if ways > 1 else ""
    wanted = f" Of these {count(options['limit'])} are drawn." if options["limit"] else ""
    return (
        f"{count(train.documents)} samples with {count(train.tokens)} tokens{again}; what is held out is no candidate."
        f"{wanted}"
    )


# ---- how the orders stand --------------------------------------------------------------------------------------------


def progress() -> None:
    """Orders that wait or run, redrawn by itself; when the list of scores changes, the page is drawn anew."""
    busy = any(status.state in LIVE for _, status in score_jobs.under_way(state.workspace()))
    drawn = _there()

    @st.fragment(run_every=1.0 if busy else 4.0)
    def selection_progress() -> None:
        if _there() != drawn:
            st.rerun()
        for job, status in score_jobs.under_way(state.workspace()):
            _one(job, status)

    selection_progress()


def _there() -> list[tuple[str, str]]:
    return [(info["id"], info["created"]) for info in list_tables(state.workspace())]


def _one(job: Job, status: Status) -> None:
    with st.container(border=True):
        words, first, second = st.columns([6, 1, 1], vertical_alignment="center")
        if status.state in LIVE:
            message = plain(status.message) or "Waiting for its turn"
            words.progress(status.progress or 0.0, text=f"**{plain(job.label)}** · {message}{_left(status)}")
            second.button(
                "Cancel", key=f"selection_cancel_{job.id}", on_click=cancel, args=([job],), width="stretch",
                help="What was scored so far is kept, and not scored again.",
            )  # fmt: skip
            return
        icon = ":material/error:" if status.state == "failed" else ":material/cancel:"
        words.markdown(f"{icon} **{plain(job.label)}** was not scored. {plain(status.message)}")
        first.button("Try again", key=f"selection_again_{job.id}", on_click=_again, args=(job,), width="stretch")
        second.button(
            "Discard", key=f"selection_discard_{job.id}", on_click=_discard, args=(job,), width="stretch",
            help="Takes this message away.",
        )  # fmt: skip


def _left(status: Status) -> str:
    """How long it will still take, from what it took so far; empty while that says little."""
    if not status.started or not status.progress or status.progress < _TELLING:
        return ""
    took = (datetime.now(UTC) - moment(status.started)).total_seconds()
    return f" · about {minutes(took * (1 - status.progress) / status.progress)} left"


@show.told
def _again(job: Job) -> None:
    score_jobs.again(state.workspace(), job)


@show.told
def _discard(job: Job) -> None:
    score_jobs.put_aside(state.workspace(), job)
