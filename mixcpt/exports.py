"""Exports of a run as they lie on disk: what can be exported, what was, and how to take it elsewhere.

    runs/<id>/exports/adapter/     the adapter for PEFT, tokenizer, chat template, README.md (the model card)
    runs/<id>/exports/merged/      an ordinary model in bf16: the base with the adapter merged, and the same beside it
    runs/<id>/exports/tasks/       the run's questions as tasks of lm-eval
    runs/<id>/exports/<kind>.zip   the same as one file, for a download

`mixcpt.exporting` makes them, by jobs of the kind `export`, which leave the accelerator alone. Each appears whole, with
an export.json that says what it was made of; one that is still right is not made again. An adapter or a merged model
may hold only a part of what was learned: its strength, 1 for all of it, 0 for the base.

What it gives up: disk, for what was exported stays with its run until one of them is removed; and two strengths side by
side, for of each kind there is one.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mixcpt import __version__, recorded
from mixcpt.card import model_card
from mixcpt.errors import BadFile, BadInput, NotFound, TooLittle
from mixcpt.estimate import shape_of
from mixcpt.jobs import MOVING, Job, Jobs
from mixcpt.modelfiles import beyond_lora, model_config, model_fingerprint
from mixcpt.modelstore import BUILTIN_MODELS, find_folder
from mixcpt.runs import Run
from mixcpt.stamps import Kept, stamp
from mixcpt.tasks import readme
from mixcpt.templates import template_of
from mixcpt.workspace import Workspace, building, locked, read_json

KINDS = ("adapter", "merged", "tasks")
MARK = "export.json"
ZIP_BYTES = 600_000_000
"""Larger exports are not offered as one file to download: the server holds it in memory for the browser."""
SPARE_DISK = 50_000_000

_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt"),
)


@dataclass(frozen=True)
class Export:
    """A finished export on disk; `made_of` changes with anything it was made of, `bytes` are those of its files, and
    `strength` is the share of the adapter that is in it."""

    run: Run
    to: str
    folder: Path
    made_of: str
    bytes: int
    strength: float = 1.0

    @property
    def name(self) -> str:
        """For a file or folder that holds it elsewhere."""
        return f"{self.run.id}-{at_strength(self.to, self.strength, '-at-')}"

    @property
    def zip(self) -> Path | None:
        """The same as one file, where that was made."""
        path = zip_path(self.run, self.to)
        return path if path.is_file() else None


def at_strength(what: str, strength: float, at: str = " at ") -> str:
    """`what` with its strength where that is not the whole."""
    return what if strength == 1 else f"{what}{at}{strength:g}"


# What can be exported


def check(workspace: Workspace, run: Run, to: str, strength: float = 1.0) -> None:
    """See that `run` can be exported at this strength.

    Raises:
        BadInput: an unknown kind; no finished adapter, or a damaged one; a base model that is gone or has changed; no
            questions; a strength that is none, or of what has none.
    """
    if to not in KINDS:
        raise BadInput(f"There is no export {to!r}: take one of {', '.join(KINDS)}.")
    check_strength(strength)
    if to == "tasks":
        _check_questions(run)
        if strength != 1:
            raise BadInput(f"The strength is {strength:g}, but questions hold no adapter: leave the strength out.")
        return
    _check_adapter(workspace, run)
    if strength != 1 and (other := beyond_lora(run.adapter)):
        raise BadInput(
            f"The adapter of run {run.id} holds more than LoRA matrices, for example {other[0]}, which have no "
            "strength: export it at strength 1."
        )
    folder = base_folder(workspace, run)
    if to == "merged" and (kept := model_config(folder).get("quantization_config")):
        raise BadInput(
            f"The weights of {run.config.model.name} are stored quantised ({kept.get('quant_method', 'in few bits')}), "
            "so nothing can be merged into them exactly: export the adapter."
        )


def check_strength(strength: float) -> None:
    """Raises BadInput when it is none."""
    if not 0 <= strength <= 1:
        raise BadInput(f"The strength is {strength:g}: take one from 0 (the base) to 1 (the run as it was trained).")


def _check_questions(run: Run) -> None:
    if not any((run.folder / "tasks").glob("*.jsonl")):
        raise BadInput(f"Run {run.id} was asked no questions yet: ask some with `mixcpt evaluate {run.id}`.")


def _check_adapter(workspace: Workspace, run: Run) -> None:
    path = run.adapter / "adapter_model.safetensors"
    if not path.is_file():
        if run.info.experiment in recorded.EXPERIMENTS:
            raise BadInput(
                f"Run {run.id} is a recorded run, which comes without its adapter: train one of your own with "
                f"`mixcpt rerun {run.id}` and export that."
            )
        raise BadInput(f"Run {run.id} is {run.state(Jobs(workspace))} and has no adapter yet: let it finish first.")
    try:
        with safe_open(path, framework="np") as file:
            whole = bool(file.keys())
        described = read_json(run.adapter / "adapter_config.json").get("peft_type") == "LORA"
    except (SafetensorError, OSError, BadFile, AttributeError):
        whole = described = False
    if not whole or not described:
        raise BadFile(
            f"The adapter of run {run.id} is damaged or not whole: train it again with `mixcpt rerun {run.id}`."
        )


def base_folder(workspace: Workspace, run: Run) -> Path:
    """Where the base model of `run` lies.

    Raises:
        NotFound: it is not there any more. BadInput: it is another than the run was trained on.
    """
    name = run.config.model.name
    folder = find_folder(workspace, name)
    if folder is None:
        local = name not in BUILTIN_MODELS and Path(name).is_absolute()
        remedy = "put it back there" if local else f"fetch it with `mixcpt model add {name}`"
        raise NotFound(f"The base model {name} of run {run.id} is not here any more: {remedy}.")
    started = run.folder / "started.json"
    known = read_json(started).get("model") if started.is_file() else None
    if known and known != model_fingerprint(folder):
        raise BadInput(
            f"The base model {name} changed since run {run.id} was trained on it, so the adapter does not belong to "
            "it: bring back the model as it was."
        )
    return folder


def estimate_bytes(workspace: Workspace, run: Run, to: str, strength: float = 1.0) -> int:
    """How much disk an export will take. Raises as `check`."""
    check(workspace, run, to, strength)
    if to == "tasks":
        return sum(path.stat().st_size for path in (run.folder / "tasks").glob("*.json*"))
    folder = base_folder(workspace, run)
    tokenizer = sum(path.stat().st_size for path in tokenizer_files(folder))
    if to == "adapter":
        return tokenizer + (run.adapter / "adapter_model.safetensors").stat().st_size
    shape = shape_of(folder)
    return tokenizer + 2 * (shape.linear_parameters + shape.other)


def tokenizer_files(folder: Path) -> list[Path]:
    """Those that lie in a model's folder, without a chat template."""
    return [folder / name for name in _TOKENIZER if (folder / name).is_file()]


def chat_template(run: Run, base: Path) -> str | None:
    """The chat template that the run was trained with, else that of its base."""
    return template_of(run.adapter) or template_of(base)


# What was exported


def find(run: Run, to: str) -> Export | None:
    """The export of this kind that lies there; whether it is still right is for `is_current` to say."""
    folder = run.folder / "exports" / to
    if not (folder / MARK).is_file():
        return None
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    mark = read_json(folder / MARK)
    return Export(run, to, folder, str(mark.get("made_of")), size, float(mark.get("strength", 1)))


def is_current(workspace: Workspace, export: Export) -> bool:
    """Whether it would be made the same again: same adapter, base, card. Raises as `check`."""
    check(workspace, export.run, export.to, export.strength)
    return export.made_of == made_of(workspace, export.run, export.to, export.strength)


_DIGESTS: Kept[str] = Kept()


def made_of(workspace: Workspace, run: Run, to: str, strength: float = 1.0) -> str:
    """A hash of all that an export is made of."""
    if to == "tasks":
        asked = sorted((run.folder / "tasks").glob("*.json*"))
        texts = [f"{path.name} {path.read_text(encoding='utf-8')}" for path in asked]
        return _hash([*texts, readme(workspace, run), __version__])
    folder, weights = base_folder(workspace, run), run.adapter / "adapter_model.safetensors"
    parts = [
        model_card(workspace, run, to, strength),
        str(strength),
        _DIGESTS.get(weights, [str(weights)], lambda: _file_hash(weights)),
        (run.adapter / "adapter_config.json").read_text(encoding="utf-8"),
        model_fingerprint(folder),
        str([stamp(str(path)) for path in tokenizer_files(folder)]),
        str(chat_template(run, folder)),
        __version__,
    ]
    return _hash(parts)


def _hash(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(run: Run, to: str) -> None:
    """Remove an export, to have its disk back; the run stays as it is. Nothing happens where there is none."""
    with locked(lock_path(run, to)):
        zip_path(run, to).unlink(missing_ok=True)
        folder = run.folder / "exports" / to
        if folder.exists():
            hidden = folder.with_name(f".building-{to}-gone")  # gone at once, however long the removal takes
            folder.rename(hidden)
            shutil.rmtree(hidden)


def take(export: Export, out: Path) -> None:
    """Copy an export to the new folder `out`, which appears whole.

    Raises:
        BadInput: there is something already. TooLittle: the disk there is too full.
    """
    check_out(out, export.bytes)
    with building(out) as unfinished:
        shutil.copytree(export.folder, unfinished, dirs_exist_ok=True)
        check_out(out)  # somebody may have put something there meanwhile


def check_out(out: Path, bytes: int = 0) -> None:
    """Raises BadInput or TooLittle when a folder of so many bytes cannot be made at `out`."""
    if out.exists() or out.is_symlink():
        raise BadInput(f"{out} is there already: name a folder that does not exist yet.")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir():
        raise BadInput(f"{out} cannot be made, for {there} is a file: name another folder.")
    free = shutil.disk_usage(there).free
    if bytes and free < bytes + SPARE_DISK:
        raise TooLittle(
            f"{out} needs {bytes / 1e9:.1f} GB of disk, but {free / 1e9:.1f} GB are free there: free some space, or "
            "name a folder on another disk."
        )


def zip_path(run: Run, to: str) -> Path:
    return run.folder / "exports" / f"{to}.zip"


def lock_path(run: Run, to: str) -> Path:
    """Held by whoever makes or removes an export of this kind."""
    return run.folder / "exports" / f".{to}.lock"


# Its job


def submit(workspace: Workspace, run: Run, to: str, zipped: bool = False, strength: float = 1.0) -> Job:
    """Queue an export; while the same one waits or runs it is that. `zipped`: also as one file, where it is small.

    Raises:
        BadInput: it cannot be exported; see `check`.
    """
    check(workspace, run, to, strength)
    with locked(lock_path(run, "submit")):
        job = latest_job(workspace, run, to)
        if job and job.state in MOVING and job.payload.get("strength") == strength:
            return job
        payload = {"to": to, "zip": zipped, "strength": strength}
        label = f"{run.title}, {at_strength(to, strength)}"
        return Jobs(workspace).submit("export", payload, run=run.id, label=label)


def latest_job(workspace: Workspace, run: Run, to: str) -> Job | None:
    """The last job that exported, or will export, this kind of this run."""
    mine = (job for job, _ in reversed(Jobs(workspace).snapshot()) if job.run == run.id and job.kind == "export")
    return next((job for job in mine if job.payload.get("to") == to), None)
