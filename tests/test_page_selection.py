"""The page Selection: ordering scores, choosing by a rule and by hand, looking at samples, saving, and what is gone."""

import json
import shutil
from pathlib import Path
from typing import Any

import made
import pytest
from streamlit.testing.v1 import AppTest
from test_score_jobs import with_adapter
from test_selection import INFO, SAMPLES, TABLE, rule, sample

from app import selection_losses
from mixcpt.choices import Choices
from mixcpt.corpus import ingest_records
from mixcpt.drafts import AlignDraft, Drafts
from mixcpt.errors import Busy
from mixcpt.jobs import Job, Jobs
from mixcpt.notebook import Notebook
from mixcpt.records import Message, Record
from mixcpt.scores import ScoredSample, ScoreTable
from mixcpt.selection import Selection, list_selections, open_selection
from mixcpt.shelf import delete as delete_corpus
from mixcpt.templates import NAMED
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, write_json

EVIL = "<b>x</b> **bold** $y^2$ :red[r] <|im_end|> \x1b"


def page(**query: str) -> AppTest:
    app = made.open_page("selection", **query)
    assert not app.exception, app.exception
    return app


def run(app: AppTest) -> AppTest:
    app.run()
    assert not app.exception, app.exception
    return app


def click(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click()
    return run(app)


def said(app: AppTest) -> str:
    return made.texts(app).replace("\\", "").replace("*", "")


def address(app: AppTest, name: str) -> str:
    found: Any = app.query_params[name]
    return str(found[0] if isinstance(found, list) else found)


def choice(app: AppTest, workspace: Workspace) -> Any:
    return Choices(workspace).get(address(app, "choice"))


def figures(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


def states(app: AppTest) -> list[str]:
    return [state for (state,) in samples_table(app)["State"]]


def samples_table(app: AppTest) -> Any:
    return next(frame.value for frame in app.dataframe if "State" in frame.value.columns)


# ---- ordering --------------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(
    studio: Workspace, small_corpora: Workspace, tiny_tokenizer: TextTokenizer, tiny_model_folder: Path
) -> Workspace:
    """Corpora `talk` (instructions), `field` and `world` (documents), and the tiny model, which has no template."""
    turns = [(Message("user", f"question {number}"), Message("assistant", "a")) for number in range(30)]
    talk = [Record("instructions", messages=one) for one in turns]
    ingest_records(studio, "talk", talk, files=[], tokenizer=tiny_tokenizer)
    target = studio.models / "smollm2-135m"
    shutil.copytree(tiny_model_folder, target)
    write_json(target / "mixcpt.json", {"name": "smollm2-135m", "source": "a test", "sha256": "", "licence": "none"})
    return studio


def orders(workspace: Workspace) -> list[Job]:
    return [job for job in Jobs(workspace).all() if job.kind == "score"]


def test_without_a_model_the_way_to_one_is_shown(studio: Workspace) -> None:
    app = page()
    assert "No model is here yet" in said(app) and "Nothing is scored yet" in said(app)
    assert not [button for button in app.button if button.key == "selection_score_go"]


def test_a_base_without_a_template_must_choose_one(ready: Workspace) -> None:
    app = page()
    assert app.selectbox(key="selection_template").value is None
    assert "This model brings no chat template" in said(app) and app.button(key="selection_score_go").disabled
    assert "Documents have no answers to score: field, world." in said(app)
    assert list(app.selectbox(key="selection_source").options) == [
        "builtin/instructions (instructions)",
        "builtin/preferences (preference pairs)",
        "talk (instructions)",
    ]
    app.selectbox(key="selection_source").select("talk")
    app.selectbox(key="selection_template").select("question-answer")
    run(app)
    assert "Question:\nWhat grinds corn?\n\nAnswer:\nA mill does.<eos>" in said(app)
    click(app, "selection_score_go")
    (job,) = orders(ready)
    wanted = {"source": "talk", "template": "question-answer", "run": None, "what": ["template", "plain", "alone"]}
    assert wanted.items() <= job.payload.items() and job.payload["model"]["name"] == "smollm2-135m"
    click(app, "selection_score_go")
    assert len(orders(ready)) == 1, "the same is not ordered twice"


def test_a_run_is_asked_with_every_option(ready: Workspace) -> None:
    one = with_adapter(made.made_run(ready, name=EVIL[:-2]))
    (one.adapter / "chat_template.jinja").write_text(NAMED["zephyr"])
    made.made_run(ready, state="running")
    app = page(source="talk")
    assert (
        app.selectbox(key="selection_under").value == one.id and app.selectbox(key="selection_template").value == "own"
    )
    assert len(app.selectbox(key="selection_under").options) == 2, "a run without an adapter cannot be asked"
    app.number_input(key="selection_limit").set_value(7)
    app.number_input(key="selection_longest").set_value(100)
    app.multiselect(key="selection_what").set_value(["plain"])
    click(run(app), "selection_score_go")
    (job,) = orders(ready)
    wanted = {"source": "talk", "run": one.id, "model": None, "limit": 7, "max_tokens": 100, "what": ["plain"]}
    assert wanted.items() <= job.payload.items()


def test_pairs_have_a_beta_and_no_readings(ready: Workspace) -> None:
    one = with_adapter(made.made_run(ready))
    app = page(source="builtin/preferences", under=one.id, template="chatml")
    app.number_input(key="selection_beta").set_value(0.5)
    click(run(app), "selection_score_go")
    (job,) = orders(ready)
    assert (job.payload["source"], job.payload["beta"]) == ("builtin/preferences", 0.5)
    assert not [widget for widget in app.multiselect if widget.key == "selection_what"]


def test_readings_that_give_no_score_are_refused(ready: Workspace) -> None:
    app = page(source="talk", template="chatml")
    app.multiselect(key="selection_what").set_value(["alone"])
    run(app)
    assert "which gives no score: add template, plain or both" in said(app)
    assert app.button(key="selection_score_go").disabled


@pytest.mark.parametrize("gone", ["source", "run"])
def test_what_was_deleted_while_the_form_stood_open_is_told(ready: Workspace, gone: str) -> None:
    one = with_adapter(made.made_run(ready))
    app = page(source="talk", under=one.id, template="chatml")
    if gone == "source":
        delete_corpus(ready, "talk")
    else:
        shutil.rmtree(one.folder)
    click(app, "selection_score_go")
    assert orders(ready) == []
    assert ("There is no corpus 'talk'" if gone == "source" else f"There is no run '{one.id}'") in said(app)


def test_an_order_can_be_cancelled_tried_again_and_discarded(ready: Workspace) -> None:
    app = page(source="talk", template="chatml")
    click(app, "selection_score_go")
    (job,) = orders(ready)
    assert "talk under smollm2-135m" in app.get("progress")[0].proto.text.replace("\\", "")
    click(app, f"selection_cancel_{job.id}")
    assert job.state == "cancelled" and "was not scored" in said(app)
    click(app, f"selection_again_{job.id}")
    assert job.state == "queued"
    job.update(state="failed", message=EVIL)
    run(app)
    assert "bold" in said(app)
    click(app, f"selection_discard_{job.id}")
    assert "was not scored" not in said(app)


# ---- lists -----------------------------------------------------------------------------------------------------------


def test_scores_and_selections_are_listed_and_opened(studio: Workspace) -> None:
    TABLE.save(studio)
    ScoreTable({**INFO, "id": "other", "run": "cpt-gone", "created": "2026-02-01T00:00:00Z"}, SAMPLES).save(studio)
    Selection.of(TABLE, rule(strategy="all"), discard=["a"]).save(studio, "most")
    app = page()
    tables = {next(iter(frame.value.columns)): frame.value for frame in app.dataframe}
    assert list(tables["Source"]["Under"]) == ["cpt-gone (deleted)", "smollm2-135m (base)"]
    assert (list(tables["Name"]["Samples"]), list(tables["Name"]["By hand"])) == ([4], [1])
    app.session_state["selection_scores_list"] = {"selection": {"rows": [1], "columns": [], "cells": []}}
    assert "No corpus" not in said(app)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("scores/tables/talk.base.1/table.json", "The scores talk.base.1 cannot be read: its table.json is damaged."),
        ("selections/most/selection.json", "The selection most cannot be read: its selection.json is damaged."),
    ],
)
def test_damaged_files_take_nothing_else_along(studio: Workspace, file: str, says: str) -> None:
    TABLE.save(studio)
    Selection.of(TABLE, rule(strategy="all")).save(studio, "most")
    (studio.root / file).write_text("{")
    assert says in said(page())
    opened = {"scores": TABLE.id} if "tables" in file else {"selection": "most"}
    assert "is damaged" in said(page(**opened))


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"scores": "../../x"}, "There are no scores '../../x': score the source again."),
        ({"selection": "nothing"}, "There is no selection 'nothing': score a source"),
    ],
)
def test_an_address_of_nothing_is_told(studio: Workspace, query: dict[str, str], says: str) -> None:
    assert says in said(page(**query))


# ---- choosing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def scored(studio: Workspace) -> Workspace:
    """The scores of seven samples: losses a 1, b 2, d 2, c 3, e 5; x and y have empty answers."""
    TABLE.save(studio)
    return studio


def test_it_begins_with_the_few_easiest_and_writes_nothing(scored: Workspace) -> None:
    app = page(scores=TABLE.id)
    found = figures(app)
    assert (found["Chosen"], found["Tokens"], found["In answers"], found["Left out"]) == ("2 of 5", "30", "4", "2")
    assert states(app) == ["chosen", "chosen", "not chosen", "not chosen", "not chosen", "left out", "left out"]
    assert samples_table(app)["Question"][0] == "q a €"
    assert not (scored.root / "choices").exists()
    assert address(app, "choice").startswith("choice-")


def test_every_strategy_and_end(scored: Workspace) -> None:
    app = page(scores=TABLE.id)
    app.number_input(key="selection_count").set_value(3)
    assert figures(run(app))["Chosen"] == "3 of 5"
    app.segmented_control(key="selection_end").set_value("tokens")
    assert figures(run(app))["Tokens"] == "70", "what was chosen stays"
    app.number_input(key="selection_tokens").set_value(30)
    assert figures(run(app))["Chosen"] == "2 of 5"
    app.segmented_control(key="selection_end").set_value("threshold")
    run(app)
    assert (
        made.widget_of(app, "slider", "selection_slider").value == pytest.approx(2.0)
        and figures(app)["Chosen"] == "3 of 5"
    )
    app.segmented_control(key="selection_strategy").set_value("hardest")
    run(app)
    assert choice(app, scored).rule == rule(strategy="hardest", score="loss_plain", threshold=2.0)
    assert figures(app)["Chosen"] == "4 of 5"
    app.segmented_control(key="selection_strategy").set_value("random")
    run(app)
    assert choice(app, scored).rule == rule(strategy="random", score="loss_plain", count=4)
    app.number_input(key="selection_seed").set_value(3)
    run(app)
    assert choice(app, scored).rule.seed == 3
    app.segmented_control(key="selection_strategy").set_value("all")
    assert figures(run(app))["Chosen"] == "5 of 5"
    assert not app.slider


def test_the_slider_moves_everything(scored: Workspace) -> None:
    app = page(scores=TABLE.id)
    assert made.widget_of(app, "slider", "selection_slider").value == pytest.approx(2.0), "where the count ends"
    made.widget_of(app, "slider", "selection_slider").set_value(3.0)
    run(app)
    assert choice(app, scored).rule == rule(strategy="easiest", score="loss_plain", threshold=3.0)
    assert figures(app)["Chosen"] == "4 of 5"
    bars = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert "3" in [annotation["text"] for annotation in bars["layout"]["annotations"]]
    made.widget_of(app, "number_input", "selection_threshold").set_value(1.5)
    run(app)
    assert made.widget_of(app, "slider", "selection_slider").value == 1.5 and figures(app)["Chosen"] == "1 of 5"
    slider = made.widget_of(app, "slider", "selection_slider")
    slider.set_value(slider.max)
    assert figures(run(app))["Chosen"] == "5 of 5"


def test_a_choice_outlives_a_reload_and_two_people_have_one_each(scored: Workspace) -> None:
    first, second = page(scores=TABLE.id), page(scores=TABLE.id)
    first.number_input(key="selection_count").set_value(4)
    run(first)
    click(second, "selection_discard")
    again = page(scores=TABLE.id, choice=address(first, "choice"))
    assert figures(again)["Chosen"] == "4 of 5" and figures(again)["Discarded"] == "0"
    assert figures(run(second))["Chosen"] == "1 of 5"


@pytest.mark.parametrize("given", ["../x", "CHOICE", "choice-of-another-version", "of-another-table"])
def test_an_address_that_is_no_choice_begins_a_new_one(scored: Workspace, given: str) -> None:
    folder = scored.root / "choices"
    folder.mkdir()
    (folder / "choice-of-another-version.json").write_text('{"id": "x"}')
    other = {"id": "of-another-table", "scores": "others", "rule": {"strategy": "all"}}
    (folder / "of-another-table.json").write_text(json.dumps(other))
    app = page(scores=TABLE.id, choice=given)
    assert figures(app)["Chosen"] == "2 of 5" and address(app, "choice") != given
    app.number_input(key="selection_count").set_value(1)
    run(app)
    assert json.loads((folder / "of-another-table.json").read_text()) == other


def test_samples_that_are_gone_after_another_scoring_are_told(scored: Workspace) -> None:
    app = page(scores=TABLE.id, sample="e")
    click(app, "selection_keep")
    ScoreTable(INFO, [one for one in SAMPLES if one.id != "e"]).save(scored)
    run(app)
    assert "1 of the samples that were kept or discarded by hand are not there any more" in said(app)
    assert figures(app)["Kept"] == "0"


def test_scores_without_any_score_can_still_be_drawn_from(studio: Workspace) -> None:
    ScoreTable(INFO, [sample("a"), sample("b")]).save(studio)
    app = page(scores=TABLE.id)
    assert "only chance can choose" in said(app) and figures(app)["Chosen"] == "2 of 2"


# ---- looking ---------------------------------------------------------------------------------------------------------


def test_one_goes_through_a_selection_by_eye(scored: Workspace) -> None:
    app = page(scores=TABLE.id)
    assert "Sample 1 of 7" in said(app)
    click(app, "selection_discard")
    assert "Sample 2 of 7" in said(app) and states(app)[0] == "discarded"
    click(app, "selection_next")
    click(app, "selection_keep")
    assert states(app)[2] == "kept" and "Sample 4 of 7" in said(app)
    click(app, "selection_previous")
    click(app, "selection_leave")
    assert states(app)[2] == "not chosen" and "Sample 3 of 7" in said(app), "taking back does not go on"
    app.toggle(key="selection_go_on").set_value(False)
    click(run(app), "selection_keep")
    assert "Sample 3 of 7" in said(app)
    assert (choice(app, scored).keep, choice(app, scored).discard) == (("d",), ("a",))
    assert figures(app)["Chosen"] == "2 of 5"


def test_a_list_of_the_chosen_goes_on_when_one_leaves_it(scored: Workspace) -> None:
    app = page(scores=TABLE.id, show="chosen")
    assert [question[2] for question in samples_table(app)["Question"]] == ["a", "b"]
    click(app, "selection_discard")
    assert [question[2] for question in samples_table(app)["Question"]] == ["b"]
    assert "Sample 1 of 1" in said(app) and address(app, "sample") == "b"
    click(app, "selection_discard")
    assert "No sample here fits" in said(app) and "Not in this list" in said(app)


def test_search_filter_and_order(scored: Workspace) -> None:
    def shown(**query: str) -> str:
        return "".join(question[2] for question in samples_table(page(scores=TABLE.id, **query))["Question"])

    assert shown() == "abdcexy"
    assert shown(order="hardest first") == "ecbdaxy"
    assert shown(order="as in the source") == "caebdxy"
    assert shown(order="longest first")[0] == "e"
    assert shown(find="A E") == "e", "the answer of e is 'a e'"
    assert (shown(show="not chosen"), shown(show="left out")) == ("dce", "xy")


def test_a_click_on_a_row_opens_its_sample(scored: Workspace) -> None:
    app = page(scores=TABLE.id)
    key = next(key for frame in app.dataframe if (key := frame.key or "").startswith("selection_table_"))
    assert app.session_state[key]["selection"]["rows"] == [0]
    app.session_state[key] = {"selection": {"rows": [3], "columns": [], "cells": []}}
    app.query_params["sample"] = "c"
    run(app)
    assert "Sample 4 of 7" in said(app) and "a c" in [text.value for text in app.text]


def test_a_sample_is_shown_as_text(studio: Workspace) -> None:
    turns = (Message("system", "be brief"), Message("user", EVIL), Message("assistant", EVIL))
    one = ScoredSample("e", Record("instructions", messages=turns).to_json(), 3, 1, {"loss_plain": 1.0})
    ScoreTable(INFO, [one]).save(studio)
    app = page(scores=TABLE.id)
    assert [text.value for text in app.text] == ["be brief", *2 * [EVIL.replace("\x1b", "\ufffd")]]
    assert [message.name for message in app.chat_message] == ["system", "user", "assistant"]


def test_an_enormous_answer_is_cut_and_an_empty_one_named(studio: Workspace) -> None:
    def of(id: str, answer: str, reason: str) -> ScoredSample:
        turns = (Message("user", "q"), Message("assistant", answer))
        return ScoredSample(id, Record("instructions", messages=turns).to_json(), 0, 0, {}, reason)

    ScoreTable(
        INFO, [of("long", "x" * 50_000, "it has 50,001 characters"), of("none", " ", "the answer is empty")]
    ).save(studio)
    app = page(scores=TABLE.id, sample="long")
    assert "It cannot be trained on: it has 50,001 characters." in said(app)
    assert "The first 20,000 of 50,000 characters" in said(app)
    assert app.button(key="selection_keep").disabled
    assert "(empty)" in said(page(scores=TABLE.id, sample="none"))


def pair(id: str, **scores: float) -> ScoredSample:
    record = Record("preferences", messages=(Message("user", "q"),), chosen=f"good {id}", rejected=f"bad {id}")
    return ScoredSample(id, record.to_json(), 9, 3, scores)


@pytest.fixture
def pairs(studio: Workspace) -> ScoreTable:
    table = ScoreTable(
        {**INFO, "id": "pairs", "kind": "preferences"},
        [pair(f"p{n}", margin=float(n), margin_per_token=n / 2, logp_chosen=-1.0 - n) for n in range(6)],
    )
    table.save(studio)
    return table


def test_a_pair_shows_both_answers(pairs: ScoreTable) -> None:
    app = page(scores="pairs")
    assert figures(app)["Chosen"] == "3 of 6"
    assert [text.value for text in app.text] == ["q", "good p5", "bad p5"], "the highest margin is the easiest"
    assert "Train on this selection (DPO)" in [button.label for button in app.button]


# ---- losses ----------------------------------------------------------------------------------------------------------


class Answering:
    """Stands in for the inference process."""

    def __init__(self, problem: Exception | None = None):
        self.asked: list[Any] = []
        self.problem = problem

    def __call__(self, workspace: Workspace) -> "Answering":
        return self

    def losses(self, run: str | None, messages: Any, template: str | None, model: str) -> dict[str, Any]:
        if self.problem:
            raise self.problem
        self.asked.append((run, messages[-1].content, template, model))
        adapted = [0.0, 0.5, 2.0, 1.0] if run else None
        return {"ids": [1, 2, 3, 4], "texts": ["q", " ", "a", "<eos>"], "base": [0.0, 1.0, 1.0, 4.0],
                "adapted": adapted, "mask": [False, False, True, True]}  # fmt: skip


def switched_on(app: AppTest) -> AppTest:
    app.toggle(key="selection_losses").set_value(True)
    return run(app)


def test_losses_of_the_base_and_after_training(studio: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    one = with_adapter(made.made_run(studio, name="my run"))
    template = {"name": "chatml", "source": "x"}
    ScoreTable({**INFO, "run": one.id, "template": template}, SAMPLES).save(studio)
    client = Answering()
    monkeypatch.setattr(selection_losses, "Client", client)
    app = switched_on(page(scores=TABLE.id))
    assert client.asked == [(one.id, "a a", "chatml", "smollm2-135m")]
    assert "The base · 2.500 nats per token of the answer" in said(app)
    assert "my run · 1.500 nats per token of the answer" in said(app)
    app.segmented_control(key="selection_losses_view").set_value("difference")
    run(app)
    assert "moved the answer by \N{MINUS SIGN}1.000 nats per token" in said(app) and len(client.asked) == 1
    click(app, "selection_next")
    assert client.asked[1][1] == "a b"
    click(app, "selection_previous")
    assert len(client.asked) == 2, "what was told once is kept"


def test_colours_are_as_strong_as_losses() -> None:
    found = Answering().losses("r", [Message("assistant", "a")], None, "m")
    chips = selection_losses._chips(found, "base")
    assert [chip.value for chip in chips] == pytest.approx([0, 1 / 6, 1 / 6, 4 / 6])
    assert [chip.is_masked for chip in chips] == [True, True, False, False]
    assert [chip.block for chip in chips] == [0, 0, 1, 1]
    assert chips[3].detail == "base 4.00 nats (1.83 %), after training 1.00 nats (36.8 %)"
    assert chips[1].detail.endswith("part of the question, not learned")
    moved = selection_losses._chips(found, "difference")
    assert [(chip.group, chip.value) for chip in moved] == [(0, 0.0), (0, 0.25), (1, 0.5), (0, 1.0)]


def test_both_answers_of_a_pair_are_asked_for_under_the_base(
    pairs: ScoreTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Answering()
    monkeypatch.setattr(selection_losses, "Client", client)
    app = switched_on(page(scores="pairs"))
    assert client.asked == [(None, text, "none", "smollm2-135m") for text in ("good p5", "bad p5")]
    assert "Chosen answer" in said(app) and "Rejected answer" in said(app) and "my run" not in said(app)


def test_a_busy_machine_is_told_and_can_be_asked_again(scored: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Answering(Busy("The machine is busy with training x: ask again when it has ended."))
    monkeypatch.setattr(selection_losses, "Client", client)
    app = switched_on(page(scores=TABLE.id))
    assert "The machine is busy with training x" in said(app)
    client.problem = None
    click(app, "selection_losses_again")
    assert "nats per token of the answer" in said(app)


def test_of_a_deleted_run_the_base_is_still_asked(studio: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    ScoreTable({**INFO, "run": "cpt-gone"}, SAMPLES).save(studio)
    client = Answering()
    monkeypatch.setattr(selection_losses, "Client", client)
    app = switched_on(page(scores=TABLE.id))
    assert "The run cpt-gone was deleted. Its scores stay here" in said(app)
    assert "only the base can still be asked" in said(app) and client.asked[0][0] is None


# ---- where scores disagree -------------------------------------------------------------------------------------------


def test_where_two_scores_disagree(pairs: ScoreTable) -> None:
    app = page(scores="pairs", view="Where scores disagree")
    frame = next(frame.value for frame in app.dataframe if "Apart" in frame.value.columns)
    assert len(frame) == 6 and frame["Apart"].abs().max() == 100
    heat = json.loads(app.get("plotly_chart")[2].proto.spec)["data"][0]
    assert heat["text"][0] == ["1.00", "1.00", "-1.00"]
    app.selectbox(key="selection_up").select("margin")
    assert "A score agrees with itself" in said(run(app))


def test_one_score_alone_disagrees_with_nothing(scored: Workspace) -> None:
    assert "There are not two scores to compare" in said(page(scores=TABLE.id, view="Where scores disagree"))


# ---- keeping ---------------------------------------------------------------------------------------------------------


def test_a_choice_is_saved_and_trained_on(scored: Workspace) -> None:
    app = page(scores=TABLE.id, sample="e")
    assert app.text_input[0].value == "talk-easiest" and app.button(key="selection_train").disabled
    click(app, "selection_keep")
    click(app, "selection_save")
    assert "Saved as talk-easiest" in said(app) and not app.button(key="selection_train").disabled
    saved = open_selection(scored, "talk-easiest")
    assert (saved.ids, saved.keep) == (["a", "b", "e"], ["e"])
    app.query_params["sample"] = "e"
    click(run(app), "selection_discard")
    assert "Not saved yet" in said(app) and app.button(key="selection_train").disabled
    click(app, "selection_save")
    assert "There is a selection 'talk-easiest' already" in said(app)
    assert open_selection(scored, "talk-easiest").ids == ["a", "b", "e"]
    app.checkbox(key="selection_replace").check()
    click(run(app), "selection_save")
    assert open_selection(scored, "talk-easiest").ids == ["a", "b"]


@pytest.mark.parametrize("deleted", [False, True])
def test_training_opens_with_the_selection_and_its_run(ready: Workspace, deleted: bool) -> None:
    one = with_adapter(made.made_run(ready, name="parent"))
    table = ScoreTable({**INFO, "run": one.id}, SAMPLES)
    Selection.of(table, rule(strategy="all")).save(ready, "most")
    if deleted:
        shutil.rmtree(one.folder)
    app = click(page(selection="most"), "selection_train")
    assert app.title[0].value == "Align"
    draft = Drafts(ready).get(address(app, "draft"))
    assert isinstance(draft, AlignDraft) and draft.stage.samples.selection == "most"
    assert draft.parent == (None if deleted else one.id)


def test_the_chart_of_a_saved_choice_is_pinned(scored: Workspace) -> None:
    made.made_run(scored, experiment="trial")
    app = page(scores=TABLE.id)
    assert not [button for button in app.button if (button.key or "").startswith("selection_pin")]
    click(app, "selection_save")
    click(app, "selection_pin_selection")
    (pin,) = [entry for entry in Notebook(scored, "trial").entries() if entry.kind == "pin"]
    assert (pin.chart, list(pin.subjects)) == ("selection", ["talk-easiest"])


def test_an_empty_choice_is_not_saved(scored: Workspace) -> None:
    app = page(scores=TABLE.id)
    app.segmented_control(key="selection_end").set_value("threshold")
    run(app)
    made.widget_of(app, "number_input", "selection_threshold").set_value(0.5)
    run(app)
    click(app, "selection_save")
    assert "has no rows (the easiest by Loss, plain text" in said(app) and list_selections(scored) == []
    assert figures(app)["Chosen"] == "0 of 5", "nothing is lost"
    app.text_input[0].set_value("No Name!")
    made.widget_of(app, "slider", "selection_slider").set_value(3.0)
    run(app)
    click(app, "selection_save")
    assert "selection name 'No Name!' cannot be used" in said(app)


def test_a_saved_selection_is_changed_without_its_scores(scored: Workspace) -> None:
    Selection.of(TABLE, rule(strategy="all"), discard=["a"]).save(scored, "most")
    shutil.rmtree(scored.root / "scores")
    app = page(selection="most")
    assert "Selection most" in said(app) and "Saved as most" in said(app) and figures(app)["Chosen"] == "4 of 5"
    app.query_params["sample"] = "b"
    click(run(app), "selection_discard")
    app.checkbox(key="selection_replace").check()
    click(run(app), "selection_save")
    assert open_selection(scored, "most").discard == ["a", "b"]


@pytest.mark.parametrize("opened", [{"scores": TABLE.id}, {"selection": "most"}])
def test_what_is_deleted_is_asked_for_first(scored: Workspace, opened: dict[str, str]) -> None:
    Selection.of(TABLE, rule(strategy="all")).save(scored, "most")
    app = page(**opened)
    click(app, "selection_delete_yes")
    assert "Saved selections" in said(app), "back at the lists"
    assert ([] if "selection" in opened else ["most"]) == [one["name"] for one in list_selections(scored)]
    assert (scored.root / "scores" / "tables" / TABLE.id).exists() == ("selection" in opened)


def test_what_another_tab_deleted_is_told(scored: Workspace) -> None:
    Selection.of(TABLE, rule(strategy="all")).save(scored, "most")
    app = page(selection="most")
    shutil.rmtree(scored.root / "selections" / "most")
    run(app)
    assert "There is no selection 'most'" in said(app)


def test_a_file_chooses(scored: Workspace) -> None:
    app = page(scores=TABLE.id)
    upload: Any = app.file_uploader[0]
    upload.set_value(("mine.jsonl", b'{"id": "e"}\n{"id": "zz"}\n', "application/jsonl"))
    run(app)
    upload = app.file_uploader[0]
    assert "mine.jsonl does not fit these scores (line 2: the id 'zz' is unknown)" in said(app)
    upload.set_value(("mine.jsonl", b'{"id": "e"}\n{"id": "c"}\n', "application/jsonl"))
    run(app)
    click(app, "selection_import")
    assert figures(app)["Chosen"] == "2 of 5" and figures(app)["Kept"] == "2"
    assert choice(app, scored).rule.strategy == "by-hand" and choice(app, scored).keep == ("e", "c")
