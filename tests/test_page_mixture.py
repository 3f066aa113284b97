"""The Mixture page: every share and option reaches the draft, and what is shown is what will be trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from browser import pretend_built_in
from made import open_page, texts, widget_of
from streamlit.testing.v1 import AppTest

from app import mixture_view
from mixcpt import mixture
from mixcpt.config import SourceShare
from mixcpt.corpus import ingest_records, remove
from mixcpt.drafts import Draft, Drafts, default_stage
from mixcpt.jobs import Jobs
from mixcpt.presets import value_at
from mixcpt.records import Record
from mixcpt.settings import override
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

SOURCES = [{"source": "field", "share": 60, "domain": True}, {"source": "world", "share": 40, "domain": False}]


@pytest.fixture
def ready(
    small_corpora: Workspace, studio: Workspace, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer
) -> Workspace:
    """A workspace in which two corpora are tokenised for a built-in model that pretends."""
    pretend_built_in(studio, tiny_model_folder)
    mixture.prepare(studio, made_draft(studio).stage.mixture, tiny_tokenizer)
    return studio


def made_draft(workspace: Workspace, sources: Sequence[dict[str, Any]] = SOURCES, **changes: Any) -> Draft:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return Drafts(workspace).create(override(default_stage(), {"mixture.sources": [*sources], **dotted}))


def opened(workspace: Workspace, draft: Draft) -> AppTest:
    app = open_page("mixture", draft=draft.id)
    assert not app.exception
    return app


def kept(workspace: Workspace, draft: Draft) -> Draft:
    found = Drafts(workspace).get(draft.id)
    assert isinstance(found, Draft)
    return found


def sources(workspace: Workspace, draft: Draft) -> list[SourceShare]:
    return kept(workspace, draft).stage.mixture.sources


def said(app: AppTest) -> str:
    return texts(app).replace("\\", "")


def prepare_jobs(workspace: Workspace) -> list[Any]:
    return [job for job in Jobs(workspace).all() if job.kind == "prepare"]


def test_without_the_model_one_job_is_queued_however_often_the_page_is_drawn(studio: Workspace) -> None:
    app = open_page("mixture")
    for _ in range(3):
        app.run()
    assert not open_page("mixture").exception and not app.exception
    assert "Preparing the preview" in said(app)
    (job,) = prepare_jobs(studio)
    assert job.payload["model"] == "smollm2-135m" and len(job.payload["texts"]) == len(job.payload["sources"]) == 4


@pytest.mark.parametrize(("end", "sentence"), [("failed", "There is **no** network."), ("done", "")])
def test_a_job_that_did_not_help_is_tried_again_only_on_request(studio: Workspace, end: str, sentence: str) -> None:
    app = open_page("mixture")
    (job,) = prepare_jobs(studio)
    job.update(state=end, message="There is **no** network.")
    app.run().run()
    assert len(prepare_jobs(studio)) == 1
    assert sentence in said(app) and not app.exception
    app.button(key="prepared_prepare_again").click().run()
    assert [one.status.state for one in prepare_jobs(studio)] == [end, "queued"]


def test_another_text_is_another_job(ready: Workspace, tiny_tokenizer: TextTokenizer) -> None:
    draft = made_draft(ready)
    assert not prepare_jobs(ready) and opened(ready, draft) and not prepare_jobs(ready)
    for number in range(2):
        records = [Record(kind="documents", text=f"Text {number} of page {page}. " * 9, file="x") for page in range(20)]
        ingest_records(ready, "field", records, files=[], tokenizer=tiny_tokenizer, replace=True)
        assert "Preparing the preview" in said(opened(ready, draft))
        jobs = prepare_jobs(ready)
        assert len(jobs) == number + 1
        jobs[-1].update(state="done")


def test_the_preview_is_the_mixture_that_is_trained_on(ready: Workspace, tiny_tokenizer: TextTokenizer) -> None:
    for on in ("heldout", "validation"):
        draft = made_draft(ready, measures__on=on)
        found = mixture_view.realised(draft)
        assert found
        trained = mixture.realise(ready, draft.stage.mixture, tiny_tokenizer, validation=on == "validation")
        assert found[0].fingerprint() == trained.fingerprint()
        assert found[0].available == trained.available
    assert trained.available[0] < trained.available[1]  # a tenth of the field is kept for the validation


def test_weights_of_a_source_reach_the_draft_and_stand_in_its_line(ready: Workspace) -> None:
    draft = made_draft(ready)
    app = opened(ready, draft)
    assert "loss times" not in said(app)
    app.number_input(key="mixture_weight_field").set_value(2.0).run()
    app.number_input(key="mixture_retention_weight_world").set_value(0.0).run()
    field, world = sources(ready, draft)
    assert (field.weight, field.retention_weight, world.weight, world.retention_weight) == (2, 1, 1, 0)
    assert "field, loss times 2" in said(app) and "world, retention times 0" in said(app)
    app.number_input(key="mixture_weight_field").set_value(-1.0).run()
    assert "greater than or equal to 0" in said(app) and not app.exception
    assert sources(ready, draft)[0].weight == 2
    app.number_input(key="mixture_weight_field").set_value(0.0).run()
    assert sources(ready, draft)[0].weight == 0


def test_a_share_reaches_the_draft_and_the_outcome(ready: Workspace) -> None:
    draft = made_draft(ready)
    app = opened(ready, draft)
    assert "**field** is read" in said(app) and "**world** is read to" in said(app)
    app.number_input(key="mixture_share_world").set_value(540).run()
    assert [one.share for one in sources(ready, draft)] == [60, 540]
    assert "**field** is read to" in said(app) and "**world** repeats" in said(app)
    app.number_input(key="mixture_share_field").set_value(0).run()
    assert [one.share for one in sources(ready, draft)] == [0, 540]
    assert "**field** is read" not in said(app)


def test_shares_that_are_all_0_stay_typed_and_the_last_good_mixture_is_kept(ready: Workspace) -> None:
    draft = made_draft(ready)
    app = opened(ready, draft)
    app.number_input(key="mixture_share_field").set_value(0).run()
    app.number_input(key="mixture_share_world").set_value(0).run()
    assert "sum to 0" in said(app) and "This is exactly row 1" in said(app)
    assert app.number_input(key="mixture_share_world").value == 0
    assert [one.share for one in sources(ready, draft)] == [0, 40]
    app.number_input(key="mixture_share_field").set_value(5).run()
    assert "sum to 0" not in said(app) and [one.share for one in sources(ready, draft)] == [5, 0]


def test_a_kind_with_several_sources_shares_its_part_among_them(ready: Workspace) -> None:
    both = [SOURCES[0] | {"share": 30}, SOURCES[1] | {"share": 10, "domain": True}]
    draft = made_draft(ready, both)
    app = opened(ready, draft)
    assert app.number_input(key="mixture_kind_field").value == 40
    app.number_input(key="mixture_kind_field").set_value(20).run()
    assert [one.share for one in sources(ready, draft)] == [15, 5]
    app.number_input(key="mixture_kind_field").set_value(0).run()
    app.number_input(key="mixture_kind_field").set_value(8).run()
    assert [one.share for one in sources(ready, draft)] == [4, 4]


@pytest.mark.parametrize(
    ("preset", "shares"), [("Field only", [100, 0]), ("60 : 20 : 12 : 8", [60, 20]), ("Half and half", [50, 25])]
)
def test_presets(ready: Workspace, preset: str, shares: list[float]) -> None:
    draft = made_draft(ready)
    opened(ready, draft).button(key=f"mixture_preset_{preset}").click().run()
    assert [one.share for one in sources(ready, draft)] == shares


def test_a_preset_that_would_leave_nothing_cannot_be_chosen(ready: Workspace) -> None:
    app = opened(ready, made_draft(ready, SOURCES[1:]))
    assert app.button(key="mixture_preset_Field only").disabled


def test_a_corpus_of_ones_own_takes_the_place_of_the_atlas(ready: Workspace) -> None:
    atlas = {"source": "builtin/atlas", "share": 70, "domain": True}
    draft = made_draft(ready, [atlas, SOURCES[1]])
    app = opened(ready, draft)
    app.selectbox(key="mixture_add").set_value("field").run()
    assert sources(ready, draft)[1:] == [SourceShare(source="field", share=70, domain=True)]
    assert widget_of(app, "selectbox", "mixture_add").value is None
    widget_of(app, "selectbox", "mixture_add").set_value("builtin/instructions").run()
    assert sources(ready, draft)[-1] == SourceShare(source="builtin/instructions", share=10)
    assert not app.exception


def test_another_corpus_of_ones_own_gets_an_equal_part_of_the_field(ready: Workspace) -> None:
    draft = made_draft(ready, [SOURCES[0], {"source": "builtin/replay", "share": 20, "domain": False}])
    opened(ready, draft).selectbox(key="mixture_add").set_value("world").run()
    assert [(one.source, one.share, one.domain) for one in sources(ready, draft)] == [
        ("field", 30, True),
        ("builtin/replay", 20, False),
        ("world", 30, True),
    ]


def test_a_source_is_marked_as_the_field_and_taken_out(ready: Workspace) -> None:
    draft = made_draft(ready)
    app = opened(ready, draft)
    app.toggle(key="mixture_domain_world").set_value(True).run()
    assert [one.domain for one in sources(ready, draft)] == [True, True]
    app.button(key="mixture_remove_field").click().run()
    assert [one.source for one in sources(ready, draft)] == ["world"]
    assert app.button(key="mixture_remove_world").disabled


@pytest.mark.parametrize(
    ("kind", "key", "given"),
    [
        ("number_input", "mixture_mixture.budget_tokens", 9000),
        ("number_input", "mixture_more_mixture.row_tokens", 128),
        ("toggle", "mixture_more_mixture.domain_tokens_only", True),
        ("selectbox", "mixture_more_mixture.preference_text", "both"),
        ("text_input", "mixture_more_mixture.joiner", " | "),
        ("selectbox", "mixture_more_mixture.template", "alpaca"),
        ("number_input", "mixture_more_mixture.domain_documents", 3),
        ("number_input", "mixture_more_mixture.seed", 7),
    ],
)
def test_every_option_reaches_the_draft_and_is_shown_again(ready: Workspace, kind: str, key: str, given: Any) -> None:
    draft = made_draft(ready)
    widget_of(opened(ready, draft), kind, key).set_value(given).run()
    path = key[key.index("mixture.") :]
    assert value_at(kept(ready, draft).stage, path) == given
    again = opened(ready, draft)
    assert widget_of(again, kind, key).value == given and "This is exactly row" in said(again)


def test_turning_the_rows(ready: Workspace) -> None:
    draft = made_draft(ready)
    app = opened(ready, draft)
    found = mixture_view.realised(draft)
    assert found
    total = len(found[0])
    assert app.button(key="mixture_previous").disabled
    app.button(key="mixture_next").click().run()
    assert "This is exactly row 2 of" in said(app)
    app.button(key="mixture_previous").click().run()
    assert "This is exactly row 1 of" in said(app)
    app.button(key="mixture_random").click().run()
    assert not app.exception and 1 <= (app.number_input(key="mixture_row").value or 0) <= total
    app.number_input(key="mixture_row").set_value(total).run()
    assert f"This is exactly row {total} of {total}" in said(app) and app.button(key="mixture_next").disabled
    app.number_input(key="mixture_mixture.budget_tokens").set_value(1000).run()
    assert not app.exception and 1 <= (app.number_input(key="mixture_row").value or 0) < total


def test_the_document_is_shown_as_text(ready: Workspace, tiny_tokenizer: TextTokenizer) -> None:
    nasty = "<img src=x onerror=alert(1)></script> **b** $x$ \x1b[31m "
    records = [Record(kind="documents", text=nasty + f"page {page} " * 30, file="<b>.md") for page in range(9)]
    ingest_records(ready, "nasty", records, files=[], tokenizer=tiny_tokenizer)
    draft = made_draft(ready, [{"source": "nasty", "share": 1, "domain": True}])
    mixture.prepare(ready, draft.stage.mixture, tiny_tokenizer)
    app = opened(ready, draft)
    assert any("<img src=x onerror=alert(1)>" in element.value for element in app.text)
    marked = "\n".join(element.value for element in [*app.markdown, *app.caption])
    assert "<img" not in marked and "<b>" not in marked and "$x$" not in marked


def test_a_corpus_that_was_deleted_is_one_sentence_and_can_be_taken_out(ready: Workspace) -> None:
    draft = made_draft(ready)
    remove(ready, "field")
    app = opened(ready, draft)
    assert len(app.error) == 1 and "field" in app.error[0].value
    assert "This corpus is not there any more" in said(app) and not prepare_jobs(ready)
    app.button(key="mixture_remove_field").click().run()
    assert not app.error and "This is exactly row 1" in said(app)
