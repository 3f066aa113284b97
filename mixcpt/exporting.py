"""Making an export of a run: the `export` job. Where exports lie, and what is in them, stands in `mixcpt.exports`.

No path of this machine is in an exported adapter or model: its base goes by the name that others know (`origins`). Only
merging needs torch, on the CPU.
"""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mixcpt import __version__, machine
from mixcpt.card import model_card
from mixcpt.errors import TooLittle
from mixcpt.estimate import PROCESS_BYTES, SLACK, shape_of
from mixcpt.exports import (
    MARK,
    SPARE_DISK,
    ZIP_BYTES,
    Export,
    at_strength,
    base_folder,
    chat_template,
    check,
    estimate_bytes,
    find,
    is_current,
    lock_path,
    made_of,
    tokenizer_files,
    zip_path,
)
from mixcpt.modelfiles import model_config, stored_in_bf16
from mixcpt.origins import origin
from mixcpt.prompts import ends_of
from mixcpt.runs import Run, Runs
from mixcpt.tasks import export_tasks
from mixcpt.templates import choose_template, template_of
from mixcpt.tokens import TextTokenizer
from mixcpt.worker import JobContext
from mixcpt.workspace import Workspace, building, locked, now, read_json, write_atomic, write_json

Progress = Callable[[float | None, str], None]
Stop = Callable[[], None]
"""Called often; raises Interrupted when the user wants to stop."""

_ASIDE = {"chat_template", "name_or_path", "_name_or_path", "tokenizer_file", "special_tokens_map_file", "is_local",
          "local_files_only"}  # fmt: skip
"""What of tokenizer_config.json is left out: where it once lay, and the template, which lies beside it."""
_SHARD = "5GB"


def run_job(context: JobContext) -> str:
    """The `export` job. Payload: `to`; `zip` (default False): also as one file, where it is small; `strength` (default
    1), the share of the adapter."""
    payload = context.job.payload
    run, strength = Runs(context.workspace).get(str(context.job.run)), float(payload.get("strength", 1))
    export = make(context.workspace, run, str(payload["to"]), strength, progress=context.progress, stop=context.check)
    if payload.get("zip") and export.bytes <= ZIP_BYTES and export.zip is None:
        context.progress(0.95, "packing it into one file")
        pack(context.workspace, export, context.check)
    size = f"{export.bytes / 1e6:,.1f} MB" if export.bytes >= 1e5 else f"{export.bytes / 1e3:,.0f} kB"
    return f"Exported {at_strength(export.to, strength)}: {size}."


def make(
    workspace: Workspace,
    run: Run,
    to: str,
    strength: float = 1.0,
    *,
    progress: Progress = lambda fraction, message: None,
    stop: Stop = lambda: None,
) -> Export:
    """Export `run`, unless that was done and nothing has changed since; returns what lies there then.

    `strength`, from 0 to 1, is the share of the adapter that goes along: base + strength * delta.

    Raises:
        BadInput: as `exports.check`. TooLittle: too little disk or memory. Interrupted: by `stop`. Nothing half-done
            stays behind.
    """
    check(workspace, run, to, strength)
    with locked(lock_path(run, to)):
        for stale in (run.folder / "exports").glob(f".building-{to}-*"):  # of a process that was killed
            shutil.rmtree(stale)
        there = find(run, to)
        if there and there.strength == strength and is_current(workspace, there):
            return there
        workspace.require_disk(
            estimate_bytes(workspace, run, to, strength) + SPARE_DISK, f"Exporting run {run.id} ({to})"
        )
        zip_path(run, to).unlink(missing_ok=True)
        mark = {"run": run.id, "to": to, "strength": strength, "mixcpt": __version__}
        mark["made_of"] = made_of(workspace, run, to, strength)
        with building(run.folder / "exports" / to) as folder:
            if to == "tasks":
                folder.rmdir()  # it wants to make its folder itself
                export_tasks(workspace, run, folder)
            else:
                _write(workspace, run, to, strength, folder, progress, stop)
            write_json(folder / MARK, mark | {"created": now()})
        made = find(run, to)
    assert made is not None, "it was just made"
    return made


def pack(workspace: Workspace, export: Export, stop: Stop = lambda: None) -> Path:
    """An export as one zip beside it, its files not compressed (weights hardly shrink). Raises TooLittle."""
    target = zip_path(export.run, export.to)
    workspace.require_disk(export.bytes + SPARE_DISK, f"Packing the export of run {export.run.id}")
    unfinished = target.with_name(f".building-{target.name}")
    with locked(lock_path(export.run, export.to)):
        try:
            with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_STORED) as archive:
                for path in sorted(export.folder.rglob("*")):
                    stop()
                    archive.write(path, f"{export.name}/{path.relative_to(export.folder)}")
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    return target


def _write(
    workspace: Workspace, run: Run, to: str, strength: float, folder: Path, progress: Progress, stop: Stop
) -> None:
    base, known = base_folder(workspace, run), origin(workspace, run.config.model.name)
    if to == "adapter":
        progress(0.1, "writing the adapter")
        shutil.copyfile(run.adapter / "adapter_model.safetensors", folder / "adapter_model.safetensors")
        settings = weakened(read_json(run.adapter / "adapter_config.json"), strength)
        write_json(folder / "adapter_config.json", settings | {"base_model_name_or_path": known.name})
    else:
        _write_merged(run, base, strength, folder, progress, stop)
    stop()
    progress(0.9, "writing tokenizer and model card")
    _write_tokenizer(run, base, folder)
    write_atomic(folder / "README.md", model_card(workspace, run, to, strength))
    if known.notice:
        write_atomic(folder / "NOTICE", known.notice + "\n")


def weakened(settings: dict[str, Any], strength: float) -> dict[str, Any]:
    """An adapter_config.json at this strength: what a layer adds is proportional to its alpha, with rsLoRA too."""
    if strength == 1:
        return settings
    own = {layers: alpha * strength for layers, alpha in (settings.get("alpha_pattern") or {}).items()}
    return settings | {"lora_alpha": settings["lora_alpha"] * strength, "alpha_pattern": own}


def _write_merged(run: Run, base: Path, strength: float, folder: Path, progress: Progress, stop: Stop) -> None:
    _require_memory(run, base)
    progress(0.0, "loading the base model")
    from mixcpt.merging import merge

    def added(fraction: float) -> None:
        stop()
        progress(0.1 + 0.5 * fraction, "adding the adapter to the weights")

    model = merge(base, run.adapter, added, strength)
    progress(0.6, "writing the weights")
    model.save_pretrained(folder, max_shard_size=_SHARD)
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # they are written for nobody else to read
    write_json(folder / "generation_config.json", generation_config(base, run.adapter))


def _require_memory(run: Run, folder: Path) -> None:
    """Raises TooLittle when the merged model cannot be held in memory: the base, its largest matrix three times in
    fp32, and the adapter."""
    shape = shape_of(folder)
    largest = max((rows * columns for rows, columns in shape.linear), default=0)
    model = (shape.linear_parameters + shape.other) * (2 if stored_in_bf16(folder) else 4)
    adapter = (run.adapter / "adapter_model.safetensors").stat().st_size
    needed, (_, free) = SLACK * (PROCESS_BYTES + model + 12 * largest + adapter), machine.memory_gb()
    if needed > free * 1e9:
        raise TooLittle(
            f"Merging run {run.id} needs about {needed / 1e9:.1f} GB of memory, but {free:.1f} GB are free here: close "
            "other programs, or export the adapter."
        )


def generation_config(base: Path, adapter: Path) -> dict[str, Any]:
    """How text is generated: what the base says, with every token id at which an answer ends, and one to pad with.

    An answer ends at the base's own end tokens, at the tokenizer's, and at the end of turn of the template that the
    adapter was trained with.
    """
    path = base / "generation_config.json"
    kept = read_json(path) if path.is_file() else {}
    kept.pop("_from_model_config", None)  # it would be made anew of config.json then
    ends = [*_ids(kept.get("eos_token_id", model_config(base).get("eos_token_id")))]
    ends.append(TextTokenizer.from_folder(base).eos_id)
    if template_of(adapter) and (template := choose_template(base, None, adapter)):
        ends += sorted(ends_of(template, base))
    ends = list(dict.fromkeys(ends))
    pads = [kept.get("pad_token_id"), _pad_id(base), ends[0]]
    return kept | {
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": next(pad for pad in pads if pad is not None),
    }


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _pad_id(folder: Path) -> int | None:
    pad = read_json(folder / "tokenizer_config.json").get("pad_token")
    text = pad.get("content") if isinstance(pad, dict) else pad
    return Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(text) if text else None


def _write_tokenizer(run: Run, base: Path, folder: Path) -> None:
    for path in tokenizer_files(base):
        shutil.copyfile(path, folder / path.name)
    settings = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {key: value for key, value in settings.items() if key not in _ASIDE})
    if template := chat_template(run, base):
        write_atomic(folder / "chat_template.jinja", template)
