"""The model card of a run: a README.md as the Hugging Face hub reads it, made of what lies on disk.

It tells what the model is, where its base comes from and under which licence, every stage that led to it, what was
read and what was held out, what was gained and forgotten, how to load it, and what it should not be trusted with. What
users wrote (names, tags) is escaped, and no path of this machine is in it. The same run gives the same card. What it
gives up: anything that nobody measured; it then says so instead.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from typing import Any

import yaml

from mixcpt import __version__, facts, snippets
from mixcpt.facts import Fact, Line
from mixcpt.journal import mixture_table, realised
from mixcpt.modelstore import find_folder
from mixcpt.notes import as_table, escape_for_files
from mixcpt.origins import origin
from mixcpt.runs import Run
from mixcpt.stages import AnyStage, Stage
from mixcpt.templates import template_of
from mixcpt.workspace import Workspace

_TAGS = {"cpt": "continual-pretraining", "sft": "sft", "dpo": "dpo"}
_STEPS = {"cpt": "further pre-training", "sft": "supervised fine-tuning", "dpo": "preference optimisation"}
_PAPER = "[Mix-CPT](https://arxiv.org/abs/2407.10804)"


def model_card(workspace: Workspace, run: Run, to: str, strength: float = 1.0) -> str:
    """The card (Markdown) of `run` exported as "adapter" or "merged", with so much of its adapter (0 to 1).

    Raises:
        Damaged: files of a run of its chain cannot be read.
    """
    card = _Card(workspace, run, to == "merged", escape_for_files, strength)
    return f"{card.front_matter()}\n\n{card.text()}\n"


def card_to_show(workspace: Workspace, run: Run, to: str, escaped: Callable[[str], str], strength: float = 1.0) -> str:
    """As `model_card`, for a page: without the front matter, its headings two levels deeper, and what users wrote as
    `escaped` makes it. Raises as `model_card`."""
    text = _Card(workspace, run, to == "merged", escaped, strength).text()
    return re.sub(r"^(?=#+ )", "##", text, flags=re.MULTILINE)


class _Card:
    def __init__(self, workspace: Workspace, run: Run, merged: bool, escaped: Callable[[str], str], strength: float):
        self.workspace, self.run, self.merged, self.plain = workspace, run, merged, escaped
        self.strength = strength
        self.config: AnyStage = run.config
        self.base = origin(workspace, self.config.model.name)
        self.chain, self.lost = facts.chain(workspace, run)
        self.manifests = {name: facts.manifest(workspace, name) for name in facts.sources(self.chain)}
        self.quantised = any(results.get("precision") == "nf4" for results in self._trainings())
        self.field = ", ".join(map(self.plain, self.config.mixture.domain_sources()))

    def text(self) -> str:
        parts = [f"# {self.plain(self.run.title)}", *self._what_it_is(), *self._base()]
        parts += [*self._stages(), *self._data(), *self._results(), *self._loading(), *self._limits()]
        return "\n\n".join([*parts, *self._versions()])

    def _trainings(self) -> list[dict[str, Any]]:
        return [results for run in self.chain if (results := run.results().get("training"))]

    # What it is

    def front_matter(self) -> str:
        values: dict[str, Any] = {"license": self.base.licence_id}
        if self.base.licence_id == "other":
            values["license_name"] = self.base.licence
        if self.base.licence_link:
            values["license_link"] = self.base.licence_link
        if self.base.on_hub:
            values["base_model"] = self.base.name
            values["base_model_relation"] = "finetune" if self.merged else "adapter"
        values["library_name"] = "transformers" if self.merged else "peft"
        values["pipeline_tag"] = "text-generation"
        values["tags"] = ["mix-cpt", "lora", *dict.fromkeys(_TAGS[run.info.stage] for run in self.chain)]
        if hub := sorted({m.spec.hub for m in self.manifests.values() if m and m.spec and m.spec.hub}):
            values["datasets"] = hub
        return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)}---"

    def _what_it_is(self) -> Iterator[str]:
        what = "A language model" if self.merged else "A LoRA adapter"
        how = "with its adapter merged into the weights, in bf16" if self.merged else "to be loaded on top of it"
        steps = _and([_STEPS[run.info.stage] for run in self.chain])
        yield (
            f"{what} made of {self._base_name()} by {steps} with {_PAPER}, {how}. Its field: "
            f"{self.field or 'none was marked'}. What was gained there and what was forgotten in general were measured "
            "side by side; both are told below."
        )
        if self.strength != 1:
            yield self._part_of_it()
        told = [("Run", f"{self.plain(self.run.id)}, experiment {self.plain(self.run.info.experiment)}")]
        if tags := self.run.labels.tags:
            told.append(("Tags", ", ".join(map(self.plain, tags))))
        if trained := self.run.results().get("training"):
            share = f"{trained['trainable_parameters']:,} of {trained['total_parameters']:,}"
            told.append(("Trained parameters", f"{share}; those of the base never changed"))
        yield _list(told)

    def _part_of_it(self) -> str:
        alpha = self.config.adapter.alpha
        how = (
            "so much of the adapter was added to the weights"
            if self.merged
            else f"`lora_alpha` is {alpha * self.strength:g} here, where training had {alpha:g}"
        )
        return (
            f"**Its adapter is at strength {self.strength:g}**: every layer adds that share of what was learned (1 is "
            f"the run as it was trained, 0 the base); {how}. The results below are those at strength 1: measure again "
            "before you rely on a number."
        )

    def _base_name(self) -> str:
        return f"[{self.plain(self.base.name)}](<{self.base.link}>)" if self.base.link else self.plain(self.base.name)

    def _base(self) -> Iterator[str]:
        base = self.base
        yield "## Base model and licence"
        told = [("Base", self._base_name())]
        told.append(("Its licence", self.plain(base.licence) if base.licence else "not known here: see the base model"))
        if base.revision:
            told.append(("Revision", base.revision))
        yield _list(told)
        yield (
            "What is made of a model stays under that model's licence; the licences of the texts that were read come "
            "on top of it."
        )
        if base.terms:
            yield f"The base comes under {base.terms}."
        if base.notice:
            yield f"> {base.notice}"
        if base.quantised:
            yield self._other_weights()

    def _other_weights(self) -> str:
        there = (
            "This folder holds those that were trained on, with the adapter added."
            if self.merged
            else "On the hub's weights this adapter works too, but its scores there were not measured; the merged "
            "export of the same run holds the weights that were trained on."
        )
        return (
            f"The weights that were trained on came from {self.plain(self.base.package)}, which keeps them as GGUF in "
            f"about 4 bits ({self.plain(self.base.quantised)}), so they differ a little from those on the hub. {there}"
        )

    # How it was made

    def _stages(self) -> Iterator[str]:
        yield "## How it was made"
        if self.lost:
            yield f"It goes on from run {self.plain(self.lost)}, which was deleted and so cannot be told of."
        if len(self.chain) > 1:
            yield "One adapter was trained through all stages; each went on where the one before it had ended."
        for number, run in enumerate(self.chain, 1):
            config = run.config
            yield f"### {number}. {facts.STAGE_TITLES[config.stage]}"
            yield _list((name, self.plain(value)) for name, value in facts.training(self.workspace, run))
            if isinstance(config, Stage):
                yield self._table(mixture_table(config.mixture, realised(run)))

    def _data(self) -> Iterator[str]:
        yield "## Data"
        yield self._table([facts.DATA, *(facts.data(name, manifest) for name, manifest in self.manifests.items())])
        yield (
            "Documents and tokens are those of the whole source; what is held out is never trained on. The fingerprint "
            "changes with any text of the source."
        )

    # Results

    def _results(self) -> Iterator[str]:
        yield "## Results"
        lines = [line for run in self.chain if (line := facts.measured(run))]
        if not lines:
            yield "Nothing was measured."
            return
        yield (
            "Bits per byte are the bits that a model needs for a byte of held-out text: fewer are better. The base was "
            f"measured on the same text in the same numbers ({facts.computed(self._trainings()[-1])})."
        )
        yield self._table([facts.MEASURED, *lines])
        yield self._measured_on()
        yield from self._questions()
        yield from self._answers()
        if self.quantised:
            yield self._other_numbers()

    def _measured_on(self) -> str:
        measures = self.config.measures
        part = "held-out text" if measures.on == "heldout" else "training documents that this run left out"
        return (
            f"Field: {measures.domain_tokens:,} tokens of its {part}. General text: {measures.general_tokens:,} tokens "
            f"held out of {self.plain(measures.general)}. KL: nats per token between base and model on "
            f"{measures.prompt_tokens:,} tokens of general instructions. *Gain* is positive where the field got "
            "better, *forgetting* where general text got worse."
        )

    def _questions(self) -> Iterator[str]:
        lines = [line for run in self.chain for line in facts.asked(run)]
        if not lines:
            yield "No questions were asked of it."
            return
        yield (
            "Questions by lm-eval: percent of right answers with 95 % intervals over the questions. *Guessing* is what "
            "blind choice would score, *always the same* what the most frequent place of the answer would."
        )
        yield self._table([facts.ASKED, *lines])

    def _answers(self) -> Iterator[str]:
        lines = [line for run in self.chain for line in facts.answers(run)]
        if not lines:
            return
        yield (
            "The form of its answers to held-out prompts, base → this, in percent of the answers: whether they end by "
            "themselves, hold nothing of the template, and are half to twice as long as the reference. The difference "
            "is that of all three, in points with its 95 % interval. Whether they are right was not looked at."
        )
        yield self._table([facts.FORMAT, *lines])

    def _other_numbers(self) -> str:
        then = (
            "The weights in this folder are merged into the base as it is stored, not into its 4-bit copy, so their "
            "scores differ from these: measure them before you rely on a number."
            if self.merged
            else "With the base in bf16 or fp32 they come out differently: measure again before you rely on a number."
        )
        return f"**These scores were taken with the base held in 4 bits (NF4).** {then}"

    # Use

    def _loading(self) -> Iterator[str]:
        yield "## How to load it"
        yield _code(snippets.load_merged() if self.merged else snippets.load_adapter(self.base.to_load))
        folder = find_folder(self.workspace, self.config.model.name)
        if trained := template_of(self.run.adapter) or (folder and template_of(folder)):
            whose = "with which it was trained" if trained == template_of(self.run.adapter) else "of its base"
            yield f"The tokenizer in this folder brings the chat template {whose}:"
            yield _code(snippets.CHAT)
        else:
            yield "It has no chat template: give it the beginning of a text to go on with."
            yield _code(snippets.CONTINUE)
        if not self.merged:
            yield (
                "Any program that reads PEFT adapters loads it. It belongs to this base only: on another one it does "
                "not fit, or makes nonsense."
            )

    def _limits(self) -> Iterator[str]:
        yield "## Intended use and limits"
        limits = [
            f"Made to know {self.field or 'the texts above'} better than its base. It is the outcome of an "
            "experiment, not a product: try it on questions of your own first.",
            "It states what it learned and what it made up with the same confidence. Look up every fact, and do not "
            "use it where health, law, money or safety are at stake.",
            "Nothing was done here to make it safe. What the base answered, and what it refused, may have changed.",
            "*Forgetting* means the texts and questions named above and no others: what was not measured may have "
            "suffered unseen. Small question sets leave wide intervals.",
            "It may repeat passages of what it read word for word: do not publish it where those texts are private.",
        ]
        if all(run.info.stage == "cpt" for run in self.chain):
            limits.append(
                "It was trained on plain text alone, so it may follow instructions, or end its answers, worse than "
                "its base."
            )
        yield "\n".join(f"- {limit}" for limit in limits)

    def _versions(self) -> Iterator[str]:
        yield "## Versions"
        packages = ["torch", "transformers", "peft", "tokenizers"]
        packages += ["trl"] * any(run.info.stage != "cpt" for run in self.chain)
        packages += ["bitsandbytes"] * self.quantised
        packages += ["lm_eval"] * any("evaluation" in run.results() for run in self.chain)
        found = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
        yield f"Written by mixcpt {__version__} beside {found}."

    def _table(self, lines: Iterable[Line]) -> str:
        return as_table([self.plain(cell) for cell in line] for line in lines)


def _list(told: Iterable[Fact]) -> str:
    """Facts whose values are Markdown already."""
    return "\n".join(f"- **{name}:** {value}" for name, value in told)


def _code(lines: str) -> str:
    return f"```python\n{lines}\n```"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
