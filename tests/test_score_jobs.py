"""Orders for scoring: what is refused before it waits, that nothing waits twice, and what became of each."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from made import made_job, made_run

from mixcpt.corpus import ingest_records
from mixcpt.errors import BadConfig, BadInput, Damaged, NotFound
from mixcpt.jobs import Jobs
from mixcpt.records import Message, Record
from mixcpt.runs import Run, Runs
from mixcpt.score_jobs import (
    ScoreOrder,
    again,
    bases,
    check,
    has_adapter,
    own_template,
    put_aside,
    scorers,
    sources,
    submit,
    table_of,
    under_way,
)
from mixcpt.settings import validate
from mixcpt.templates import NAMED
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, write_json


@pytest.fixture
def home(small_corpora: Workspace, tiny_tokenizer: TextTokenizer, tiny_model_folder: Path) -> Workspace:
    """Two corpora of documents, one of instructions (`talk`), and the tiny model, which has no chat template."""
    talk = [
        Record("instructions", messages=(Message("user", f"question {n}"), Message("assistant", "a")))
        for n in range(30)
    ]
    ingest_records(small_corpora, "talk", talk, files=[], tokenizer=tiny_tokenizer)
    target = small_corpora.models / "smollm2-135m"
    shutil.copytree(tiny_model_folder, target)
    write_json(target / "mixcpt.json", {"name": "smollm2-135m", "source": "a test", "sha256": "", "licence": "none"})
    return small_corpora


def order(**values: Any) -> ScoreOrder:
    return validate(ScoreOrder, {"source": "talk", "template": "chatml", **values}, "the test")


def with_adapter(run: Run) -> Run:
    run.adapter.mkdir(exist_ok=True)
    (run.adapter / "adapter_model.safetensors").write_bytes(b"0")
    (run.adapter / "adapter_config.json").write_text("{}")
    return run


def test_what_can_be_named(home: Workspace) -> None:
    assert sources(home) == {
        "builtin/atlas": "documents",
        "builtin/replay": "documents",
        "builtin/instructions": "instructions",
        "builtin/preferences": "preferences",
        "builtin/general": "documents",
        "field": "documents",
        "talk": "instructions",
        "world": "documents",
    }
    assert bases(home) == ["smollm2-135m"]
    assert bases(home, [str(home.models / "smollm2-135m"), "/nowhere"]) == [
        "smollm2-135m",
        str(home.models / "smollm2-135m"),
    ]


def test_runs_with_an_adapter_can_be_asked_newest_first(home: Workspace) -> None:
    made_run(home, state="queued")
    first, second = (with_adapter(made_run(home, name=name)) for name in ("one", "two"))
    assert [run.id for run in scorers(home)] == [second.id, first.id]
    (first.adapter / "adapter_config.json").unlink()
    assert not has_adapter(first)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"source": "field"}, "The source 'field' holds documents, which have no answers to score"),
        ({"source": "builtin/atlas"}, "The source 'builtin/atlas' holds documents"),
        ({"source": "nothing"}, "no corpus 'nothing'"),
        ({"source": "builtin/nothing"}, "no built-in source 'builtin/nothing'"),
        ({"run": "cpt-2"}, "There is no run 'cpt-2'"),
        ({"template": "fancy"}, r"no chat template 'fancy': choose from own, chatml, .*, none\.$"),
        (
            {"template": None},
            rf"^smollm2-135m has no chat template of its own: choose one of {', '.join(NAMED)}, or no",
        ),
        ({"template": "own"}, "has no chat template of its own: choose from"),
    ],
)
def test_what_cannot_be_scored_is_refused_at_once(home: Workspace, values: dict[str, Any], says: str) -> None:
    with pytest.raises((BadInput, NotFound), match=says):
        submit(home, order(**values))
    assert Jobs(home).all() == []


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"what": ["alone"]}, "what is alone, which gives no score: add template, plain or both"),
        ({"what": []}, "what is empty, which gives no score"),
        ({"what": ["sideways"]}, "'what.0' is 'sideways'"),
        ({"limit": 0}, "'limit' is 0"),
        ({"beta": 0}, "'beta' is 0"),
        ({"run": "r", "model": {"name": "m"}}, "a run names its base already: leave model out"),
    ],
)
def test_orders_that_contradict_themselves(values: dict[str, Any], says: str) -> None:
    with pytest.raises(BadConfig, match=says):
        order(**values)


def test_a_run_without_an_adapter_is_refused(home: Workspace) -> None:
    run = made_run(home, state="running")
    with pytest.raises(BadInput, match=f"Run {run.id} has no finished adapter: wait for its end"):
        check(home, order(run=run.id))


def test_plain_text_needs_no_template(home: Workspace) -> None:
    check(home, order(template="none"))
    check(home, order())


def test_the_template_that_came_with_an_adapter_is_its_own(home: Workspace) -> None:
    run = with_adapter(made_run(home))
    assert own_template(home, order(run=run.id)) is None
    (run.adapter / "chat_template.jinja").write_text(NAMED["zephyr"])
    assert own_template(home, order(run=run.id)) == NAMED["zephyr"]
    check(home, order(run=run.id, template=None))
    assert own_template(home, order()) is None, "the base itself has none"
    shutil.rmtree(home.models / "smollm2-135m")
    assert own_template(home, order(run=run.id)) is None, "not known before the model is here"
    check(home, order(template=None))


def test_the_same_order_does_not_wait_twice(home: Workspace) -> None:
    first = submit(home, order())
    assert submit(home, order()).id == first.id
    assert first.payload == order().model_dump(mode="json") and first.label == "talk under smollm2-135m"
    other = submit(home, order(limit=5))
    assert other.id != first.id
    assert [job.id for job, _ in under_way(home)] == [first.id, other.id]
    first.update(state="done")
    assert submit(home, order()).id != first.id
    run = with_adapter(made_run(home, name="my run"))
    assert submit(home, order(run=run.id)).label == "talk under my run"
    assert Runs(home).get(run.id).state(Jobs(home)) == "done", "scoring is no part of the run"


def test_what_stopped_can_be_tried_again_or_put_aside(home: Workspace) -> None:
    job = submit(home, order())
    with pytest.raises(BadInput, match="is queued: cancel it first"):
        put_aside(home, job)
    job.update(state="failed", message="no")
    assert [(found.id, status.message) for found, status in under_way(home)] == [(job.id, "no")]
    assert again(home, job).state == "queued"
    with pytest.raises(BadInput, match="is queued, and only"):
        again(home, job)
    job.update(state="cancelled")
    put_aside(home, job)
    assert under_way(home) == []
    with pytest.raises(BadInput, match="discarded meanwhile: start it anew"):
        again(home, job)


def test_a_stopped_order_that_was_given_again_is_not_shown_twice(home: Workspace) -> None:
    submit(home, order()).update(state="failed")
    second = submit(home, order())
    made_job(home, "score", "failed", run=made_run(home).id)  # of a run's own story
    assert [job.id for job, _ in under_way(home)] == [second.id]


def test_a_finished_order_names_its_table(home: Workspace) -> None:
    job = submit(home, order())
    with pytest.raises(Damaged, match="does not say which scores were made"):
        table_of(job)
    write_json(job.folder / "result.json", {"scores": "talk.x"})
    assert table_of(job) == "talk.x"
    write_json(job.folder / "result.json", ["talk.x"])
    with pytest.raises(Damaged):
        table_of(job)
