"""From a question to prompts: all that can be known before a model is loaded. No torch.

Which base the models stand on and in which numbers, under which template, what each of them is given to read, and
which tokens end an answer. Whatever is wrong with a question is told here, before anything waits for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixcpt import machine
from mixcpt.config import ModelConfig
from mixcpt.errors import BadInput, NotFound
from mixcpt.exchanges import Answer, Exchange, Exchanges, Question, begin
from mixcpt.modelfiles import model_fingerprint
from mixcpt.modelstore import find_folder
from mixcpt.records import Message
from mixcpt.runs import Run, Runs
from mixcpt.score_jobs import NO_TEMPLATE, has_adapter, require_adapter
from mixcpt.stamps import Kept
from mixcpt.templates import ChatTemplate, PlainForm, choose_template, template_of
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, read_json

Form = ChatTemplate | PlainForm
_FORMS: Kept[Form] = Kept()


@dataclass(frozen=True)
class Base:
    """The model that adapters stand on, and how it is held: equal means that one copy in memory serves both."""

    name: str
    folder: Path
    fingerprint: str
    device: str
    precision: str

    def __str__(self) -> str:
        return f"{Path(self.name).name} ({self.precision} on {self.device})"


@dataclass(frozen=True)
class Prepared:
    """A question made ready: per voice its run (None: the base) and the ids (int32) it is given to read. `ends` are the
    tokens that end an answer."""

    exchange: Exchange
    question: Question
    base: Base
    runs: tuple[Run | None, ...]
    prompts: tuple[np.ndarray, ...]
    ends: frozenset[int]


def speakers(run: Run) -> list[Run]:
    """The runs that can be asked beside `run`: those of its chain, first stage first, that have an adapter."""
    try:
        chain = run.chain()
    except NotFound:  # one of them was deleted; the last adapter holds what they all learned
        chain = [run]
    return [one for one in chain if has_adapter(one)]


def base_of(workspace: Workspace, run: Run | None, model: str) -> Base:
    """The base of `run` as that run used it, or the base `model` as this machine holds it best.

    Raises:
        NotFound: the model's folder is gone. BadInput: it is another model than the run began with. Unavailable: this
        machine cannot hold it so.
    """
    config = run.config.model if run else ModelConfig(name=model)
    folder = find_folder(workspace, config.name)
    if folder is None:
        raise NotFound(f"The model {config.name} is not here (any more): `mixcpt model add {config.name}` fetches it.")
    fingerprint, began = model_fingerprint(folder), _began(run) if run else {}
    if run and began.get("model", fingerprint) != fingerprint:
        raise BadInput(f"The model {config.name} is another one than run {run.id} was trained on: fetch that again.")
    if "precision" in began:  # what `auto` meant then; a run that was made on a GPU may be asked on any machine
        device = "cpu" if began["device"] == "cpu" else "auto"
        config = ModelConfig.model_validate({"name": config.name, "precision": began["precision"], "device": device})
    return Base(config.name, folder, fingerprint, *_held(config, workspace))


def _held(config: ModelConfig, workspace: Workspace) -> tuple[str, str]:
    return machine.settled(config) or machine.resolve(config, machine.here(workspace))


def _began(run: Run) -> dict[str, str]:
    """Model, device and precision that a run began with; those that are known."""
    path = run.folder / "started.json"
    kept = read_json(path) if path.is_file() else run.results().get("training", {})
    return {name: kept[name] for name in ("model", "device", "precision") if name in kept}


def form_of(folder: Path, name: str | None, adapter: Path | None = None) -> Form:
    """How conversations are set out: as `templates.choose_template`, or as plain text where that finds no template or
    `name` is "none". Reading a large tokenizer takes seconds, so a form is kept as long as its files stay.

    Raises:
        NotFound: an unknown name. BadInput: "own" was asked, and there is none.
    """
    places = [folder, adapter] if adapter else [folder]
    files = [str(folder / "tokenizer.json")]
    files += [str(place / file) for place in places for file in ("chat_template.jinja", "tokenizer_config.json")]

    def read() -> Form:
        found = None if name == NO_TEMPLATE else choose_template(folder, name, adapter)
        return found or PlainForm(TextTokenizer.from_folder(folder))

    return _FORMS.get((folder, name, adapter), files, read)


def prompt_of(form: Form, messages: Sequence[Message]) -> np.ndarray:
    """The ids (int32) that ask for an answer to a conversation that ends with a user's turn."""
    if isinstance(form, ChatTemplate):
        return form.prompt(messages)
    return form.render([*messages, Message("assistant", "")]).prompt


def set_out(form: Form, question: str) -> str:
    """A question as the text that a model is given, marks of the template included."""
    return form.tokenizer.decode(prompt_of(form, [Message("user", question)]).tolist())


def ends_of(form: Form, folder: Path) -> frozenset[int]:
    """The tokens after which an answer is whole: the tokenizer's end token, what the template ends an answer with, and
    what the model's own settings name."""
    rendered = form.render([Message("user", "a"), Message("assistant", "b")])
    settings = folder / "generation_config.json"
    named = read_json(settings).get("eos_token_id") if settings.is_file() else None
    named = named if isinstance(named, list) else [named]
    ends = {form.tokenizer.eos_id, int(rendered.ids[rendered.response.end - 1])}
    return frozenset(ends | {id for id in named if isinstance(id, int)})


def prepare(workspace: Workspace, question: Question) -> Prepared:
    """Make a question ready to be answered; nothing is kept yet.

    Raises:
        BadInput: the runs stand on different bases, one has no adapter or not at that strength, the template does not
        take the conversation, or it is too long for the model. NotFound: a run, a model, a template or the earlier
        exchange is not there. Unavailable: this machine cannot hold the model as the run did.
    """
    runs = tuple(None if voice.run is None else Runs(workspace).get(voice.run) for voice in question.voices)
    named = [run for run in runs if run is not None]
    for run, voice in zip(runs, question.voices, strict=True):
        if run is not None:
            require_adapter(run)
            require_strength(run, voice.strength)
    base = _common_base(workspace, named, question.model)
    form = form_of(base.folder, question.template, _adapter_with_template(named))
    conversations = _conversations(workspace, question)
    prompts = tuple(prompt_of(form, conversation) for conversation in conversations)
    _require_room(base, max(map(len, prompts)), question.sampling.max_new_tokens)
    given = [[{"role": m.role, "content": m.content} for m in messages] for messages in conversations]
    answers = [_blank(run, voice.strength) for run, voice in zip(runs, question.voices, strict=True)]
    exchange = begin(question, answers, given)
    exchange.template, exchange.base = form.name if isinstance(form, ChatTemplate) else NO_TEMPLATE, str(base)
    return Prepared(exchange, question, base, runs, prompts, ends_of(form, base.folder))


def require_strength(run: Run, strength: float) -> None:
    """Raises BadInput where the adapter of `run` is to count in part and cannot, for it replaces whole matrices. At 0
    it does not count at all."""
    if 0 < strength < 1 and run.config.adapter.vocabulary:
        raise BadInput(
            f"Embeddings and head of run {run.id} were trained as whole matrices, so it has no strength of "
            f"{strength:g}: take 1, or 0 for the base."
        )


def _common_base(workspace: Workspace, runs: Sequence[Run], model: str) -> Base:
    bases = {run.id: base_of(workspace, run, model) for run in runs}
    if not bases:
        return base_of(workspace, None, model)
    (first, base), *others = bases.items()
    for id, other in others:
        if other != base:
            raise BadInput(
                f"Run {first} stands on {base} and run {id} on {other}, and only models of one base can be asked side "
                "by side: leave one of them out."
            )
    return base


def _adapter_with_template(runs: Sequence[Run]) -> Path | None:
    """The adapter of the last run that learned a template: every model is asked under the same one."""
    return next((run.adapter for run in reversed(runs) if template_of(run.adapter)), None)


def _conversations(workspace: Workspace, question: Question) -> list[list[Message]]:
    """What each voice is given: all the same, or, after an earlier exchange, what was said with each of them."""
    new = [Message(turn.role, turn.content) for turn in question.messages]
    if question.after is None:
        return [new for _ in question.voices]
    before = Exchanges(workspace).get(question.after)
    if [answer.run for answer in before.answers] != [voice.run for voice in question.voices]:
        raise BadInput("These are other models than those that were asked before: begin a new conversation.")
    return [
        [*(Message(**message) for message in messages), Message("assistant", answer.text), *new]
        for messages, answer in zip(before.conversations, before.answers, strict=True)
    ]


def _require_room(base: Base, prompt: int, answer: int) -> None:
    settings = read_json(base.folder / "config.json")
    settings = settings.get("text_config", settings)
    room = settings.get("max_position_embeddings", settings.get("n_positions"))
    if isinstance(room, int) and prompt + answer > room:
        raise BadInput(
            f"The conversation has {prompt:,} tokens and its answer may have {answer:,} more, but {base.name} reads "
            f"{room:,} at most: shorten it, allow a shorter answer, or begin a new conversation."
        )


def _blank(run: Run | None, strength: float) -> Answer:
    if run is None:
        return Answer(None, strength, "base", "base")
    return Answer(run.id, strength, run.title, run.info.stage)
