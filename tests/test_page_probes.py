"""Probes in the app: made and looked at on a corpus' page, and what a run's Questions tab says of them."""

import pytest
from made import made_job, open_page, texts
from prose import records
from streamlit.testing.v1 import AppTest
from test_probed import run  # noqa: F401

from mixcpt import answers
from mixcpt.answers import Answered
from mixcpt.corpus import Corpus, ingest_records
from mixcpt.jobs import Job, Jobs
from mixcpt.probe_sets import run_job
from mixcpt.probes import make
from mixcpt.runs import Run
from mixcpt.tokens import TextTokenizer
from mixcpt.worker import JobContext
from mixcpt.workspace import Workspace


@pytest.fixture
def corpus(studio: Workspace, tiny_tokenizer: TextTokenizer) -> Corpus:
    ingest_records(studio, "field", records(120), files=[], tokenizer=tiny_tokenizer, heldout_fraction=0.2)
    return Corpus.open(studio, "field")


def page() -> AppTest:
    return open_page("corpora", corpus="field", corpora_view="Probes")


def made_jobs(studio: Workspace) -> list[Job]:
    return [job for job in Jobs(studio).all() if job.kind == "probes"]


def test_probes_are_made_by_a_job_and_then_shown_with_their_checks(studio: Workspace, corpus: Corpus) -> None:
    app = page()
    app.number_input(key="probes_items").set_value(24).run()
    app.button(key="probes_make").click().run()
    (job,) = made_jobs(studio)
    assert (job.kind, job.payload) == ("probes", {"corpus": "field", "items": 24, "seed": 0})
    app.run()
    assert len(made_jobs(studio)) == 1 and "Waiting for its turn" in texts(app)
    assert run_job(JobContext(studio, job)) == "24 probes of field."
    app.run()
    assert "24 terms" in texts(app) and "name **probes" in texts(app)
    assert "place, length and frequency alone score what guessing scores" in texts(app)
    checks, questions = (next(f.value for f in app.dataframe if name in f.value) for name in ("Always", "Term"))
    assert list(checks["Always"])[4:] == ["longest", "shortest", "most frequent", "rarest"]
    made = make(corpus, 24)
    assert list(questions["Term"]) == [one.term for one in made.probes]
    asked = [text.value for text in app.text]
    assert f"{made.probes[0].generalised['question']} ____{made.probes[0].generalised['rest']}" in asked
    assert f":material/check: {made.probes[0].term} :gray[" in texts(app) and not app.exception


def test_a_corpus_that_is_too_small_says_why(studio: Workspace, tiny_tokenizer: TextTokenizer) -> None:
    ingest_records(studio, "field", records(21), files=[], tokenizer=tiny_tokenizer)
    payload = {"corpus": "field", "items": 100, "seed": 0}
    made_job(studio, "probes", "failed", payload=payload, message="The corpus gives only 3 good probes: add more.")
    app = page()
    assert "gives only 3 good probes" in texts(app) and not app.exception


def test_a_run_shows_both_sides_and_what_it_had_read(studio: Workspace, run: Run) -> None:  # noqa: F811
    found = run.results()["evaluation"]
    scores = {"items": 3, "base": {"accuracy": 0.0}, "final": {"accuracy": 0.5},
              "gain": {"difference": 0.5, "interval": [0.1, 0.9]}}  # fmt: skip
    found["contamination"]["probes_field_generalised"] |= {"items": [1], "sources": {"other": 1}, "without": scores}
    run.write_results("evaluation", found)
    row = Answered(
        "A glorbix sleeps", ["here", "there"], ["here"], "here", "there", 1, 0, "", "other", "a glorbix sleeps"
    )
    answers.write(run, "probes_field_memorised", [row])
    app = open_page("runs", run=run.id, runs_view="Questions")
    said = texts(app)
    assert "Learned by heart, or known beyond that?" in said
    assert [(one.label, one.value, one.delta) for one in app.metric if "Sentences" in one.label] == [
        ("Sentences it read", "33% → 100%", "+67 points"), ("Sentences it never saw", "25% → 50%", "+25 points"),
    ]  # fmt: skip
    assert "3 of these 4 sentences stand in what the run read, as is meant here" in said
    (warning,) = [one.value for one in app.warning if "training text" in one.value]
    found_words = "1 of 4 questions stand in the training text (other: 1); without them 0.0% → 50.0%"
    assert warning.replace("\\", "").startswith(found_words)
    frame = next(frame.value for frame in app.dataframe if "In training text" in frame.value)
    assert list(frame["In training text"]) == ["other"] and not app.exception
