"""The Export tab of a run: every kind, every state it may stand in, and every button."""

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from exportable import exportable_run, tiny_model
from in_process import InProcess
from made import made_run, open_page, texts
from streamlit.testing.v1 import AppTest

from mixcpt import exporting, exports, recorded
from mixcpt.jobs import Jobs
from mixcpt.runs import Run
from mixcpt.settings import override, to_yaml
from mixcpt.workspace import Workspace

NASTY = "<script>alert(1)</script> **x** $y$ :red[z]"


@pytest.fixture
def run(studio: Workspace, tiny_tokenizer_folder: Path, tmp_path: Path) -> Run:
    return exportable_run(studio, tiny_model("llama", tmp_path / "little-llama", tiny_tokenizer_folder), name=NASTY)


def tab(run: Run, to: str = "adapter") -> AppTest:
    app = open_page("runs", run=run.id, runs_view="Export")
    return app.radio(key="export_to").set_value(to).run() if to != "adapter" else app


def labels(app: AppTest) -> dict[str, str]:
    return {str(button.key): button.label for button in app.button if str(button.key).startswith("export")}


def export_jobs(workspace: Workspace) -> list[dict[str, object]]:
    return [job.payload for job in Jobs(workspace).all() if job.kind == "export"]


@pytest.mark.parametrize("to", exports.KINDS)
def test_each_kind_is_exported_with_its_size_told_before(studio: Workspace, run: Run, to: str) -> None:
    app = tab(run, to)
    assert labels(app)["export_start"].startswith("Export, about ") and "of disk are free" in texts(app)
    app.button(key="export_start").click().run()
    assert export_jobs(studio) == [{"to": to, "zip": True, "strength": 1.0}] and not app.exception
    assert "export_start" not in labels(app) and labels(app)["export_cancel"] == "Cancel"
    InProcess(studio).run_until([job.id for job in Jobs(studio).all() if job.kind == "export"])
    app.run()
    made = exports.find(run, to)
    assert made and made.zip and not app.exception
    downloads: list[Any] = [*app.get("download_button")]
    assert [button.label[:10] for button in downloads] == ["Download, "]
    assert str(made.folder) in texts(app) and "Exported, " in texts(app)
    wanted = {"adapter": "PeftModel.from_pretrained(base, ", "merged": "AutoModelForCausalLM", "tasks": "lm_eval "}
    assert wanted[to] in texts(app)


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_so_much_of_the_adapter_as_the_slider_says(studio: Workspace, run: Run, to: str) -> None:
    app = tab(run, to)
    app.slider(key=f"export_strength_{to}").set_value(0.5).run()
    assert labels(app)["export_start"].startswith("Export at strength 0.5, about ")
    assert "Its adapter is at strength 0.5" in texts(app), "the card tells it beforehand"
    app.button(key="export_start").click().run()
    assert export_jobs(studio) == [{"to": to, "zip": True, "strength": 0.5}]
    InProcess(studio).run_until([job.id for job in Jobs(studio).all() if job.kind == "export"])
    app.run()
    made = exports.find(run, to)
    assert made and made.strength == 0.5 and "Exported at strength 0.5, " in texts(app) and not app.exception
    app.slider(key=f"export_strength_{to}").set_value(1.0).run()
    assert "It was exported at strength 0.5 last; another export takes its place." in texts(app)
    assert labels(app)["export_start"].startswith("Export, about ")
    again = tab(run, to)
    assert again.slider(key=f"export_strength_{to}").value == 0.5 and "Exported at strength 0.5, " in texts(again)


def test_a_run_with_trained_embeddings_has_no_strength(studio: Workspace, run: Run) -> None:
    (run.folder / "config.yaml").write_text(to_yaml(override(run.config, {"adapter.vocabulary": True})))
    for to in ("adapter", "merged"):
        app = tab(run, to)
        assert not app.slider and "It goes along whole: embeddings and head were trained too" in texts(app)
        assert labels(app)["export_start"].startswith("Export, about ")


def test_questions_have_no_strength(studio: Workspace, run: Run) -> None:
    assert not tab(run, "tasks").slider


def test_a_double_click_exports_once(studio: Workspace, run: Run) -> None:
    one, other = tab(run), tab(run)
    one.button(key="export_start").click().run()
    other.button(key="export_start").click().run()
    assert len(export_jobs(studio)) == 1 and not other.exception


def test_it_can_be_cancelled(studio: Workspace, run: Run) -> None:
    exports.submit(studio, run, "adapter")
    app = tab(run)
    app.button(key="export_cancel").click().run()
    (job,) = [job for job in Jobs(studio).all() if job.kind == "export"]
    assert job.state == "cancelled" and "export_start" in labels(tab(run))
    running = exports.submit(studio, run, "adapter")
    running.update(state="running", message="adding the adapter", progress=0.4)
    app = tab(run)
    app.button(key="export_cancel").click().run()
    assert running.requested() == "cancel" and app.button(key="export_cancel").disabled


def test_a_failed_export_says_why_and_can_be_tried_again(studio: Workspace, run: Run) -> None:
    exports.submit(studio, run, "adapter").update(state="failed", message="The disk **burst**.")
    app = tab(run)
    assert "The disk \\*\\*burst\\*\\*\\." in texts(app)
    app.button(key="export_start").click().run()
    assert len(export_jobs(studio)) == 2


def test_a_full_disk_is_said_beforehand(studio: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 0))
    app = tab(run)
    assert app.button(key="export_start").disabled and "free some space first" in texts(app)


def test_what_is_out_of_date_is_said_and_made_again(studio: Workspace, run: Run) -> None:
    exporting.make(studio, run, "adapter")
    assert "Exported, " in texts(tab(run))
    run.relabel(name="another")
    app = tab(run)
    assert "out of date" in texts(app) and "export_start" in labels(app)


def test_an_export_by_command_gets_its_zip_here(studio: Workspace, run: Run) -> None:
    made = exporting.make(studio, run, "adapter")
    app = tab(run)
    app.button(key="export_zip").click().run()
    InProcess(studio).run_until([job.id for job in Jobs(studio).all() if job.kind == "export"])
    assert made.zip and exports.find(run, "adapter") == made


def test_what_is_too_large_is_not_offered_as_a_download(
    studio: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporting.make(studio, run, "adapter")
    monkeypatch.setattr(exports, "ZIP_BYTES", 10)
    app = tab(run)
    assert "Too large to download here" in texts(app) and "export_zip" not in labels(app)


def test_an_export_is_removed_after_a_second_click(studio: Workspace, run: Run) -> None:
    exporting.make(studio, run, "adapter")
    app = tab(run)
    app.button(key="export_remove_yes").click().run()
    assert exports.find(run, "adapter") is None and "export_start" in labels(app) and not app.exception


def test_the_card_is_shown_and_shows_names_as_they_are(studio: Workspace, run: Run) -> None:
    app = tab(run, "merged")
    (card,) = [element.value for element in app.markdown if "Intended use and limits" in str(element.value)]
    assert card.startswith("### \\<script\\>alert\\(1\\)\\</script\\> \\*\\*x\\*\\* \\$y\\$ \\:red\\[z\\]")
    assert "license:" not in card and "#### Results" in card and "\n# " not in card
    assert not [element for element in tab(run, "tasks").markdown if "Intended use" in str(element.value)]


def test_what_cannot_be_exported_is_one_sentence(studio: Workspace, run: Run) -> None:
    shutil.rmtree(Path(run.config.model.name))
    assert "is not here any more" in texts(tab(run)) and not labels(tab(run))
    waiting = made_run(studio, state="running")
    assert "has no adapter yet" in texts(tab(waiting)) and "asked no questions yet" in texts(tab(waiting, "tasks"))
    shipped = recorded.add(studio)[0]
    assert "comes without its adapter" in texts(tab(shipped)) and not tab(shipped).exception


def test_an_export_outlives_its_base_model(studio: Workspace, run: Run) -> None:
    made = exporting.make(studio, run, "merged")
    shutil.rmtree(Path(run.config.model.name))
    app = tab(run, "merged")
    assert "is not here any more" in texts(app) and str(made.folder) in texts(app) and not app.exception
