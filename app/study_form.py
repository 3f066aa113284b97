"""Choosing a study: its question as a card, then corpus, model, seeds and budget, beside what it takes and can find."""

from collections.abc import Sequence

import streamlit as st

from app import show, state
from app.panels import STATES
from app.words import ago, count, plain, printable
from mixcpt.corpus import list_corpora
from mixcpt.errors import MixcptError
from mixcpt.estimate import minutes
from mixcpt.measured import TOKENS
from mixcpt.modelstore import BUILTIN_MODELS, is_there, terms_to_accept
from mixcpt.settings import validate
from mixcpt.studies import Study, grid, make, studies
from mixcpt.study_kinds import BOTH_MODELS, KINDS, Choice, Kind
from mixcpt.study_results import Power, power
from mixcpt.study_runs import Cost, cost, job_of, submit

PAGE, LAUNCH, CORPORA = "../pages/studies.py", "../pages/launch.py", "../pages/corpora.py"
_COLUMNS = 3
_KIND = "study_kind"


def begun() -> None:
    """The studies that were begun, each with how far it is."""
    there = studies(state.workspace())
    if not there:
        st.markdown(
            "A study asks one question of your own corpus: it trains several arms under several seeds, holds them "
            "against each other, and answers in sentences with an interval, or says that nothing can be told."
        )
        return
    st.subheader("Begun", anchor=False)
    for study in there[:8]:
        _line(study)
    if len(there) > 8:
        with st.expander(f"{len(there) - 8} older", key="study_older"):
            for study in there[8:]:
                _line(study)


def _line(study: Study) -> None:
    cells = [cell for line in grid(state.workspace(), study) for cell in line]
    done, job = sum(cell.state == "done" for cell in cells), job_of(state.workspace(), study.name)
    name, where, far = st.columns([4, 4, 3], vertical_alignment="center")
    if name.button(f"**{plain(study.name)}**", key=f"study_open_{study.name}", type="tertiary", help="Open this study"):
        st.switch_page(PAGE, query_params={"study": study.name})
    where.caption(f"{study.title} · {plain(' → '.join(study.choice.corpora))} · {ago(study.created)}")
    icon = STATES[job.state].icon if job and job.state != "done" else ""
    far.caption(f"{icon} {done} of {len(cells)} runs done")


def choose() -> None:
    """The shipped studies as cards, and the form of the one that is chosen."""
    st.subheader("Choose a question", anchor=False)
    chosen = st.session_state.setdefault(_KIND, next(iter(KINDS)))
    kinds = list(KINDS.values())
    for first in range(0, len(kinds), _COLUMNS):
        for place, kind in zip(st.columns(_COLUMNS, gap="small"), kinds[first : first + _COLUMNS], strict=False):
            with place.container(border=True, height="stretch"):
                _card(kind, chosen == kind.id)
    _form(KINDS[chosen])


def _card(kind: Kind, chosen: bool) -> None:
    st.markdown(f"**{kind.title}**")
    st.caption(kind.question)
    st.button(
        "Chosen" if chosen else "Choose",
        key=f"study_choose_{kind.id}",
        icon=":material/check:" if chosen else None,
        type="primary" if chosen else "secondary",
        disabled=chosen,
        on_click=_take,
        args=(kind.id,),
        width="stretch",
    )


def _take(kind: str) -> None:
    st.session_state[_KIND] = kind


def _form(kind: Kind) -> None:
    form, side = st.columns([6, 5], gap="medium")
    with form, st.container(border=True):
        st.markdown(f"#### {kind.question}")
        choice = _choice(kind)
    with side, st.container(border=True):
        try:
            study = make(state.workspace(), kind.id, choice)
        except MixcptError as problem:
            show.error(problem)
            return
        _plan(study)


def _choice(kind: Kind) -> Choice:
    own = [
        one.name
        for one in list_corpora(state.workspace())
        if one.kind == "documents" and not one.name.startswith("builtin-")
    ]
    left, right = st.columns(2)
    corpus = left.selectbox(
        "Corpus", [*own, "builtin/atlas"], key="study_corpus", format_func=printable,
        help="The field that is learned. builtin/atlas is a country that does not exist: no model knows it.",
    )  # fmt: skip
    then = _then(left, [*own, "builtin/atlas"], corpus) if kind.several_corpora else []
    left.page_link(CORPORA, label="Add a corpus", icon=":material/library_books:")
    models = _models(kind, right)
    tokens = left.number_input(
        "Budget (tokens)", min_value=256, max_value=1_000_000_000, value=12_000, step=1_000, key="study_tokens",
        help=f"What each run reads: {kind.budget}.",
    )  # fmt: skip
    left.caption(f"{kind.budget[0].upper()}{kind.budget[1:]}.")
    seeds = right.number_input(
        "Seeds", min_value=1, max_value=20, value=3, key="study_seeds",
        help="Every arm is trained once per seed. With one nothing can be told from chance; three is the least for a "
        "claim, five find differences half as large.",
    )  # fmt: skip
    tune = right.toggle(
        "Tune learning rates", value=True, key="study_tune",
        help="Short runs on a tenth of the training documents choose a rate for each objective first, so that no side "
        "is held back by a rate that suits the other. Two studies have nothing to tune.",
    )  # fmt: skip
    measured = right.number_input(
        "Measured at the end (tokens)", min_value=0, max_value=1_000_000, value=TOKENS, step=500, key="study_measured",
        help="Every finished run is measured on so much of each held-out text, never on more than it read. Half of it "
        "takes half the time and makes intervals over documents wider; 0 leaves only the measures on the way.",
    )  # fmt: skip
    given = {"corpus": corpus, "then": then, "models": models, "tokens": int(tokens), "tune": tune}
    return validate(Choice, given | {"seeds": list(range(int(seeds))), "measured": int(measured)}, "this form")


def _then(place: "st.delta_generator.DeltaGenerator", corpora: list[str], first: str) -> list[str]:
    """The corpora after the first, in the order in which they were chosen."""
    others = [name for name in corpora if name != first]
    names: list[str] = place.multiselect(
        "Then", others, default=others[:2], key=f"study_then_{first}", format_func=printable,
        placeholder="Choose one or several" if others else "Add a second corpus first",
        help="What is learned after it, one corpus after the other, in the order in which you choose them.",
    )  # fmt: skip
    return names


def _models(kind: Kind, place: "st.delta_generator.DeltaGenerator") -> list[str]:
    help = "A built-in model, or any causal language model: a hub id or a folder; type it and press Enter."
    if not kind.several_models:
        name = place.selectbox("Model", list(BUILTIN_MODELS), key="study_model", accept_new_options=True, help=help)
        return [name] if name else [BOTH_MODELS[0]]
    names: list[str] = place.multiselect(
        "Models",
        list(BUILTIN_MODELS),
        default=list(BOTH_MODELS),
        key="study_models",
        accept_new_options=True,
        help=help,
    )
    return names or list(BOTH_MODELS)


def _plan(study: Study) -> None:
    """Arms, time and what can be found; the button that starts it."""
    workspace = state.workspace()
    missing = [model for model in study.choice.models if not is_there(workspace, model)]
    terms = [model for model in missing if terms_to_accept(workspace, model)]
    needed = (
        None if missing or state.machine() is None else _cost(study.recipe.model_dump_json(), study.measured, study)
    )
    st.markdown("#### What it takes")
    seeds = len(study.choice.seeds)
    runs, time = st.columns(2)
    runs.metric("Runs", count(len(study.arms) * seeds), help=f"{len(study.arms)} arms under {seeds} seeds.")
    time.metric("Time", f"≈ {minutes(needed.total)}" if needed else "–", help=_time_help(needed))
    _arms(study, needed)
    _detectable(power(workspace, study))
    for model in terms:
        st.warning(f"**{plain(model)}** comes under terms that must be accepted once: fetch it on the page Launch.")
        st.page_link(LAUNCH, label="Open Launch", icon=":material/rocket_launch:")
    if missing and not terms:
        st.caption(f"{plain(', '.join(missing))} is fetched when the study starts; the time is known then.")
    name = st.text_input(
        "Name", value=study.name, key=f"study_name_{study.name}", max_chars=64, help="Also the name of its experiment."
    )
    st.button(
        "Start the study", key="study_start", type="primary", icon=":material/play_arrow:", width="stretch",
        disabled=bool(terms), on_click=_start, args=(study, name),
        help="Queues it and opens its page. It goes on when the browser is closed.",
    )  # fmt: skip


@st.cache_data(show_spinner="Estimating …", ttl=60, max_entries=32)
def _cost(recipe: str, measured: int, _study: Study) -> Cost | None:
    try:
        return cost(state.workspace(), _study)
    except MixcptError as problem:
        show.error(problem)
        return None


def _time_help(needed: Cost | None) -> str:
    if needed is None:
        return "Known once the model is here and this machine was measured."
    saved = f" The shared teacher cache saves {minutes(needed.saved)}." if needed.saved >= 1 else ""
    return f"Training and all measures, one run after the other.{saved} Questions come on top."


def _arms(study: Study, needed: Cost | None) -> None:
    seeds = len(study.choice.seeds)
    table: dict[str, Sequence[str]] = {"Arm": [printable(arm) for arm in study.arms]}
    if needed:
        table[f"Time for {seeds} seed{'s' if seeds > 1 else ''}"] = [minutes(needed.arms[arm]) for arm in study.arms]
    st.dataframe(table, hide_index=True, key="study_arms")
    if needed:
        parts = {"Tuning of the learning rates": needed.tuning, "Measures at the end": needed.measuring}
        st.caption(" ".join(f"{part}: {minutes(seconds)}." for part, seconds in parts.items() if seconds))


def _detectable(able: Power) -> None:
    icon = ":material/query_stats:" if able.gain is not None else ":orange[:material/warning:]"
    st.markdown(f"{icon} {plain(able.words())}")


def _start(study: Study, name: str) -> None:
    workspace = state.workspace()
    try:
        named = make(workspace, study.kind, study.choice, name.strip())
        submit(workspace, named)
    except MixcptError as problem:
        st.toast(plain(problem), icon=":material/error:")
        return
    st.query_params["study"] = named.name
