"""How base models are called outside of this machine, and their licences."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from mixcpt.modelstore import BUILTIN_MODELS
from mixcpt.origins import Origin, origin
from mixcpt.workspace import Workspace


def with_card(model: Path, folder: Path, front_matter: str) -> Path:
    shutil.copytree(model, folder)
    (folder / "README.md").write_text(f"---\n{front_matter}\n---\n\n# A model\n", encoding="utf-8")
    return folder


def test_built_in_models_go_by_their_hub_names(workspace: Workspace) -> None:
    smol, gemma = origin(workspace, "smollm2-135m"), origin(workspace, "gemma-3-270m")
    assert (smol.name, smol.licence_id, smol.link) == (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "apache-2.0",
        "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    )
    assert (gemma.name, gemma.licence_id, gemma.licence) == ("google/gemma-3-270m", "gemma", "Gemma Terms of Use")
    assert "ai.google.dev/gemma/terms" in gemma.notice and not smol.notice
    assert all(model.hub and model.quantised for model in BUILTIN_MODELS.values())


def test_a_local_folder_goes_by_its_name_and_its_card(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    assert origin(workspace, str(tiny_model_folder)) == Origin(tiny_model_folder.name, on_hub=False)
    mit = with_card(tiny_model_folder, tmp_path / "My Model", "license: mit")
    assert origin(workspace, str(mit)) == Origin("My Model", False, licence="mit", licence_id="mit")
    own = with_card(
        tiny_model_folder,
        tmp_path / "own",
        "license: other\nlicense_name: the-own-one\nlicense_link: https://example.org/licence",
    )
    found = origin(workspace, str(own))
    assert (found.licence, found.licence_id, found.licence_link) == (
        "the-own-one",
        "other",
        "https://example.org/licence",
    )


@pytest.mark.parametrize("text", ["license: [a, b]", "license: unknown", "license: '", "- 1", "license: ", "a: *x"])
def test_a_card_that_says_nothing_of_use_leaves_it_unknown(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path, text: str
) -> None:
    found = origin(workspace, str(with_card(tiny_model_folder, tmp_path / "model", text)))
    assert (found.licence, found.licence_id) == (None, "unknown")


def test_only_a_web_address_is_taken_for_a_link(workspace: Workspace, tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = with_card(tiny_model_folder, tmp_path / "m", "license: mit\nlicense_link: javascript:alert(1)")
    assert origin(workspace, str(folder)).licence_link == ""


def test_a_hub_id_stays_one_with_the_revision_that_was_fetched(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert origin(workspace, "org/name") == Origin("org/name", on_hub=True)
    cache = tmp_path / "models--org--name"
    snapshot = with_card(tiny_model_folder, cache / "snapshots" / "abc123", "license: apache-2.0")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc123")
    expected = Origin("org/name", True, licence="apache-2.0", licence_id="apache-2.0", revision="abc123")
    assert origin(workspace, "org/name") == expected
    assert origin(workspace, str(snapshot)) == expected, "a folder of the hub's cache is that model too"
