"""The page Corpora: its form, its list, and one corpus."""

import io
from pathlib import Path
from typing import Any

import made
import pytest
from streamlit.testing.v1 import AppTest

from app.corpora_view import held_out_words
from mixcpt import builtin, shelf, uploads
from mixcpt.corpus import Corpus, corpus_names, ingest_records, list_corpora
from mixcpt.drafts import Drafts
from mixcpt.errors import BadCorpus, BadInput
from mixcpt.jobs import Job, Jobs
from mixcpt.manifest import SplitInfo, Totals
from mixcpt.recipe import CorpusSpec
from mixcpt.records import Message, Record
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


@pytest.fixture
def shelved(studio: Workspace, small_corpora: Workspace) -> Workspace:
    return small_corpora


def page(**query: str) -> AppTest:
    app = made.open_page("corpora", **query)
    assert not app.exception
    return app


def files(app: AppTest) -> Any:
    return app.file_uploader[0]


def add(app: AppTest) -> AppTest:
    app.button(key="corpora_add").click().run()
    assert not app.exception
    return app


def orders(workspace: Workspace) -> list[Job]:
    return [job for job in Jobs(workspace).all() if job.kind == "ingest"]


# ---- adding ----------------------------------------------------------------------------------------------------------


def test_an_empty_shelf_says_what_to_bring(studio: Workspace) -> None:
    app = page()
    said = made.texts(app)
    assert "documents of your field" in said and "No corpus yet" in said
    assert "a country that does not exist" in said
    assert "No file is chosen" in made.texts(add(app))
    assert orders(studio) == []


def test_uploaded_files_are_kept_and_become_one_job(studio: Workspace) -> None:
    app = page()
    files(app).set_value([("My Notes.md", b"one", "text/markdown"), ("../b.txt", b"two", "text/plain")]).run()
    assert app.text_input(key="corpora_name").value == "my-notes"
    add(app)
    (job,) = orders(studio)
    assert (job.label, job.payload["kind"], job.payload["replace"]) == ("my-notes", None, False)
    assert job.payload["model"] == "smollm2-135m"
    (folder,) = map(Path, job.payload["files"])
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"My Notes.md": "one", "b.txt": "two"}
    assert app.text_input(key="corpora_name").value == ""
    assert app.get("progress") and app.button(key=f"corpora_cancel_{job.id}")


def test_every_field_reaches_the_job(studio: Workspace, shelved: Workspace) -> None:
    app = page()
    files(app).set_value(("a.csv", b"body\n1\n", "text/csv")).run()
    app.text_input(key="corpora_name").set_value("field").run()
    assert "There is a corpus 'field' already" in made.texts(add(app)).replace("\\", "")
    assert app.text_input(key="corpora_name").value == "field"
    app.checkbox(key="corpora_replace").check()
    app.selectbox(key="corpora_kind").select("documents")
    app.text_input(key="corpora_text_column").set_value("body")
    app.number_input(key="corpora_limit").set_value(7)
    app.text_area(key="corpora_where").set_value("split = train\nlang=en")
    app.selectbox(key="corpora_model").select("smollm2-135m")
    add(app)
    (job,) = orders(studio)
    wanted = {"name": "field", "kind": "documents", "text_column": "body", "limit": 7, "replace": True}
    assert wanted.items() <= job.payload.items()
    assert job.payload["where"] == {"split": "train", "lang": "en"}


def test_a_folder_of_the_server_only_under_allowed_roots(
    studio: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given" / "Field Book").mkdir(parents=True)
    (tmp_path / "given" / "Field Book" / "a.md").write_text("a")
    monkeypatch.setenv("MIXCPT_ROOTS", str(tmp_path / "given"))
    app = page()
    app.segmented_control(key="corpora_way").set_value("Folder on this server").run()
    app.selectbox(key="corpora_path").options.append("/etc/passwd")  # as if it was typed
    app.selectbox(key="corpora_path").select("/etc/passwd")
    app.text_input(key="corpora_name").set_value("secrets")
    assert "may not be read" in made.texts(add(app)).replace("\\", "")
    assert orders(studio) == []
    app = page()
    app.segmented_control(key="corpora_way").set_value("Folder on this server").run()
    app.selectbox(key="corpora_path").select(str(tmp_path / "given" / "Field Book")).run()
    assert app.text_input(key="corpora_name").value == "field-book"
    add(app)
    assert [job.payload["files"] for job in orders(studio)] == [[str(tmp_path / "given" / "Field Book")]]


def test_a_hub_data_set_by_its_id(studio: Workspace) -> None:
    app = page()
    app.segmented_control(key="corpora_way").set_value("Hub data set").run()
    assert "No data set is named" in made.texts(add(app))
    app.text_input(key="corpora_hub").set_value("owner/Some-Set").run()
    app.text_input(key="corpora_hub_split").set_value("test")
    app.text_input(key="corpora_hub_config").set_value("small")
    app.text_input(key="corpora_hub_dir").set_value("python")
    add(app)
    (job,) = orders(studio)
    wanted = {"name": "some-set", "hub": "owner/Some-Set", "split": "test", "hub_config": "small", "hub_dir": "python"}
    assert wanted.items() <= job.payload.items()
    assert job.payload["files"] == []


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("name", "Not Good!", "cannot be used"),
        ("name", "builtin-x", "kept for built-in"),
        ("where", "x", "filter line"),
    ],
)
def test_a_refused_form_keeps_what_was_typed_and_no_file(studio: Workspace, field: str, value: str, said: str) -> None:
    app = page()
    files(app).set_value(("a.md", b"one", "text/markdown")).run()
    widget = app.text_area(key="corpora_where") if field == "where" else app.text_input(key=f"corpora_{field}")
    widget.set_value(value)
    assert said in made.texts(add(app)).replace("\\", "")
    assert app.session_state[f"corpora_{field}"] == value
    assert orders(studio) == []
    assert not list((studio.root / "uploads").glob("*"))


def test_one_ingest_for_a_name_at_a_time(workspace: Workspace) -> None:
    spec = CorpusSpec(name="mine", files=["/a"])
    first = shelf.add(workspace, spec, "smollm2-135m")
    with pytest.raises(BadCorpus, match="being made already"):
        shelf.add(workspace, spec, "smollm2-135m", replace=True)
    with pytest.raises(BadCorpus, match="being made already"):
        shelf.add_uploads(workspace, {"name": "mine"}, [("a.md", io.BytesIO(b"a"))], "smollm2-135m", True)
    assert not (workspace.root / "uploads").exists()
    Jobs(workspace).request_cancel(first)
    shelf.add(workspace, spec, "smollm2-135m")
    with pytest.raises(BadCorpus, match="being made already"):
        shelf.again(workspace, first)
    assert len(orders(workspace)) == 2


# ---- progress --------------------------------------------------------------------------------------------------------


def failed(workspace: Workspace) -> tuple[Job, Path]:
    job = shelf.add_uploads(workspace, {"name": "mine"}, [("a.md", io.BytesIO(b"a"))], "smollm2-135m", False)
    job.update(state="failed", message="Nothing is left of <b>:red[a.md]</b>")
    return job, Path(job.payload["files"][0])


def test_a_failed_ingest_can_be_tried_again(studio: Workspace) -> None:
    job, folder = failed(studio)
    app = page()
    assert "**mine** was not made" in made.texts(app) and ":red[" not in made.texts(app)
    app.button(key=f"corpora_again_{job.id}").click().run()
    assert job.state == "queued" and folder.is_dir()
    app.button(key=f"corpora_cancel_{job.id}").click().run()
    assert job.state == "cancelled"


def test_a_discarded_ingest_takes_its_files_along(studio: Workspace) -> None:
    job, folder = failed(studio)
    app = page()
    app.button(key=f"corpora_discard_{job.id}").click().run()
    assert "was not made" not in made.texts(app)
    assert not folder.exists()
    with pytest.raises(BadInput, match="queued"):
        shelf.put_aside(studio, shelf.add(studio, CorpusSpec(name="mine", files=["/a"]), "smollm2-135m"))


def test_only_the_latest_ingest_of_a_name_is_shown(workspace: Workspace) -> None:
    failed(workspace)
    second = shelf.add(workspace, CorpusSpec(name="mine", files=["/a"]), "smollm2-135m")
    assert [job.id for job, _ in shelf.under_way(workspace)] == [second.id]
    second.update(state="done")
    assert shelf.under_way(workspace) == []


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("My Notes (2).md", "my-notes-2"),
        ("a.jsonl.gz", "a"),
        ("/data/raw_md/", "raw_md"),
        ("owner/Set-1", "set-1"),
        ("???", "corpus"),
        ("", ""),
        ("field.txt", "field-2"),
        ("x" * 100, "x" * 56),
    ],
)
def test_suggested_names(title: str, name: str) -> None:
    assert shelf.suggest_name(title, ["field"]) == name


# ---- the list and one corpus -----------------------------------------------------------------------------------------


def test_the_list_and_the_way_into_a_corpus_and_back(shelved: Workspace) -> None:
    app = page()
    table = app.dataframe[0].value
    assert list(table["Name"]) == ["field", "world"]
    assert list(table["Documents"]) == [40, 40]
    app = page(corpus="world")
    assert [metric.value for metric in app.metric][:2] == ["documents", "40"]
    app.button(key="corpora_back").click().run()
    assert list(app.dataframe[0].value["Name"]) == ["field", "world"]


def test_every_builtin_source_is_listed_and_opens_once_it_is_made(
    studio: Workspace, tiny_tokenizer: TextTokenizer
) -> None:
    builtin.open_source(studio, "builtin/general-code", tiny_tokenizer)
    app = page()
    said = made.texts(app).replace("\\", "")
    for source in {**builtin.SOURCES, **builtin.GENERAL}:
        assert f"**{source}**" in said and builtin.WORDS[source] in said
    app.button(key="corpora_open_builtin-general-code").click().run()
    assert not app.exception and "### builtin-general-code" in made.texts(app).replace("\\", "")


def test_a_corpus_that_is_not_there_is_said_so(shelved: Workspace) -> None:
    for name in ("gone", "../field", "<b>"):
        assert "There is no corpus" in made.texts(page(corpus=name))


def test_the_report_shows_refusals_as_text(studio: Workspace, tmp_path: Path, tiny_tokenizer: TextTokenizer) -> None:
    from mixcpt.corpus import ingest

    path = tmp_path / "<b>.jsonl"
    lines = [f'{{"text": "document number {number:04}"}}' for number in range(100)]
    path.write_text("\n".join([*lines, "broken", lines[0], "broken"]))
    ingest(studio, "mine", [path], tokenizer=tiny_tokenizer)
    app = page(corpus="mine")
    assert "1 exact duplicate left out" in made.texts(app)
    listed, refused = (table.value for table in app.dataframe)
    assert (listed["File"][0], listed["Documents"][0], len(listed["SHA-256"][0])) == ("<b>.jsonl", 100, 12)
    assert list(refused["Items"]) == [2]  # alike, so in one line
    assert (refused["Lines"][0], refused["Reason"][0].startswith("not JSON")) == ("101, 103", True)


def test_how_the_held_out_part_was_made_in_words() -> None:
    def said(method: Any) -> str:
        totals = [Totals(documents=d, tokens=t) for d, t in ((95, 1900), (5, 100))]
        return held_out_words(SplitInfo(seed=3, method=method, fraction=0.05, train=totals[0], heldout=totals[1]))

    assert said("documents").startswith("**100 tokens are held out** (5.0 %; 5 pieces), 1,900 are for training.")
    assert "(seed 3)" in said("documents") and "sections" in said("sections") and "in advance" in said("given")


NASTY = "<script>x</script> $x^2$ :red[x] **b** `c` \x1b[31m ![](http://x) end"


@pytest.fixture
def nasty(studio: Workspace, tiny_tokenizer: TextTokenizer) -> Workspace:
    records = [Record(kind="documents", text=f"{NASTY} {number}", file="<i>.md") for number in range(60)]
    ingest_records(studio, "nasty", records, files=[], tokenizer=tiny_tokenizer)
    return studio


def test_a_document_is_shown_as_it_was_typed(nasty: Workspace) -> None:
    app = page(corpus="nasty", corpora_view="Read")
    document = Corpus.open(nasty, "nasty").documents()[0]
    (shown,) = app.text
    assert shown.value.startswith("<script>x</script> $x^2$ :red[x] **b** `c` ") and "\x1b" not in shown.value
    assert len(shown.value) == len(document.text)
    app.text_input(key="corpora_find").set_value("X^2$ :Red[").run()
    marked = next(item.value for item in app.markdown if "orange-background" in item.value)
    assert r":orange-background[x\^2\$ \:red\[]" in marked and r"\<script\>" in marked


def test_stepping_through_documents(shelved: Workspace) -> None:
    documents = Corpus.open(shelved, "field").documents()
    app = page(corpus="field", corpora_view="Read")
    assert app.text[0].value == documents[0].text
    app.button(key="corpora_next").click().run()
    assert app.text[0].value == documents[1].text
    for number in (0, -1):  # back to the first, and around to the last
        app.button(key="corpora_previous").click().run()
        assert app.text[0].value == documents[number].text
    app.number_input(key="corpora_document").set_value(5).run()
    assert app.text[0].value == documents[4].text
    app.button(key="corpora_random").click().run()
    assert app.text[0].value in [document.text for document in documents]
    app.segmented_control(key="corpora_split").set_value("heldout").run()
    assert app.text[0].value in [document.text for document in Corpus.open(shelved, "field").documents("heldout")]
    assert page(corpus="field", corpora_view="Read", corpora_document="99999").text


def test_a_search_steps_through_its_hits_only(shelved: Workspace) -> None:
    documents = Corpus.open(shelved, "field").documents()
    hits = [text for text in (document.text for document in documents) if "place 3" in text]
    app = page(corpus="field", corpora_view="Read", corpora_find="PLACE 3")
    seen = []
    for _ in hits:
        seen.append(app.text[0].value)
        app.button(key="corpora_next").click().run()
    assert seen == hits and app.text[0].value == hits[0]
    assert f"Hit 1 of {len(hits)} documents" in made.texts(app)
    app.text_input(key="corpora_find").set_value("nowhere").run()
    assert "No document here holds" in made.texts(app)


def test_a_long_document_is_shown_in_parts(studio: Workspace, tiny_tokenizer: TextTokenizer) -> None:
    long = " ".join(f"word{number}" for number in range(8000))  # 78,889 characters, four parts
    records = [Record(kind="documents", text=f"{long} {number}", file="a") for number in range(20)]
    ingest_records(studio, "long", records, files=[], tokenizer=tiny_tokenizer)
    app = page(corpus="long", corpora_view="Read")
    assert len(app.text[0].value) == 20_000
    app.number_input(key="corpora_part").set_value(4).run()
    assert "word7999" in app.text[0].value
    app = page(corpus="long", corpora_view="Read", corpora_find="word7998")
    assert "word7998" in app.text[0].value


def test_a_preference_shows_both_answers_beside_the_unified_text(
    studio: Workspace, tiny_tokenizer: TextTokenizer
) -> None:
    records = [
        Record(
            kind="preferences",
            messages=(Message("user", f"Question {number} of many questions?"),),
            chosen=f"Good answer {number}",
            rejected=f"Bad answer {number}",
            file="a",
        )
        for number in range(60)
    ]
    ingest_records(studio, "pairs", records, files=[], tokenizer=tiny_tokenizer)
    app = page(corpus="pairs", corpora_view="Read")
    question, good, bad, unified = [text.value for text in app.text]
    number = question.split()[1]
    assert (good, bad) == (f"Good answer {number}", f"Bad answer {number}")
    assert unified == f"{question}\n\n{good}"


def test_lengths_are_drawn(shelved: Workspace) -> None:
    assert page(corpus="field", corpora_view="Lengths").get("plotly_chart")


# ---- deleting --------------------------------------------------------------------------------------------------------


def test_deleting_asks_first_and_says_who_names_the_corpus(shelved: Workspace) -> None:
    sources = [{"source": "field", "share": 1, "domain": True}]
    run = made.made_run(shelved, stage=made.stage_of(mixture__sources=sources))
    Drafts(shelved).create(made.stage_of(mixture__sources=sources))
    Drafts(shelved).create(made.stage_of(mixture__sources=[{"source": "field-2", "share": 1}]))
    kept = uploads.keep(shelved, "field", [("a.md", io.BytesIO(b"a"))])
    app = page(corpus="field")
    app.button(key="corpora_delete").click().run()
    said = made.texts(app).replace("\\", "")
    assert f"Named by 1 run ({run.id})" in said and "Named by 1 draft." in said
    assert corpus_names(shelved) == ["field", "world"]
    app.button(key="corpora_delete_yes").click().run()
    assert corpus_names(shelved) == ["world"] and not kept.exists()


def test_what_is_needed_now_is_not_deleted(shelved: Workspace) -> None:
    sources = [{"source": "field", "share": 1, "domain": True}]
    run = made.made_run(shelved, state="running", stage=made.stage_of(mixture__sources=sources))
    with pytest.raises(BadCorpus, match=f"needed by the run {run.id}"):
        shelf.delete(shelved, "field")
    shelf.add(shelved, CorpusSpec(name="world", files=["/a"]), "smollm2-135m", replace=True)
    with pytest.raises(BadCorpus, match="being made already"):
        shelf.delete(shelved, "world")
    assert corpus_names(shelved) == ["field", "world"]


def test_the_list_is_read_anew_when_a_corpus_changes(shelved: Workspace, tiny_tokenizer: TextTokenizer) -> None:
    before = {one.name: one.fingerprint for one in list_corpora(shelved)}
    records = [Record(kind="documents", text=f"another text, number {number}", file="a") for number in range(40)]
    ingest_records(shelved, "field", records, files=[], tokenizer=tiny_tokenizer, replace=True)
    after = {one.name: one.fingerprint for one in list_corpora(shelved)}
    assert after["world"] == before["world"] and after["field"] != before["field"]


def test_a_discard_after_another_tab_tried_again_does_nothing_and_says_so(studio: Workspace) -> None:
    job = made.made_job(studio, "ingest", "failed", label="field", payload={"files": []})
    app = page()
    Jobs(studio).requeue(job)
    app.button(key=f"corpora_discard_{job.id}").click().run()
    assert not app.exception
    assert "is queued" in app.toast[0].value
    assert [one.id for one, _ in shelf.under_way(studio)] == [job.id]


def test_what_was_discarded_is_not_tried_again(workspace: Workspace) -> None:
    job = made.made_job(workspace, "ingest", "failed", label="field", payload={"files": []})
    shelf.put_aside(workspace, job)
    with pytest.raises(BadInput, match="discarded"):
        shelf.again(workspace, job)


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_corpus_does_not_hide_the_others(shelved: Workspace, content: str) -> None:
    (shelved.corpora / "world" / "manifest.json").write_text(content)
    app = page()
    assert not app.exception
    assert "manifest.json" in app.warning[0].value
    assert list(app.dataframe[0].value["Name"]) == ["field"]
    app = page(corpus="world")
    assert not app.exception
    assert "manifest" in app.error[0].value
