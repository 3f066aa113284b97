"""The page of one run: what it is called, how it stands, what can be done with it, and all that it left behind."""

import re
import time

import streamlit as st

from app import (
    chain_view,
    changes_view,
    diagnosis_view,
    evaluation_view,
    export_view,
    learned_view,
    matrix_view,
    measures_view,
    panels,
    runs_list,
    show,
    state,
)
from app.panels import RUNS
from app.pins import pin_button
from app.words import ago, plain, printable, size
from mixcpt import charts, guesses, score_jobs, submission
from mixcpt.align_drafts import can_be_continued, stage_after, usual_for
from mixcpt.differences import differences
from mixcpt.drafts import EXPERIMENT, AnyDraft, Drafts
from mixcpt.errors import MixcptError
from mixcpt.jobs import MOVING
from mixcpt.overview import RunSummary, summary
from mixcpt.palette import STAGE_WORDS
from mixcpt.presets import value_words
from mixcpt.runs import Run, Runs
from mixcpt.settings import to_yaml
from mixcpt.stages import Sft, Stage

LAUNCH, SELECTION, ALIGN, TALK = (f"../pages/{page}.py" for page in ("launch", "selection", "align", "talk"))
_DIVERGED = re.compile(r"The (loss|gradient) became ")
_DOUBLE_CLICK_SECONDS = 3.0


def page(id: str) -> None:
    """The whole page of the run with this id."""
    now = summary(state.workspace(), id)
    if st.button("All runs", key="runs_all", icon=":material/arrow_back:", type="tertiary"):
        st.switch_page(RUNS)
    if now is None:
        st.error(f"There is no run {plain(id)}: it may have been deleted.", icon=":material/error:")
        return
    run = Run(state.workspace().runs / now.id)
    _heading(now)
    chain_view.chain(now)
    _actions(now, run)
    if now.state == "damaged":
        st.error(plain(now.message), icon=":material/error:")
        return
    _ending(now, run)
    if now.state == "done":
        changes_view.opening(run)
    panels.run_panel(now)
    _guess(run)
    _views(now, run)


def _heading(now: RunSummary) -> None:
    st.title(plain(now.title), anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        panels.state_badge(now.state)
        for tag in now.tags:
            panels.tag_badge(tag)
        about = [STAGE_WORDS.get(now.stage, now.stage), now.model, now.experiment, f"seed {now.seed}"]
        if now.arm and now.arm != now.title:
            about.insert(0, now.arm)
        when = f", {ago(now.created)}" if now.created else ""
        st.caption(" · ".join(plain(part) for part in about if part) + when, width="content")


def _ending(now: RunSummary, run: Run) -> None:
    """Why it stopped before its end, and what to do then."""
    if now.state == "failed":
        st.error(f"{plain(now.message)}\n\n{_remedy(now, run)}", icon=":material/error:")
    elif now.state in ("paused", "cancelled"):
        st.info(f"{plain(now.message)} {_remedy(now, run)}", icon=panels.STATES[now.state].icon)
    elif now.recorded:
        st.caption(
            ":material/history: A recorded run, shipped with the studio, without its adapter. "
            "**Clone with changes** makes one of your own."
        )


def _remedy(now: RunSummary, run: Run) -> str:
    if _DIVERGED.match(now.message):
        return "Use **Clone with changes** and lower the learning rate: the same settings would end the same way."
    if now.kind == "train" and run.checkpoints():
        return "**Resume** goes on from its last checkpoint; what it learned until then is kept."
    if now.kind == "train":
        return "**Resume** starts it again from the beginning; it had no checkpoint yet."
    return f"The training is whole. **Resume** goes on with {panels.work(now.kind)}."


# ---- actions ---------------------------------------------------------------------------------------------------------


def _actions(now: RunSummary, run: Run) -> None:
    with st.container(horizontal=True):
        if now.state in MOVING:
            with st.popover("Cancel", icon=":material/stop_circle:", key="runs_cancel"):
                st.markdown("Cancel this run? Its last checkpoint stays, and it can be resumed.")
                st.button("Yes, cancel", key="runs_cancel_yes", type="primary", on_click=_cancel, args=(run,))
            st.button("Pause", key="runs_pause", icon=":material/pause:", on_click=_pause, args=(run,))
        if now.state in ("new", *submission.STOPPED):
            st.button(
                "Resume", key="runs_resume", icon=":material/play_arrow:", type="primary", on_click=_resume, args=(run,)
            )
        _onward(now, run)
        if now.state != "damaged":
            with st.popover("Rename", icon=":material/edit:", key="runs_rename"):
                runs_list.rename_form(now)
            if st.button(
                "Clone with changes",
                key="runs_clone",
                icon=":material/content_copy:",
                help="Puts the same settings into a form, where you change what you like.",
            ):
                _clone(now, run)
            if (
                not now.recorded
                and now.state not in MOVING
                and st.button(
                    "Run again", key="runs_again", icon=":material/replay:", help="The same once more, as a new run."
                )
            ):
                _run_again(run)
        if st.button("Delete", key="runs_delete", icon=":material/delete:", disabled=now.state in MOVING):
            runs_list.confirm_delete([run.id])


def _onward(now: RunSummary, run: Run) -> None:
    """What can be done with the model that it made: ask it, let it choose samples, align it."""
    has_adapter, continued = score_jobs.has_adapter(run), can_be_continued(state.workspace(), now)
    if has_adapter and st.button(
        "Talk",
        key="runs_talk",
        icon=":material/forum:",
        help="Ask it something, beside the base and the runs that it continues.",
    ):
        st.switch_page(TALK, query_params={"run": run.id})
    if now.state == "damaged":
        return
    if (
        has_adapter
        and continued
        and st.button(
            "Choose samples with this model",
            key="runs_choose",
            icon=":material/checklist:",
            help="Scores samples by how easy they are for it: the next stage learns from the few that you choose.",
        )
    ):
        source = stage_after(state.workspace(), run).samples.source
        st.switch_page(SELECTION, query_params={"under": run.id, "source": source})
    if continued and st.button(
        "Align this run",
        key="runs_align",
        icon=":material/model_training:",
        help="SFT or DPO after it: teaches how to answer, from a few samples.",
    ):
        st.switch_page(ALIGN, query_params={"parent": now.id})
    if can_be_continued(state.workspace(), now, by="cpt") and st.button(
        "Continue on another corpus",
        key="runs_continue",
        icon=":material/library_add:",
        help="Trains its adapter on with other documents, and shows what becomes of what it has learned.",
    ):
        st.switch_page(LAUNCH, query_params={"parent": now.id})


def _tell(problem: MixcptError) -> None:
    st.toast(plain(problem), icon=":material/info:")  # a callback's error would not reach the frame's own handling


def _cancel(run: Run) -> None:
    try:
        Runs(state.workspace()).cancel(run)
    except MixcptError as problem:
        _tell(problem)
    else:
        st.toast("It ends after its present step.", icon=":material/stop_circle:")


def _pause(run: Run) -> None:
    try:
        Runs(state.workspace()).pause(run)
    except MixcptError as problem:
        _tell(problem)
    else:
        st.toast("It pauses after its present step.", icon=":material/pause:")


def _resume(run: Run) -> None:
    if _is_second_click("resume", run):
        return
    try:
        submission.resume(state.workspace(), run)
    except MixcptError as problem:
        _tell(problem)
    else:
        st.toast("It is in the queue again.", icon=":material/play_arrow:")


def _run_again(run: Run) -> None:
    if _is_second_click("again", run):
        return
    again, _ = submission.rerun(state.workspace(), run)
    st.toast("The new run is in the queue.", icon=":material/replay:")
    st.switch_page(RUNS, query_params={"run": again.id})


def _clone(now: RunSummary, run: Run) -> None:
    if _is_second_click("clone", run):
        return
    drafts, stage = Drafts(state.workspace()), run.config
    experiment = EXPERIMENT if now.recorded else now.experiment
    draft: AnyDraft
    if isinstance(stage, Stage):
        draft, page = drafts.create(stage, experiment, now.parent), LAUNCH
    else:
        draft, page = drafts.create_align(stage, now.parent, experiment), ALIGN
    st.toast("The settings are copied: change what you like, then launch.", icon=":material/content_copy:")
    st.switch_page(page, query_params={"draft": draft.id})


def _is_second_click(action: str, run: Run) -> bool:
    """A double click reaches the server as two clicks; the second one must not do the thing again."""
    key, clicked = f"runs_{action}_{run.id}", time.monotonic()
    before = st.session_state.get(key, float("-inf"))
    st.session_state[key] = clicked
    return bool(clicked - before < _DOUBLE_CLICK_SECONDS)


# ---- views -----------------------------------------------------------------------------------------------------------


def _guess(run: Run) -> None:
    if outcome := guesses.outcome(run):
        with st.container(border=True):
            st.markdown(f":material/psychology: **Your guess.** {plain(outcome.sentence)}")


def _views(now: RunSummary, run: Run) -> None:
    names = ["Curves", "Learned and lost", "Measures", "Adaptations", "What it read", "Questions", "Export", "Settings"]
    curves, learned, measures, adaptations, read, questions, export, settings, log, files = st.tabs(
        [*names, "Log", "Files"], key="runs_view", on_change="rerun", bind="query-params"
    )
    if curves.open:
        with curves:
            if now.state not in MOVING and now.state != "new":
                diagnosis_view.of_run(now, run)
            panels.curves_panel(now)
    if learned.open:
        with learned:
            changes_view.page(run)
    if measures.open:
        with measures:
            measures_view.page(run)
    if adaptations.open:
        with adaptations:
            matrix_view.page(run)
    if read.open:
        with read:
            _what_it_read(run)
    if questions.open:
        with questions:
            evaluation_view.page(run)
    if export.open:
        with export:
            export_view.export(run)
    if settings.open:
        with settings:
            _settings(run)
    if log.open:
        with log:
            panels.log_panel(now)
    if files.open:
        with files:
            _files(run)


def _what_it_read(run: Run) -> None:
    stage = run.config
    if isinstance(stage, Sft):
        return learned_view.learned(run, stage)
    mixture = run.results().get("training", {}).get("mixture")
    if not mixture:
        st.caption("What was really read is written down at the end of the training. It was asked for:")
        shares = stage.mixture.target_tokens()
        st.dataframe(
            {"Source": list(map(printable, shares)), "Tokens": list(shares.values())}, hide_index=True, width="content"
        )
        return
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader("Sources", anchor=False, width="content")
        pin_button(run.info.experiment, "shares", [run.id], key="runs_pin_shares")
    show.chart(charts.shares(mixture["sources"]), key="runs_chart_shares")
    st.caption(
        f"{mixture['tokens']:,} tokens in {mixture['rows']:,} rows, {mixture['fullness']:.0%} full. "
        "A source that is read more than once repeats its documents: the model sees the same text again."
    )
    sources = mixture["sources"]
    st.dataframe(
        {
            "Source": [printable(source["source"]) for source in sources],
            "Field": [source["domain"] for source in sources],
            "Asked for": [100 * source["requested_share"] for source in sources],
            "Read": [100 * source["realised_share"] for source in sources],
            "Tokens": [source["tokens"] for source in sources],
            "Times read": [source["epochs"] for source in sources],
            "Documents": [f"{source['documents']:,} of {source['available_documents']:,}" for source in sources],
        },
        hide_index=True,
        column_config={
            "Field": st.column_config.CheckboxColumn(help="Documents of the field to be learned."),
            "Asked for": st.column_config.NumberColumn(format="%.1f %%"),
            "Read": st.column_config.NumberColumn(format="%.1f %%"),
            "Tokens": st.column_config.NumberColumn(format="localized"),
            "Times read": st.column_config.NumberColumn(format="%.2f"),
        },
    )


def _settings(run: Run) -> None:
    stage, usual = run.config, usual_for(run)
    changed = differences(stage, usual)
    st.subheader("Other than usual", anchor=False)
    if changed:
        st.dataframe(
            {
                "Setting": [difference.label for difference in changed],
                "Here": [printable(value_words(difference.path, difference.value)) for difference in changed],
                "Usual": [printable(value_words(difference.path, difference.usual)) for difference in changed],
                "Name": [difference.path for difference in changed],
            },
            hide_index=True,
        )
    else:
        st.caption("Every setting is as a new draft has it that continues the same.")
    st.subheader("All settings", anchor=False)
    st.code(printable(to_yaml(stage)), language="yaml", height=420)


def _files(run: Run) -> None:
    st.markdown("This run lies on disk in")
    st.code(printable(str(run.folder)), language=None)
    with st.container(horizontal=True):
        for name, mime in (
            ("config.yaml", "application/yaml"),
            ("metrics.jsonl", "application/jsonl"),
            ("results.json", "application/json"),
        ):
            path = run.folder / name
            if path.is_file():
                st.download_button(
                    f"{name}, {size(path.stat().st_size)}",
                    path.read_bytes,
                    file_name=f"{run.id}-{name}",
                    mime=mime,
                    icon=":material/download:",
                    key=f"runs_download_{path.stem}",
                )
