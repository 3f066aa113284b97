"""The page Studies: choosing, what it takes, starting, how it stands, what it claims."""

import pytest
from made import made_run, open_page, stage_of, texts
from streamlit.testing.v1 import AppTest

from mixcpt.corpus import ingest_records
from mixcpt.jobs import Jobs
from mixcpt.records import Record
from mixcpt.settings import override
from mixcpt.stages import Stage
from mixcpt.studies import Study, make, save, studies
from mixcpt.study_kinds import KINDS, Choice
from mixcpt.study_runs import job_of, submit
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


def said(app: AppTest) -> str:
    return texts(app).replace("\\", "").replace("**", "")


def begun(studio: Workspace, seeds: int = 3, finished: int = 3) -> Study:
    """LSSD off and on under some seeds, of which so many are done: on forgets less by 0.2, 0.3, 0.4 times 0.950213."""
    study = make(studio, "lssd", Choice(seeds=list(range(seeds)), tune=False), name="mine")
    save(studio, study)
    held: Stage = override(stage_of(), {"objective.retention": "none"})
    for seed in range(finished):
        made_run(studio, experiment="mine", arm="LSSD off", seed=seed, forgetting=0.5, stage=held)
        made_run(studio, experiment="mine", arm="LSSD on", seed=seed, forgetting=0.3 - 0.1 * seed)
    return study


def test_a_study_of_several_corpora_needs_a_second(studio: Workspace, tiny_tokenizer: TextTokenizer) -> None:
    app = open_page("studies")
    app.button(key="study_choose_chain").click().run()
    assert not app.exception and "learns one corpus after another: name at least two" in said(app)
    for name in ("wells", "laws"):
        records = [Record(kind="documents", text=f"{name} {number}", file="test") for number in range(30)]
        ingest_records(studio, name, records, files=[], tokenizer=tiny_tokenizer)
    app = open_page("studies")
    app.button(key="study_choose_chain").click().run()
    first = app.selectbox(key="study_corpus").value
    app.multiselect(key=f"study_then_{first}").set_value(["builtin/atlas"]).run()
    assert not app.exception and app.metric[0].value == "6"
    app.button(key="study_start").click().run()
    (study,) = studies(studio)
    assert study.choice.corpora == [first, "builtin/atlas"] and f"{first} → builtin/atlas" in said(app)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not KINDS[kind].several_corpora])
def test_every_study_can_be_chosen_and_says_what_it_takes(studio: Workspace, kind: str) -> None:
    app = open_page("studies")
    assert not app.exception
    if kind != "mix-cpt":
        app.button(key=f"study_choose_{kind}").click().run()
    assert not app.exception and f"#### {KINDS[kind].question}" in said(app)
    study = make(studio, kind, Choice(models=["smollm2-135m", "gemma-3-270m"] if KINDS[kind].several_models else ["a"]))
    table = next(frame.value for frame in app.dataframe if "Arm" in frame.value)
    assert list(table["Arm"]) == study.arms
    assert app.metric[0].value == str(3 * len(study.arms))
    assert "is taken: 0.05 bits per byte" in said(app)


def test_every_field_reaches_the_study_and_it_starts_once(studio: Workspace) -> None:
    app = open_page("studies")
    app.button(key="study_choose_lssd").click().run()
    app.number_input(key="study_seeds").set_value(2).run()
    app.number_input(key="study_tokens").set_value(3000).run()
    app.toggle(key="study_tune").set_value(False).run()
    app.number_input(key="study_measured").set_value(1500).run()
    app.selectbox(key="study_model").set_value("smollm2-135m").run()
    app.selectbox(key="study_corpus").set_value("builtin/atlas").run()
    app.text_input(key="study_name_lssd-atlas").set_value("first").run()
    app.button(key="study_start").click().run()
    (study,) = studies(studio)
    assert (study.name, study.kind) == ("first", "lssd")
    assert study.choice == Choice(tokens=3000, seeds=[0, 1], tune=False, measured=1500) and study.measured == 1500
    (job,) = [job for job in Jobs(studio).all() if job.kind == "study"]
    assert job.payload == {"study": "first"} and job.state == "queued"
    assert not app.exception and "0 of 4 runs done" in "".join(str(one.proto) for one in app.get("progress"))


def test_one_seed_is_warned_of_and_a_taken_name_is_refused(studio: Workspace) -> None:
    begun(studio)
    app = open_page("studies")
    app.button(key="study_choose_lssd").click().run()
    app.number_input(key="study_seeds").set_value(1).run()
    assert "With one seed nothing can be told" in said(app)
    app.text_input(key="study_name_lssd-atlas").set_value("mine").run()
    app.button(key="study_start").click().run()
    assert "a study 'mine' already, of another choice" in app.toast[0].value.replace("\\", "")
    assert len(studies(studio)) == 1


def test_what_was_begun_is_listed_with_how_far_it_is(studio: Workspace) -> None:
    begun(studio, finished=2)
    app = open_page("studies")
    assert "4 of 6 runs done" in said(app)
    app.button(key="study_open_mine").click().run()
    assert not app.exception and app.query_params["study"] in ("mine", ["mine"])


def test_a_study_shows_its_grid_its_claims_and_all_points(studio: Workspace) -> None:
    begun(studio)
    app = open_page("studies", study="mine")
    assert not app.exception
    assert "LSSD on forgets 0.29 bits per byte less than LSSD off (95 % 0.05 to 0.52, 3 seeds)." in said(app)
    assert len([button for button in app.button if str(button.key).startswith("study_cell_")]) == 6
    table = next(frame.value for frame in app.dataframe if "title" in frame.value)
    assert list(table["title"]) == ["LSSD off", "LSSD on"]
    assert len(app.get("plotly_chart")) == 2
    assert not [button for button in app.button if button.key in ("study_stop", "study_go_on")]
    app.button(key="study_claims_card_0").click().run()
    assert any(code.value == "mixcpt study report mine" for code in app.code)


def test_a_study_is_started_stopped_and_taken_up(studio: Workspace) -> None:
    study = begun(studio, finished=1)
    app = open_page("studies", study="mine")
    app.button(key="study_go_on").click().run()
    job = job_of(studio, "mine")
    assert job is not None and job.state == "queued"
    app.button(key="study_stop").click().run()
    assert job.state == "cancelled" and submit(studio, study).id == job.id
    job.update(state="failed", message="2 of 6 runs of mine did not end well.")
    app = open_page("studies", study="mine")
    assert "2 of 6 runs of mine did not end well." in said(app)
    app.button(key="study_go_on").click().run()
    assert job.state == "queued" and not app.exception


def test_before_the_first_run_is_done_nothing_is_claimed(studio: Workspace) -> None:
    begun(studio, finished=0)
    app = open_page("studies", study="mine")
    assert not app.exception and "Claims appear here" in said(app)
    gone = open_page("studies", study="gone")
    assert not gone.exception and "no study 'gone': take one of mine" in said(gone)
