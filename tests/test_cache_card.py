"""The teacher cache in the app: on the home page, beside a launch, and in the figures of a run."""

from pathlib import Path

import numpy as np
import pytest
from made import made_child, made_run, open_page, texts
from streamlit.testing.v1 import AppTest
from test_coverage import FACTS, fill
from test_training import stage

from app.tiles import tiles
from mixcpt import machine
from mixcpt.drafts import Drafts
from mixcpt.mixture import realise
from mixcpt.overview import summary
from mixcpt.runs import Run
from mixcpt.teachercache import Origin, limit, size
from mixcpt.teacherstore import Store
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

WIDTH = 100


@pytest.fixture
def filled(studio: Workspace) -> Workspace:
    """40 tokens of a model with a name that is markup, 8,000 bytes and a record of 32."""
    store = Store(studio, Origin("<b>*tiny*", "0" * 16, "cpu", "bf16"), owner="run", width=WIDTH)
    store.add([(b"0" * 16, np.zeros((40, WIDTH), np.uint16))])
    store.close()
    return studio


def words(app: AppTest) -> str:
    return texts(app).replace("\\", "")


def test_an_empty_cache_says_when_it_fills(studio: Workspace) -> None:
    app = open_page("home")
    assert not app.exception
    assert "It fills by itself" in words(app)
    assert app.button(key="home_cache_clear").disabled


def test_home_shows_how_large_it_is_and_empties_it(filled: Workspace) -> None:
    app = open_page("home")
    assert "40 tokens, 8.0 kB" in words(app) and "bf16 on the processor" in words(app)
    assert not [caption for caption in app.caption if "<b>*tiny*" in caption.value]  # escaped
    app.button(key="home_cache_clear").click().run()
    assert not app.exception
    assert size(filled).bytes == 0
    assert "It fills by itself" in words(app)
    assert [toast.value for toast in app.toast] == ["8.0 kB of the teacher cache dropped."]


def test_its_limit_is_set_on_home(filled: Workspace) -> None:
    app = open_page("home")
    assert app.number_input(key="home_cache_limit").value == 20
    app.number_input(key="home_cache_limit").set_value(3.0).run()
    assert limit(filled) == 3_000_000_000 and size(filled).bytes == 8032
    app.number_input(key="home_cache_limit").set_value(0.0).run()
    assert not app.exception
    assert limit(filled) == 0 and size(filled).bytes == 0
    assert "Turned off" in words(app)


def test_damaged_settings_take_no_page_along(filled: Workspace) -> None:
    (filled.teacher_cache / "settings.json").write_text("{", encoding="utf-8")
    app = open_page("home")
    assert not app.exception
    assert "is damaged" in app.error[0].value
    assert "What to do next" in words(app)


def test_a_launch_tells_what_is_at_hand(studio: Workspace, small_corpora: Workspace, tiny_model_folder: Path) -> None:
    folder = studio.models / "tiny"
    folder.symlink_to(tiny_model_folder)
    machine.keep(studio, FACTS)
    draft = Drafts(studio).create(stage(folder), experiment="mine")
    cold = open_page("launch", draft=draft.id)
    assert not cold.exception
    assert "Teacher cache" not in words(cold)  # the texts are not tokenised yet
    fill(studio, folder, mixture__sources__1__share=0)
    realise(studio, draft.stage.mixture, TextTokenizer.from_folder(folder))
    warm = words(open_page("launch", draft=draft.id))
    assert "of the tokens are at hand; the frozen original reads" in warm
    fill(studio, folder)
    assert "all tokens are at hand" in words(open_page("launch", draft=draft.id))


def tile(workspace: Workspace, id: str, label: str) -> str:
    now = summary(workspace, id)
    assert now is not None
    return {name: value for name, value, _ in tiles(now, Run(workspace.runs / id))}[label]


def test_a_run_shows_its_pace(workspace: Workspace) -> None:
    run = made_run(workspace, state="running")
    assert tile(workspace, run.id, "Of this machine's peak") == "–"
    assert tile(workspace, run.id, "From the teacher cache") == "–"
    for step in range(6, 30):
        run.append(
            {"step": step, "tokens": 1024 * step, "loss": 2.0, "ce": 2.0, "learning_rate": 1e-3, "seconds": 8.0,
             "tokens_per_second": 128.0, "memory_bytes": 2_000_000_000, "peak_share": 0.184, "cached_tokens": 512}
        )  # fmt: skip
    assert tile(workspace, run.id, "Of this machine's peak") == "18%"
    assert tile(workspace, run.id, "From the teacher cache") == "–"  # the first steps did not tell
    child = made_child(workspace, None)
    assert tile(workspace, child.id, "From the teacher cache") == "–"


def test_the_figures_of_a_run_stand_on_its_page(studio: Workspace) -> None:
    app = open_page("runs", run=made_run(studio).id)
    assert not app.exception
    labels = [metric.label for metric in app.metric]
    assert {"Speed", "Of this machine's peak", "From the teacher cache", "Memory"} <= set(labels)
