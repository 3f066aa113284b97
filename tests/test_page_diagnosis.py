"""The diagnosis on a run's page and on Compare, and the change that becomes a draft."""

from made import made_child, made_run, open_page, stage_of, texts

from mixcpt.drafts import Drafts
from mixcpt.runs import Runs
from mixcpt.workspace import Workspace

NASTY = "<b>x</b> **y** [z](http://a)"


def test_a_run_that_forgets_offers_a_change_that_opens_launch(studio: Workspace) -> None:
    run = made_run(studio, name=NASTY, forgetting=0.4, stage=stage_of(objective__retention="none"))
    app = open_page("runs", run=run.id)
    said = texts(app).replace("\\", "")
    assert not app.exception and "**Diagnosis.** Found: catastrophic forgetting" in said
    assert "bits per byte (800 tokens on the curve, no interval)" in said
    app.button(key="runs_try_forgetting").click().run()
    assert not app.exception
    (id,) = app.query_params["draft"] if isinstance(app.query_params["draft"], list) else [app.query_params["draft"]]
    draft = Drafts(studio).get(id)
    assert draft.stage.objective.retention == "lssd" and draft.name.startswith(NASTY)  # type: ignore[union-attr]
    assert len(Runs(studio).all()) == 1, "nothing starts before it is launched"


def test_a_change_of_stage_two_opens_align(studio: Workspace) -> None:
    child = made_child(studio, made_run(studio, forgetting=0.0), forgetting=0.3)
    app = open_page("runs", run=child.id)
    app.button(key="runs_try_forgetting").click().run()
    assert not app.exception
    assert app.title[0].value == "Align"


def test_what_could_not_be_told_is_named(studio: Workspace) -> None:
    app = open_page("runs", run=made_run(studio, forgetting=0.0).id)
    said = texts(app).replace("\\", "")
    assert "Cannot tell: diverged and learned, but not usable" in said and "Ask all of the atlas" in said


def test_a_run_at_work_has_none(studio: Workspace) -> None:
    app = open_page("runs", run=made_run(studio, state="running").id)
    assert not app.exception and "Diagnosis" not in texts(app)


def test_compare_tells_it_for_each_arm(studio: Workspace) -> None:
    runs = [made_run(studio, arm="calm", seed=seed, forgetting=0.0) for seed in (0, 1)]
    runs += [
        made_run(studio, arm="wild", seed=seed, forgetting=0.4, stage=stage_of(adapter__rank=4)) for seed in (0, 1)
    ]
    app = open_page("compare", runs=",".join(run.id for run in runs))
    assert not app.exception
    (table,) = [frame.value for frame in app.dataframe if "Cannot tell" in frame.value]
    assert list(table["Arm"]) == ["calm", "wild"]
    assert list(table["Found"]) == ["no sign of failure", "catastrophic forgetting (2 of 2 seeds)"]
    assert all("learned, but not usable (2 of 2 seeds)" in words for words in table["Cannot tell"])
