"""One study: how its arms and seeds stand, and once runs are done the table, claims, points, plane and report."""

import streamlit as st

from app import show, state
from app.claims_view import claim_list, seed_chart
from app.compare_view import differences
from app.matrix_view import arms_view
from app.panels import RUNS, STATES
from app.words import plain, printable
from mixcpt import charts, study_reports
from mixcpt.compare import Row, summarise
from mixcpt.errors import NotFound
from mixcpt.findings import cautions
from mixcpt.jobs import MOVING, Job
from mixcpt.studies import Cell, Study, grid, open_study
from mixcpt.study_reports import command_of, findings, to_html, to_markdown
from mixcpt.study_results import beside, matrices_of, pairs_of, results
from mixcpt.study_runs import job_of, stop, submit

PAGE, COMPARE, NOTEBOOK = "../pages/studies.py", "../pages/compare.py", "../pages/notebook.py"


def page(name: str) -> None:
    """The whole page of a study; where there is none of that name, the way back."""
    if st.button("All studies", key="study_back", icon=":material/arrow_back:", type="tertiary"):
        st.switch_page(PAGE)
    try:
        study = open_study(state.workspace(), name)
    except NotFound as problem:
        show.error(problem)
        return
    st.title(plain(study.name))
    st.markdown(f"**{study.title}.** {plain(study.question)}")
    choice = study.choice
    st.caption(
        f"{plain(' → '.join(choice.corpora))} · {plain(', '.join(choice.models))} · {choice.tokens:,} tokens · "
        f"{len(choice.seeds)} seeds · {'rates tuned' if study.recipe.tune else 'one rate for all'}"
    )
    _progress(study)
    _results(study)


def _progress(study: Study) -> None:
    job = job_of(state.workspace(), study.name)
    _grid(study, job.state if job else "new")


@st.fragment(run_every=2.0)
def _grid(study: Study, drawn: str) -> None:
    """Redraws itself; when the study's job is in another state than the page was drawn with, the page is drawn anew."""
    job = job_of(state.workspace(), study.name)
    now = job.state if job else "new"
    lines = grid(state.workspace(), study)
    done = sum(cell.state == "done" for line in lines for cell in line)
    if now != drawn or done != st.session_state.setdefault(f"study_done_{study.name}", done):
        st.session_state[f"study_done_{study.name}"] = done
        st.rerun()
    if done == sum(map(len, lines)) and not (job and job.state in (*MOVING, "failed")):
        with st.expander(f"{done} of {done} runs done", icon=":material/check_circle:", key="study_runs"):
            _cells(study, lines)
        return
    with st.container(border=True):
        _bar(study, job, lines)
        _cells(study, lines)


def _cells(study: Study, lines: list[list[Cell]]) -> None:
    """A line an arm, a column a seed, each the way to its run."""
    head, *columns = st.columns([3, *[2] * len(study.choice.seeds)])
    head.caption("Arm")
    for column, seed in zip(columns, study.choice.seeds, strict=True):
        column.caption(f"seed {seed}")
    for line in lines:
        head, *columns = st.columns([3, *[2] * len(line)], vertical_alignment="center")
        head.markdown(plain(line[0].arm))
        for column, cell in zip(columns, line, strict=True):
            with column:
                _cell(cell)


def _bar(study: Study, job: Job | None, lines: list[list[Cell]]) -> None:
    """How far a study is that is not finished, with what stops it or lets it go on."""
    cells = [cell for line in lines for cell in line]
    done = sum(cell.state == "done" for cell in cells)
    far, button = st.columns([6, 1], vertical_alignment="center")
    far.progress(sum(cell.progress for cell in cells) / len(cells), text=f"{done} of {len(cells)} runs done")
    if job and job.state in MOVING:
        stopping = job.requested() == "cancel"
        button.button(
            "Stopping" if stopping else "Stop", key="study_stop", icon=":material/stop_circle:", disabled=stopping,
            on_click=_stop, args=(study.name,), help="What was done is kept; Go on takes it up there.", width="stretch",
        )  # fmt: skip
        if job.status.message:
            st.caption(plain(job.status.message))
        return
    button.button(
        "Go on" if done or job else "Start", key="study_go_on", type="primary", icon=":material/play_arrow:",
        on_click=_go_on, args=(study,), width="stretch", help="Finished runs are kept, stopped ones are resumed.",
    )  # fmt: skip
    if job and job.state != "done" and job.status.message:
        (st.error if job.state == "failed" else st.info)(plain(job.status.message))


def _cell(cell: Cell) -> None:
    look = STATES[cell.state]
    if cell.run is None:
        st.caption(f"{look.icon} {look.word}")
        return
    words = f"{cell.progress:.0%}" if cell.state == "running" else look.word
    if st.button(
        f":{look.colour}[{look.icon}] {words}", key=f"study_cell_{cell.run}_{cell.arm}_{cell.seed}", type="tertiary",
        help=plain(cell.message) if cell.message else "Open this run",
    ):  # fmt: skip
        st.switch_page(RUNS, query_params={"run": cell.run})


@show.told
def _stop(name: str) -> None:
    stop(state.workspace(), name)


@show.told
def _go_on(study: Study) -> None:
    submit(state.workspace(), study)


def _results(study: Study) -> None:
    rows = results(state.workspace(), study)
    if not rows:
        st.caption("Claims appear here as soon as the first runs are done.")
        return
    arms = summarise(rows)
    pairs = pairs_of(study, arms)
    with st.container(border=True, gap="small"):
        st.subheader("What it claims", anchor=False)
        if pairs:
            claim_list(pairs, None, key="study_claims", command=command_of(study))
        else:
            st.caption("No two arms that the question is about are done yet.")
        st.caption(plain(" ".join(cautions(arms))))
    differences(arms, key="study_table")
    st.caption(plain(study_reports.measured_on(rows)))
    if other := beside(state.workspace(), study):
        st.subheader(study_reports.BESIDE, anchor=False, help=other.note)
        cells = dict(zip(other.columns, zip(*other.rows, strict=True), strict=True))
        st.dataframe({printable(head): list(map(printable, column)) for head, column in cells.items()}, hide_index=True)
    if chains := matrices_of(state.workspace(), study):
        with st.container(border=True):
            arms_view(chains, study.name, key="study_matrices", with_claims=False)
    left, right = st.columns(2, gap="medium")
    with left.container(border=True):
        st.subheader("Gain against forgetting", anchor=False, help="The best place is above and left.")
        show.chart(charts.plane(study_reports.on_plane(rows)), key="study_plane")
    with right.container(border=True):
        st.subheader("Seed by seed", anchor=False)
        _seeds(study, rows)
    _take_along(study, rows)


def _seeds(study: Study, rows: list[Row]) -> None:
    if len({row["arm"] for row in rows}) < 2:
        st.caption("Two arms are needed.")
        return
    seed_chart(rows, study.pairs, key="study_seeds", pin=False)  # a pin is drawn of what was measured while training


def _take_along(study: Study, rows: list[Row]) -> None:
    workspace = state.workspace()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            "Report as HTML", lambda: to_html(findings(workspace, study)), f"{printable(study.name)}.html",
            "text/html", key="study_html", icon=":material/description:", on_click="ignore",
            help="Question, claims, tables, charts and claim cards in one file that needs no network.",
        )  # fmt: skip
        st.download_button(
            "Report as Markdown", lambda: to_markdown(findings(workspace, study)), f"{printable(study.name)}.md",
            "text/markdown", key="study_md", icon=":material/description:", on_click="ignore",
            help="The same without charts.",
        )  # fmt: skip
        runs = ",".join(dict.fromkeys(row["run"] for row in rows))
        st.page_link(COMPARE, label="Open in Compare", icon=":material/compare_arrows:", query_params={"runs": runs})
        st.page_link(NOTEBOOK, label="Notebook", icon=":material/menu_book:", query_params={"experiment": study.name})
    st.code(f"mixcpt study run {study.name}", language="bash")
