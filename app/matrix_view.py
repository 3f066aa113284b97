"""Over several adaptations: what every stage of a run's chain did to every corpus of it, and to general text; and the
same over the seeds and arms of its experiment."""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from app import measures_view, show, state
from app.pins import pin_button
from app.words import plain
from mixcpt import charts, matrices, matrix, measured
from mixcpt.errors import NotFound
from mixcpt.matrices import ArmMatrix
from mixcpt.matrix import Matrix
from mixcpt.runs import Run

_HELP = (
    "Backward transfer: what later stages did to the corpora before them, below 0 is forgetting. Forward transfer: how "
    "much better a corpus was read before it was learned, thanks to those before it. Forgetting: what was lost of each "
    "corpus since the stage after which it was read best. Lopez-Paz and Ranzato 2017, Chaudhry et al. 2018, in bits "
    "per byte of held-out text."
)
_CELLS = (
    "Bits per byte of held-out text, and below it the difference to the base: lower is better. Last, how far answers "
    "to general prompts moved from the base's (KL, nats per token, coloured on a scale of its own). Bold: the stage "
    "that had this corpus for its field."
)


def page(run: Run) -> None:
    """The whole tab."""
    try:
        found = matrix.matrix(run)
    except NotFound as problem:  # a run of the chain was deleted by hand
        st.caption(plain(problem))
        return
    if len(found.lines) < 3:
        st.markdown(
            "This run continues none yet, so there is one adaptation only. **Continue on another corpus** trains it "
            "on, and here stands then what became of each corpus after each stage."
        )
        return
    several = matrices.beside(state.workspace(), run)
    if len(several) < 2 or _chosen(len(several)) == _ONE:
        _ordering(run.chain(), found.missing, [run])
        if any(found.base(column) for column in range(len(found.columns))):
            _matrix(run, found)
        return
    arms = matrices.arms(several)
    missing = list(dict.fromkeys(id for arm in arms for id in arm.missing))
    _ordering(list({one.id: one for end in several for one in end.chain()}.values()), missing, several)
    arms_view(arms, run.info.experiment, key="matrix_arms")


_ONE, _ALL = "This run", "All seeds and arms"


def _chosen(number: int) -> str:
    return st.segmented_control(
        "Shown", [_ONE, _ALL], default=_ONE, required=True, key="matrix_view", label_visibility="collapsed",
        help=f"{number} finished runs of this experiment learned the same corpora in the same order.",
    )  # fmt: skip


def _ordering(runs: Sequence[Run], missing: Sequence[str], ends: Sequence[Run]) -> None:
    """The way to fill it, in one click; `runs` are those of the chains that end with `ends`."""
    if job := measures_view.under_way(runs):
        measures_view.watch_measuring(job, key="matrix_watch")
        return
    job = measured.latest(state.workspace(), [one.id for one in runs])
    if job and job.state == "failed":
        st.error(f"The last measuring failed: {plain(job.status.message)}", icon=":material/error:")
    if not missing:
        return
    there = measured.runs_of(state.workspace(), missing)
    number, chains = len(missing), "the chain" if len(ends) == 1 else "their chain"
    st.markdown(
        f"{number} of the {len(runs)} runs {'was' if number == 1 else 'were'} not measured yet on every corpus of "
        f"{chains}. Nothing is trained for that; each text is read once by every run and by the base."
    )
    st.button(
        "Measure what is missing",
        key="matrix_measure",
        type="primary",
        icon=":material/straighten:",
        disabled=not there,
        on_click=partial(_submit, ends),
        help="The held-out part of every corpus of the chain, five kinds of general text, and general prompts."
        if there
        else "These runs have no adapter here any more, so they cannot be measured.",
    )


@show.told
def _submit(ends: Sequence[Run]) -> None:
    matrix.submit(state.workspace(), ends)
    st.toast("It is in the queue.", icon=":material/straighten:")


def arms_view(arms: Sequence[ArmMatrix], experiment: str, *, key: str, with_claims: bool = True) -> None:
    """The matrices of arms over their seeds, their difference where there are two, and what is said of them."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader("Every corpus after every stage, mean over seeds", anchor=False, width="content", help=_HELP)
        pin_button(experiment, "matrices", [run for arm in arms for run in arm.runs], key=f"{key}_pin")
    show.chart(charts.matrices_chart(arms), key=f"{key}_chart")
    st.caption(
        f"{_CELLS} Point at a cell for all seeds and the 95 % interval of their mean; cells are many, so some "
        "intervals leave out zero by chance."
    )
    said = [f"{arm.title}: {sentence}" for arm in arms for sentence in matrices.told(arm)]
    said += [f"{claim.sentence()}." for claim in matrices.claims_of(arms)] if with_claims else []
    if said:
        st.markdown("**What the stages did to each other's corpora**", help=_HELP)
        st.markdown("\n".join(f"- {plain(sentence)}" for sentence in said))


def _matrix(run: Run, found: Matrix) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader("Every corpus after every stage", anchor=False, width="content")
        pin_button(run.info.experiment, "matrix", [run.id], key="runs_pin_matrix")
    show.chart(charts.matrix_chart(found), key=f"runs_chart_matrix_{run.id}")
    st.caption(
        f"{_CELLS} Point at a cell for its interval over documents. Questions that every stage was asked stand side by "
        "side under Questions."
    )
    said = matrix.sentences(found)
    if said:
        st.markdown("**What the stages did to each other's corpora**", help=_HELP)
        st.markdown("\n".join(f"- {plain(sentence)}" for sentence in said))
