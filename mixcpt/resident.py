"""A base model in memory and, on it, the adapters of several runs: switched in a moment, at any strength.

Strength scales what an adapter adds to each layer (LoRA's alpha / r): at 1 the model is the run, at 0 it is the base,
exactly; between, every layer adds that share of what was learned. It costs no training, and turns every run into a
curve of gain against forgetting. What this gives up: shares of adapters that also replace whole matrices, embeddings
and head; those are used whole.
"""

import contextlib
import ctypes
import gc
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from mixcpt import machine, models
from mixcpt.errors import TooLittle
from mixcpt.estimate import PROCESS_BYTES, SLACK, shape_of, weight_bytes
from mixcpt.lssd import Head
from mixcpt.prompts import Base, require_strength
from mixcpt.runs import Run
from mixcpt.score_jobs import require_adapter
from mixcpt.stamps import Stamp, stamp
from mixcpt.tokens import TextTokenizer

ADAPTERS = 8
"""How many adapters are held at once; the one that was not used for the longest time goes first."""


@dataclass
class _Adapter:
    """An adapter in memory: what PEFT calls it, the stamps of its files, and the scale that each layer came with."""

    name: str
    stamps: tuple[Stamp, ...]
    scales: list[tuple[LoraLayer, float]]


class Resident:
    """Loads `base`; `model` is then the base, or what `use` makes of it.

    Raises:
        BadFile: the files are not what a model is made of. TooLittle: there is not enough memory.
    """

    def __init__(self, base: Base):
        needed = SLACK * weight_bytes(shape_of(base.folder), base.precision) + PROCESS_BYTES
        _require_memory(str(base), needed, base.device)
        loaded = models.load_base(base.folder, base.device, base.precision)
        self.base = base
        self.config = loaded.config
        self.tokenizer = TextTokenizer.from_folder(base.folder)
        models.verify_head(loaded, models.output_head(loaded))
        self.model: nn.Module = loaded
        self.broken = False
        """True once an adapter that does not fit has left its traces: then this is of no more use."""
        self._adapters: OrderedDict[str, _Adapter] = OrderedDict()
        self._loaded = 0
        self._in_use: tuple[str, float] | None = None

    @property
    def runs(self) -> list[str]:
        """Ids of the runs whose adapters are held."""
        return list(self._adapters)

    @property
    def head(self) -> Head:
        """Of the model as it is now."""
        return models.output_head(self.model)

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def use(self, run: Run | None, strength: float = 1.0) -> None:
        """From now on the model is that of `run` at this strength; without a run, or at strength 0, it is the base.

        Raises:
            BadInput: the run has no adapter (any more), or no such strength. BadFile: its adapter was made for another
                base. TooLittle: there is no memory for it.
        """
        if run is None or strength == 0:
            if self._in_use:
                self._tuner.disable_adapter_layers()
            self._in_use = None
            return
        require_strength(run, strength)
        adapter = self._adapter(run)
        if self._in_use == (adapter.name, strength):
            return
        self._activate(adapter.name)
        for layer, scale in adapter.scales:
            layer.scaling[adapter.name] = scale * strength
        self._in_use = (adapter.name, strength)

    def _activate(self, name: str) -> None:
        self._tuner.enable_adapter_layers()
        self._tuner.set_adapter(name, inference_mode=True)

    @property
    def _tuner(self) -> Any:
        """PEFT's part that switches adapters; there once one was loaded."""
        return cast(PeftModel, self.model).base_model

    def _adapter(self, run: Run) -> _Adapter:
        """The run's adapter, loaded now when it is not yet, or when its files have changed."""
        files = [str(run.adapter / name) for name in ("adapter_model.safetensors", "adapter_config.json")]
        stamps = tuple(map(stamp, files))
        kept = self._adapters.get(run.id)
        if kept is None or kept.stamps != stamps:
            require_adapter(run)
            self._load(run, stamps)
            if kept:
                cast(PeftModel, self.model).delete_adapter(kept.name)
            while len(self._adapters) > ADAPTERS:
                cast(PeftModel, self.model).delete_adapter(self._adapters.popitem(last=False)[1].name)
        self._adapters.move_to_end(run.id)
        return self._adapters[run.id]

    def _load(self, run: Run, stamps: tuple[Stamp, ...]) -> None:
        size = (run.adapter / "adapter_model.safetensors").stat().st_size  # large with trained embeddings and head
        _require_memory(f"The adapter of {run.id}", SLACK * size, self.device.type)
        self._loaded += 1
        name = f"adapter{self._loaded:06d}"  # none of these is a part of another, by which PEFT tells them apart
        try:
            self.model = models.load_adapter(cast(Any, self.model), run.adapter, trainable=False, name=name)
        except Exception:  # whatever it was, PEFT may have left layers behind
            self.broken = True
            raise
        self._activate(name)
        self._in_use = (name, 1.0)
        layers = [one for one in self.model.modules() if isinstance(one, LoraLayer) and name in one.scaling]
        self._adapters[run.id] = _Adapter(name, stamps, [(layer, layer.scaling[name]) for layer in layers])


def _require_memory(what: str, needed: float, device: str) -> None:
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else 1e9 * machine.memory_gb()[1]
    if needed > free:
        raise TooLittle(
            f"{what} needs about {needed / 1e9:.1f} GB of memory, but {free / 1e9:.1f} GB are free: close other "
            "programs, or take a run of a smaller model."
        )


def release_memory() -> None:
    """Give back to the system what models that are gone have held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)
