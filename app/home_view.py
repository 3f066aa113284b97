"""The cards of the home page."""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from app import show, state
from app.panels import STATES
from app.words import ago, count, plain, signed
from mixcpt import charts, recorded
from mixcpt.comparison import rows_of
from mixcpt.corpus import corpus_names
from mixcpt.drafts import Draft, Drafts, default_stage
from mixcpt.errors import MixcptError, NotFound
from mixcpt.launching import launch_draft
from mixcpt.modelstore import is_there
from mixcpt.outlook import estimate_at_once
from mixcpt.overview import DAMAGED, RunSummary
from mixcpt.palette import STAGE_NAMES
from mixcpt.workspace import new_id

CORPORA, MIXTURE, LAUNCH = "../pages/corpora.py", "../pages/mixture.py", "../pages/launch.py"
SELECTION, ALIGN, TALK = "../pages/selection.py", "../pages/align.py", "../pages/talk.py"
RUNS, COMPARE, NOTEBOOK = "../pages/runs.py", "../pages/compare.py", "../pages/notebook.py"
_RECENT = 5
_ACROSS = 3
"""Steps in a row."""


def recorded_experiment(runs: Sequence[RunSummary]) -> None:
    """The recorded runs on the plane of gain against forgetting, and the way into them."""
    mine = [run.id for run in runs if run.experiment == recorded.EXPERIMENT]
    with st.container(border=True):
        st.subheader("An experiment to explore: does it forget?", anchor=False)
        if not mine:
            st.markdown("The recorded experiment was deleted from this workspace.")
            if st.button("Bring it back", key="home_recorded", icon=":material/history:"):
                recorded.add(state.workspace())
                st.rerun()
            return
        st.markdown(
            f"{len(mine)} real runs, recorded on two processor cores: the same small model learned the atlas of a "
            "country that does not exist, each time in another way. **Higher** is more learned of the field, "
            "**further right** is more general language forgotten."
        )
        rows, _ = rows_of(state.workspace(), mine)
        ends = [{**row, "curve": []} for row in rows]  # their ways are for Compare
        show.chart(charts.plane(ends), key="home_plane")
        query = {"runs": ",".join(mine)}
        st.page_link(COMPARE, label="Explore these runs", icon=":material/arrow_forward:", query_params=query)


def quick_run() -> None:
    """One click from nothing to a run of one's own."""
    with st.container(border=True):
        st.subheader("Your own first run", anchor=False)
        st.markdown("Take the built-in model through the same atlas and watch what it learns and what it forgets.")
        st.caption(_quick_needs())
        if st.button("Start a quick run", key="home_quick", type="primary", icon=":material/play_arrow:"):
            run = launch_draft(state.workspace(), _quick_draft())
            st.switch_page(RUNS, query_params={"run": run.id})
        else:
            st.session_state["home_draft"] = new_id("draft")


def _quick_draft() -> Draft:
    """The same for every click until the page is drawn again without one, so that a double click starts one run."""
    drafts = Drafts(state.workspace())
    draft = Draft(id=st.session_state["home_draft"], experiment="quick", stage=default_stage())
    try:
        drafts.get(draft.id)
    except NotFound:
        drafts.save(draft)
    return draft


def _quick_needs() -> str:
    try:
        needed = estimate_at_once(state.workspace(), default_stage())
    except MixcptError as problem:
        return plain(problem)
    if needed:
        return f"It needs {plain(needed.words())}."
    if is_there(state.workspace(), default_stage().model.name):
        return "Time and memory are told as soon as this machine was looked at."
    return "The first start also fetches the model, 93 MB."


def machine_card() -> None:
    with st.container(border=True):
        st.subheader("This machine", anchor=False)
        _machine()


_HELD = {
    "fp32": "32 bits (fp32), which this processor computes fastest",
    "bf16": "16 bits (bf16), which suits this machine best",
    "nf4": "4 bits (QLoRA), which saves the most memory",
}


@st.fragment(run_every=5)
def _machine() -> None:
    """Free memory moves, and the first look at the machine is a job that ends some time."""
    found = state.machine()
    if found is None:
        st.markdown(":material/hourglass_top: Looking at it; this takes about ten seconds, once.")
        return
    gpu = found.cuda
    rows = [
        ("Processor", f"{found.cores} cores, {found.cpu}"),
        ("Memory", f"{found.memory_available_gb:.0f} of {found.memory_gb:.0f} GB free"),
        ("GPU", f"{gpu.name}, {gpu.memory_free_gb:.0f} of {gpu.memory_gb:.0f} GB free" if gpu else "none"),
        ("Disk", f"{found.disk_free_gb:.0f} GB free"),
    ]
    st.markdown("  \n".join(f"**{name}**  {plain(words)}" for name, words in rows))
    words = f"Models are held in {_HELD[found.precision]}."
    st.caption(words, help=plain(f"{found.why[:1].upper()}{found.why[1:]}."))


@dataclass(frozen=True)
class _Step:
    page: str
    icon: str
    label: str
    words: str


_STEPS = (
    _Step(CORPORA, "library_books", "Bring documents", "Text, tables or archives of your field become a corpus."),
    _Step(MIXTURE, "blender", "Mix", "How much general text goes with them; see each row the model will read."),
    _Step(LAUNCH, "rocket_launch", "Launch", "An objective and a budget; memory and time are estimated beforehand."),
    _Step(RUNS, "monitoring", "Watch", "The loss, and the forgetting curve as it is measured."),
    _Step(SELECTION, "checklist", "Select samples", "A few that your model finds easy, chosen by scores and by eye."),
    _Step(ALIGN, "model_training", "Align", "SFT, then DPO: how to answer, from those samples."),
    _Step(TALK, "forum", "Talk", "Ask the base and what came of it, side by side."),
    _Step(COMPARE, "compare_arrows", "Compare", "What was gained, what was lost, and which setting did it."),
    _Step(NOTEBOOK, "menu_book", "Tell the story", "A journal that writes itself, with your notes, to take along."),
)


def next_steps(runs: Sequence[RunSummary]) -> None:
    """The way from documents to an aligned model and findings; what was done already is ticked."""
    own = [run for run in runs if not run.recorded]
    has_corpus = any(not name.startswith("builtin-") for name in corpus_names(state.workspace()))
    ended = {run.stage for run in own if run.state == "done"}
    done = {CORPORA: has_corpus, LAUNCH: bool(own), RUNS: bool(ended), ALIGN: bool(ended - {"cpt"})}
    st.subheader("What to do next", anchor=False)
    columns = [column for _ in range(len(_STEPS) // _ACROSS) for column in st.columns(_ACROSS)]
    for number, (column, step) in enumerate(zip(columns, _STEPS, strict=True), 1):
        icon = "check_circle" if done.get(step.page) else step.icon
        with column.container(border=True, height="stretch"):
            st.page_link(step.page, label=f"**{number}. {step.label}**", icon=f":material/{icon}:")
            st.caption(step.words)


def recent_runs(runs: Sequence[RunSummary]) -> None:
    own = [run for run in runs if not run.recorded][:_RECENT]
    if not own:
        return
    st.subheader("Recent runs", anchor=False)
    for run in own:
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.page_link(RUNS, label=plain(run.title), query_params={"run": run.id}, width="stretch")
            if run.state == DAMAGED:
                st.caption(plain(run.message))
                continue
            about = [STAGE_NAMES.get(run.stage, run.stage), run.experiment, STATES[run.state].word]
            st.caption(f"{plain(' · '.join(about))} · {count(run.tokens)} tokens · {ago(run.created)}")
            if run.domain_gain is not None and run.forgetting is not None:
                st.caption(
                    f"gain {signed(run.domain_gain)}, forgetting {signed(run.forgetting)}",
                    help="Bits per byte. Gain above 0: better in the field. Forgetting above 0: worse in general.",
                )
