"""Where a model comes from: the name the outside world knows it by, its licence, and what must go along with a copy.

For what leaves this machine, in which no path of it may stand. Nothing is fetched: what is not known from the built-in
table or from a model card beside the weights stays unknown, and whoever reads it is sent to the base model.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mixcpt.modelstore import BUILTIN_MODELS, BuiltinModel, find_folder
from mixcpt.workspace import Workspace

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_COPY = re.compile(r"models--([^/]+)--([^/]+)/snapshots/([0-9a-f]+)")
"""Where the hub's own cache keeps a revision of a model."""
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_LICENCE_IDS = {"Gemma Terms of Use": "gemma"}
"""As the hub calls them; others are called there as everywhere, in small letters."""
_MOST_README = 200_000


@dataclass(frozen=True)
class Origin:
    """A base model as others know it.

    name: a hub id where `on_hub`, else what its folder is called. licence: in words, None when it is not known;
    licence_id: the hub's word for it. notice: a sentence that must go with every copy. quantised: how its numbers were
    stored before they came here, where that was in fewer bits. revision: of the hub, where it is known.
    """

    name: str
    on_hub: bool
    licence: str | None = None
    licence_id: str = "unknown"
    licence_link: str = ""
    terms: str = ""
    notice: str = ""
    package: str = ""
    quantised: str = ""
    revision: str = ""

    @property
    def link(self) -> str:
        """Its page on the hub; empty where it has none that is known."""
        return f"https://huggingface.co/{self.name}" if self.on_hub else ""

    @property
    def to_load(self) -> str:
        """What stands where a program elsewhere is told to load it: its hub id, or a path for the reader to fill in."""
        return self.name if self.on_hub else f"path/to/{self.name}"


def origin(workspace: Workspace, name: str) -> Origin:
    """What is known of the model called `name` in a configuration: built in, a local folder, or a hub id."""
    if name in BUILTIN_MODELS:
        return _builtin(BUILTIN_MODELS[name])
    local = Path(name).expanduser().absolute()
    folder = local if local.is_dir() else find_folder(workspace, name)
    place = _HUB_COPY.search(folder.as_posix()) if folder else None
    revision = place[3] if place else ""
    if not local.is_dir() and _HUB_ID.fullmatch(name):
        return Origin(name, on_hub=True, revision=revision, **_licence(folder))
    if place:
        return Origin(f"{place[1]}/{place[2]}", on_hub=True, revision=revision, **_licence(folder))
    return Origin(local.name or "base", on_hub=False, **_licence(folder))


def _builtin(model: BuiltinModel) -> Origin:
    return Origin(
        model.hub or model.name,
        on_hub=bool(model.hub),
        licence=model.licence,
        licence_id=_LICENCE_IDS.get(model.licence, model.licence.lower()),
        terms=model.terms or "",
        notice=model.notice,
        package=model.source,
        quantised=model.quantised,
    )


def _licence(folder: Path | None) -> dict[str, Any]:
    """What the model card in the folder says of the licence; nothing where it says none."""
    card = _front_matter(folder / "README.md") if folder else {}
    said = card.get("license")
    if not isinstance(said, str) or not said.strip() or said == "unknown":
        return {}
    words = card.get("license_name") if said == "other" else said
    link = card.get("license_link")
    return {
        "licence": str(words or said),
        "licence_id": said,
        "licence_link": link if isinstance(link, str) and link.startswith("https://") else "",
    }


def _front_matter(path: Path) -> dict[str, Any]:
    """The YAML at the top of a model card; empty where there is none that can be read, for others wrote it."""
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", errors="replace") as file:
        found = _FRONT_MATTER.match(file.read(_MOST_README))
    try:
        values = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
