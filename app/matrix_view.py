"""Over several adaptations: what every stage of a run's chain did to every corpus of it, and to general text."""

from functools import partial

import streamlit as st

from app import measures_view, show, state
from app.pins import pin_button
from app.words import plain
from mixcpt import charts, matrix, measured
from mixcpt.errors import NotFound
from mixcpt.matrix import Matrix
from mixcpt.runs import Run

_HELP = (
    "Backward transfer: what later stages did to the corpora before them, below 0 is forgetting. Forward transfer: how "
    "much better a corpus was read before it was learned, thanks to those before it. Forgetting: what was lost of each "
    "corpus since the stage after which it was read best. Lopez-Paz and Ranzato 2017, Chaudhry et al. 2018, in bits "
    "per byte of held-out text."
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
    _ordering(run, found)
    if any(found.base(column) for column in range(len(found.columns))):
        _matrix(run, found)


def _ordering(run: Run, found: Matrix) -> None:
    """The way to fill it, in one click."""
    chain = run.chain()
    if job := measures_view.under_way(chain):
        measures_view.watch_measuring(job, key="matrix_watch")
        return
    job = measured.latest(state.workspace(), [one.id for one in chain])
    if job and job.state == "failed":
        st.error(f"The last measuring failed: {plain(job.status.message)}", icon=":material/error:")
    if not found.missing:
        return
    there = measured.runs_of(state.workspace(), found.missing)
    number = len(found.missing)
    st.markdown(
        f"{number} of the {len(chain)} runs {'was' if number == 1 else 'were'} not measured yet on every corpus of the "
        "chain. Nothing is trained for that; each text is read once by every run and by the base."
    )
    st.button(
        "Measure what is missing",
        key="matrix_measure",
        type="primary",
        icon=":material/straighten:",
        disabled=not there,
        on_click=partial(_submit, run),
        help="The held-out part of every corpus of the chain, and five kinds of general text."
        if there
        else "These runs have no adapter here any more, so they cannot be measured.",
    )


@show.told
def _submit(run: Run) -> None:
    matrix.submit(state.workspace(), [run])
    st.toast("It is in the queue.", icon=":material/straighten:")


def _matrix(run: Run, found: Matrix) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader("Every corpus after every stage", anchor=False, width="content")
        pin_button(run.info.experiment, "matrix", [run.id], key="runs_pin_matrix")
    show.chart(charts.matrix_chart(found), key=f"runs_chart_matrix_{run.id}")
    st.caption(
        "Bits per byte of held-out text, and below it the difference to the base: lower is better. Bold: the stage "
        "that had this corpus for its field. Point at a cell for its interval over documents."
    )
    said = matrix.sentences(found)
    if said:
        st.markdown("**What the stages did to each other's corpora**", help=_HELP)
        st.markdown("\n".join(f"- {plain(sentence)}" for sentence in said))
