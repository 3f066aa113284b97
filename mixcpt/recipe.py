"""A recipe: a whole experiment in one YAML file, and how it is read. `mixcpt.recipes` carries it out."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from mixcpt.errors import BadConfig, BadFile
from mixcpt.settings import Config, override, read_yaml, setting, validate
from mixcpt.stages import AnyStage, Sft, Stage, amend, dotted, follow, read_stage


class CorpusSpec(Config):
    """A corpus that a recipe needs; ingested when the workspace does not have it."""

    name: str = setting(label="Corpus", level="basic", help="The name under which sources refer to it.")
    files: list[str] = setting([], label="Files", help="Files or folders, relative to the recipe.")
    hub: str | None = setting(
        None, label="Hub data set", help="Id of a data set on the Hugging Face hub, instead of files."
    )
    hub_config: str | None = setting(None, label="Hub configuration", help="Name of the data set's configuration.")
    hub_dir: str | None = setting(
        None, label="Hub folder", help="The folder of the data set that is read, for example python; empty reads all."
    )
    split: str = setting("train", label="Hub split", help="Which split of the hub data set.")
    limit: int | None = setting(
        None, label="Records at most", unit="records", ge=1, help="Reads only the first N records."
    )
    kind: Literal["documents", "instructions", "preferences"] | None = setting(
        None, label="Kind", help="Guessed from the columns when empty."
    )
    text_column: str | None = setting(None, label="Text column", help="Guessed when empty.")
    where: dict[str, str] = setting(
        {},
        label="Only records where",
        help="Keeps only records whose meta field has this value, for example split: train.",
    )

    @model_validator(mode="after")
    def _own_name(self) -> Self:
        if self.name.startswith("builtin-"):
            raise ValueError(
                f"corpus {self.name!r} has a name kept for built-in sources: choose one without 'builtin-'"
            )
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.files) == bool(self.hub):
            raise ValueError(f"corpus {self.name!r} needs either files or hub, not {'both' if self.hub else 'neither'}")
        return self


class Arm(Config):
    """One variant of the recipe's stage."""

    name: str = setting(label="Arm", help="Name of the variant.")
    set: dict[str, Any] = setting(
        {},
        label="Changes",
        help="Dotted settings of the knowledge stage and their values in this arm; those of the stages after it begin "
        "with sft. or dpo.",
    )
    tuned: str | None = setting(
        None, label="Tuned like", help="Takes the value that tuning found for this tuning group; see `tune`."
    )
    times: float = setting(
        1.0, label="Times", gt=0, help="Multiplies the tuned value, for example 0.5 for half the rate."
    )
    ends: Literal["cpt", "sft"] | None = setting(
        None, label="Ends with", help="The last stage of this arm, where it leaves out those after it; empty: all."
    )


class Tuning(Config):
    """Short runs on a validation split that choose one setting before the arms start."""

    field: str = setting("training.learning_rate", label="Setting", help="The dotted setting that is chosen.")
    values: list[float] = setting(label="Values", help="What is tried.", min_length=2)
    budget_tokens: int = setting(
        8_000, label="Tokens per try", unit="tokens", ge=64, help="Training tokens of each short run."
    )
    groups: dict[str, dict[str, Any]] = setting(
        label="Groups", help="Per tuning group, the dotted changes under which it is tuned.", min_length=1
    )


_INHERITED = ("stage", "model", "mixture", "adapter")
_FURTHER = ("stage", "model", "adapter")
"""What a stage takes over from the one before, and what a recipe therefore cannot set."""


class Recipe(Config):
    """A whole experiment: corpora, a chain of stages, its arms and seeds."""

    name: str = setting(label="Recipe", help="Also the name of the experiment.", pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    description: str = setting("", label="Description", help="What it is for, in a sentence.")
    corpora: list[CorpusSpec] = setting([], label="Corpora", help="Ingested when missing.")
    parent: str | None = setting(
        None, label="Starts from", help="Id of a run that the knowledge stage continues; empty starts from the base."
    )
    cpt: Stage = setting(label="Continual pre-training", help="The knowledge stage.")
    then: list[dict[str, Any]] = setting(
        [],
        label="Further corpora",
        help="Knowledge stages after it, one after the other, each on the adapter of the one before: settings as far "
        "as they differ from the stage before, above all mixture.sources.",
    )
    sft: dict[str, Any] | None = setting(
        None,
        label="Supervised fine-tuning",
        help="Settings of the stage after it, as far as they differ from the usual ones; measures and questions are "
        "those of the knowledge stage unless they are given. Empty: there is no such stage.",
    )
    dpo: dict[str, Any] | None = setting(
        None, label="Preference optimisation", help="The same for DPO, which continues SFT, or the knowledge stage."
    )
    arms: list[Arm] = setting([], label="Arms", help="Variants of the stage; none means the stage as it stands.")
    tune: Tuning | None = setting(None, label="Tuning", help="Chooses a setting for the arms beforehand.")
    seeds: list[Annotated[int, Field(ge=0)]] | None = setting(
        None, label="Seeds", help="Every arm is run once per seed. Empty: once, with the seeds that the stage names."
    )
    max_minutes: float | None = setting(
        None, label="Time limit", unit="minutes", gt=0, help="Refuses to start a run that is estimated to take longer."
    )

    def chain(
        self, cpt: Stage, changes: dict[str, Any] | None = None, ends: Literal["cpt", "sft"] | None = None
    ) -> list[AnyStage]:
        """The resolved stages, first to last: `cpt` under the dotted `changes`, then what the recipe and they say of
        the stages after it, up to the one that it `ends` with.

        Raises:
            BadConfig: an unknown setting or a contradiction.
        """
        parts = _parts(changes or {})
        found: list[AnyStage] = [*self._knowledge(cpt, parts)]
        later = {"cpt": [], "sft": [("sft", self.sft)]}.get(ends or "", [("sft", self.sft), ("dpo", self.dpo)])
        for name, given in later:
            if given is not None:
                found.append(_following(found[-1], name, given, parts[name]))
            elif parts[name]:
                raise BadConfig(
                    f"{name}.{next(iter(parts[name]))} is set, but the recipe has no stage {name}: add `{name}: {{}}`."
                )
        return found

    def _knowledge(self, cpt: Stage, parts: dict[str, dict[str, Any]]) -> list[Stage]:
        """The knowledge stages: each has the settings of the one before, but for what is said of it."""
        _require_then(parts, self.then)
        found = [override(cpt, parts["cpt"])]
        for number, given in enumerate(self.then):
            found.append(_further(found[-1], f"then.{number}", given, parts.get(f"then.{number}", {})))
        return found

    def seeds_or_none(self) -> list[int | None]:
        """The seeds to run under; a single None stands for those that the stage names."""
        return [*self.seeds] if self.seeds else [None]

    @model_validator(mode="after")
    def _arms(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"two arms share a name in {names}: rename one")
        if self.seeds is not None and len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {self.seeds} name a seed twice")
        groups = self.tune.groups if self.tune else {}
        self.chain(self.cpt)
        for arm in self.arms:
            if arm.tuned is not None and arm.tuned not in groups:
                raise ValueError(f"arm {arm.name!r} is tuned like {arm.tuned!r}, but tune.groups has {sorted(groups)}")
            self.chain(self.cpt, arm.set, arm.ends)
        for name, changes in groups.items():
            stage = override(self.cpt, changes)
            if not stage.mixture.domain_sources():
                raise ValueError(
                    f"tuning group {name!r} has no field to be judged by: mark one of mixture.sources domain: true"
                )
            if stage.measures.domain_tokens == 0:
                raise ValueError(
                    f"tuning group {name!r} has no measure to be judged by: set measures.domain_tokens above 0"
                )
        return self


def _parts(changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Dotted changes by the stage that they are of, the stage's name taken off."""
    parts: dict[str, dict[str, Any]] = {"cpt": {}, "sft": {}, "dpo": {}}
    for path, value in changes.items():
        stage, _, rest = path.partition(".")
        number, _, of_further = rest.partition(".")
        if stage in ("sft", "dpo") and rest:
            parts[stage][rest] = value
        elif stage == "then" and of_further:
            parts.setdefault(f"then.{number}", {})[of_further] = value
        else:
            parts["cpt"][path] = value
    return parts


def _require_then(parts: dict[str, dict[str, Any]], then: list[dict[str, Any]]) -> None:
    """See that every further stage that is changed is there."""
    known = {f"then.{number}" for number in range(len(then))}
    for name, changes in parts.items():
        if name.startswith("then.") and name not in known:
            raise BadConfig(
                f"{name}.{next(iter(changes))} is set, but the recipe has no stage {name}: it has {len(then)} under "
                "`then`, counted from 0."
            )


def _following(before: AnyStage, name: str, given: dict[str, Any], changes: dict[str, Any]) -> Sft:
    """The stage `name` after `before`, as the recipe gives it, with an arm's changes on top."""
    for path in (*given, *changes):
        if path.partition(".")[0] in _INHERITED:
            raise BadConfig(f"{name}.{path} cannot be set, for it is that of the stage before: set it in cpt.")
    try:
        return amend(follow(before, "dpo" if name == "dpo" else "sft", given), changes)
    except BadConfig as problem:
        raise BadConfig(f"In {name}: {str(problem).removeprefix('In these changes: ')}") from None


def _further(before: Stage, name: str, given: dict[str, Any], changes: dict[str, Any]) -> Stage:
    """The knowledge stage `name` after `before`, with an arm's changes on top."""
    for path in (*given, *changes):
        if path.partition(".")[0] in _FURTHER:
            raise BadConfig(f"{name}.{path} cannot be set, for it is that of the stage before: set it in cpt.")
    try:
        return override(before, dict(dotted(given | changes, before.model_dump())))
    except BadConfig as problem:
        raise BadConfig(f"In {name}: {str(problem).removeprefix('In these changes: ')}") from None


def changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with dotted changes, for example "cpt.training.learning_rate", "then.0.mixture.budget_tokens" or
    "sft.training.epochs"."""
    parts = _parts(changes)
    _require_then(parts, recipe.then)
    own = parts["cpt"]
    for number, settings in enumerate(recipe.then):
        if more := parts.get(f"then.{number}"):
            own[f"then.{number}"] = settings | more
    for name, given in (("sft", recipe.sft), ("dpo", recipe.dpo)):
        whole = {name: changes[name]} if name in changes else {}
        if parts[name]:
            whole = {name: (given or {}) | parts[name]}
        own |= whole
    return override(recipe, own)


def load_recipe(path: Path, changes: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe (YAML), apply dotted `changes` on top.

    Raises:
        BadFile: the file is missing, a folder, or not YAML.
        BadConfig: an unknown key or a contradiction.
    """
    if path.is_dir():
        raise BadFile(f"{path} is a folder, but a recipe file was expected: name the .yaml file.")
    if not path.is_file():
        raise BadFile(f"There is no recipe at {path}: check the path, or see the folder recipes/.")
    recipe = validate(Recipe, _settings(path.read_bytes(), str(path)), str(path))
    return changed(recipe, changes) if changes else recipe


def uploaded(content: bytes, name: str) -> Recipe | AnyStage:
    """The recipe, or the one stage, in a YAML file that somebody sent. Aliases (*) are refused: a few lines of them can
    stand for gigabytes.

    Raises:
        BadFile: not YAML, or with aliases. BadConfig: an unknown key or a contradiction.
    """
    data = _settings(content, name, aliases=False)
    return read_stage(data, name) if "mixture" in data else validate(Recipe, data, name)


def _settings(content: bytes, origin: str, aliases: bool = True) -> dict[str, Any]:
    """The top-level keys of a YAML file."""
    try:
        text = content.decode("utf-8-sig")
        if not aliases and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise BadFile(f"{origin} uses YAML aliases (*name), which are not taken: write every value out.")
        data = read_yaml(text)
    except RecursionError:
        raise BadFile(f"{origin} is nested too deeply to be settings: write `key: value` lines.") from None
    except (yaml.YAMLError, ValueError) as error:  # bytes that are no UTF-8, or a number of thousands of digits
        reason = " ".join(str(error).replace(' in "<unicode string>",', " in").split())[:200].rstrip(" ^:")
        raise BadFile(f"{origin} is not valid YAML: {reason}; correct it there, and save it as UTF-8.") from None
    if not isinstance(data, dict):
        raise BadFile(f"{origin} holds {type(data).__name__} instead of settings: write `key: value` lines.")
    return data
