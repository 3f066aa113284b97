"""Studies: a question asked of several arms under several seeds. A study is a recipe with the claims that it is about.

    experiments/<name>/study.json    the study as it was begun: its kind, what was chosen, its recipe, its pairs

The runs are those of the experiment, and how they stand is read from them: a study has no other state, so it can be
stopped, killed and carried on (`mixcpt.study_runs`). What this gives up: a study cannot be changed once it has begun;
another choice is another study.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mixcpt.builtin import SOURCES, find_source
from mixcpt.drafts import as_name
from mixcpt.errors import BadInput, NotFound
from mixcpt.overview import RunSummary, overview
from mixcpt.planned import planned
from mixcpt.recipe import Recipe
from mixcpt.requirements import source_kind
from mixcpt.settings import Config, setting, validate
from mixcpt.study_kinds import KINDS, Choice, Kind, short, stage_of, tuning_of, untuned_arms
from mixcpt.tuning import untuned
from mixcpt.workspace import Workspace, check_name, now, read_json, write_json


class Study(Config):
    """A study as it lies on disk."""

    kind: str = setting(label="Study", help="Which of the shipped studies it is.")
    created: str = setting(label="Begun", help="When it was begun.")
    choice: Choice = setting(label="Choice", help="What was chosen for it.")
    recipe: Recipe = setting(label="Recipe", help="Its arms and seeds.")
    pairs: list[tuple[str, str]] = setting(label="Pairs", help="Arms that claims are about, and against which.")
    strengths: dict[str, list[float]] = setting({}, label="Strengths", help="Measured at the end beside 1, by arm.")
    noise: list[float] = setting(
        [], label="Noise", help="Shares of documents that are spoiled in copies of the corpus."
    )
    measured: int = setting(
        0, label="Measured", unit="tokens", ge=0, help="Of each held-out text read at the end; 0: nothing is."
    )

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def title(self) -> str:
        return KINDS[self.kind].title if self.kind in KINDS else self.recipe.name

    @property
    def question(self) -> str:
        return self.recipe.description

    @property
    def arms(self) -> list[str]:
        return [arm.name for arm in self.recipe.arms]


def kind_of(id: str) -> Kind:
    """Raises NotFound, with those there are, when no study is called so."""
    if id not in KINDS:
        raise NotFound(f"There is no study {id!r}: choose from {', '.join(KINDS)}.")
    return KINDS[id]


def make(workspace: Workspace, id: str, choice: Choice, name: str = "") -> Study:
    """The study of this kind for a choice; nothing is written or started.

    Raises:
        NotFound: no such study or corpus. BadInput: a corpus holds no documents, or so many corpora or models do not
            fit.
    """
    kind = kind_of(id)
    for corpus in choice.corpora:
        if (found := source_kind(workspace, corpus)) != "documents":
            raise BadInput(f"The corpus {corpus!r} holds {found}, but a field is learned from documents: take another.")
    if choice.then and not kind.several_corpora:
        raise BadInput(f"The study {id!r} takes one corpus, but {len(choice.corpora)} are named: name one.")
    if kind.several_corpora and len(set(choice.corpora)) < 2:
        raise BadInput(
            f"The study {id!r} learns one corpus after another: name at least two, for example --corpus builtin/atlas "
            "--then my-field."
        )
    if len(choice.models) > 1 and not kind.several_models:
        raise BadInput(f"The study {id!r} takes one model, but {len(choice.models)} are named: name one.")
    if kind.several_models and len({short(model) for model in choice.models}) < 2:
        raise BadInput(
            f"The study {id!r} compares models: name at least two, for example smollm2-135m and gemma-3-270m."
        )
    if choice.measured == 1:
        raise BadInput("One token measures nothing: let 2 tokens of each text or more be measured at the end, or 0.")
    parts = kind.parts(choice, train_documents(workspace, choice.corpus))
    tune = tuning_of(choice, parts.groups)
    recipe = Recipe(
        name=check_name(name or suggested_name(workspace, id, choice), "study name"),
        description=kind.question,
        cpt=stage_of(choice, parts.cpt),
        then=parts.then,
        sft=parts.sft,
        dpo=parts.dpo,
        arms=parts.arms if tune else untuned_arms(parts.arms),
        tune=tune,
        seeds=choice.seeds,
    )
    return Study(
        kind=id,
        created=now(),
        choice=choice,
        recipe=recipe,
        pairs=parts.pairs,
        strengths=parts.strengths,
        noise=parts.noise,
        measured=min(choice.measured, choice.tokens),
    )


def train_documents(workspace: Workspace, source: str) -> int:
    """Documents for training; of a built-in source that is not made yet, all."""
    corpus = find_source(workspace, source)
    return corpus.manifest.split.train.documents if corpus else len(SOURCES[source]())


def suggested_name(workspace: Workspace, id: str, choice: Choice) -> str:
    """A name that no experiment of the workspace has yet."""
    base = as_name(f"{id}-{choice.corpus.removeprefix('builtin/')}")[:56]
    taken = {path.name for path in workspace.experiments.iterdir()} | {run.experiment for run in overview(workspace)}
    names = [base, *(f"{base}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


# On disk


def save(workspace: Workspace, study: Study) -> None:
    """Begin it: from now on it is listed.

    Raises:
        BadInput: there is an experiment of that name which is not this study.
    """
    path = workspace.experiments / study.name / "study.json"
    if path.exists():
        there = open_study(workspace, study.name)
        if (there.recipe, there.measured) == (study.recipe, study.measured):
            return
        raise BadInput(f"There is a study {study.name!r} already, of another choice: give this one another name.")
    if any(run.experiment == study.name for run in overview(workspace)):
        raise BadInput(f"There is an experiment {study.name!r} already: give the study another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, study.model_dump(mode="json"))


def open_study(workspace: Workspace, name: str) -> Study:
    """Raises NotFound, with those there are; BadConfig when this version cannot read it."""
    path = workspace.experiments / check_name(name, "study name") / "study.json"
    if not path.is_file():
        known = [study.name for study in studies(workspace)]
        there = (
            f"take one of {', '.join(known)}"
            if known
            else "none was begun yet; `mixcpt study list` shows what there is"
        )
        raise NotFound(f"There is no study {name!r}: {there}.")
    return validate(Study, read_json(path), f"the study {name}")


def studies(workspace: Workspace) -> list[Study]:
    """All that were begun, the newest first."""
    folders = [path.parent.name for path in workspace.experiments.glob("[!.]*/study.json")]
    return sorted((open_study(workspace, name) for name in folders), key=lambda study: study.created, reverse=True)


# How it stands


@dataclass(frozen=True)
class Cell:
    """One arm under one seed: the states of its runs as one (new, queued, running, paused, done, failed, cancelled),
    how far it is (0 to 1), and the run at which it stands, None before there is one."""

    arm: str
    seed: int
    state: str
    progress: float
    run: str | None
    message: str = ""


def grid(workspace: Workspace, study: Study, runs: Sequence[RunSummary] | None = None) -> list[list[Cell]]:
    """A line an arm, a cell a seed."""
    every = [run for run in runs or overview(workspace) if run.experiment == study.name]
    return [[_cell(study, arm, seed, every) for seed in study.choice.seeds] for arm in study.arms]


def _cell(study: Study, arm: str, seed: int, every: Sequence[RunSummary]) -> Cell:
    chain = _chain(study, arm, seed, every)
    stages = _stages(study, arm)
    if not chain:
        return Cell(arm, seed, "new", 0.0, None)
    done = sum(run.state == "done" for run in chain)
    at = next((run for run in chain if run.state != "done"), chain[-1])
    state = "done" if done == stages else at.state if at.state != "done" else "queued"
    part = at.progress or 0.0 if at.state not in ("done", "queued") else 0.0
    return Cell(arm, seed, state, min(1.0, (done + part) / stages), at.id, at.message)


def _stages(study: Study, arm: str) -> int:
    return len(_planned(study, arm))


def _planned(study: Study, arm: str) -> list[str]:
    """The stages of an arm, first to last."""
    runs = planned(study.recipe, untuned(study.recipe), study.choice.seeds[0])
    return [run.stage.stage for run in runs if arm in run.arms]


def _chain(study: Study, arm: str, seed: int, every: Sequence[RunSummary]) -> list[RunSummary]:
    """The runs of an arm under a seed that are there, first stage to last. Of several the newest; a run that arms share
    is found through the one that continues it, or by its name before there is one."""
    known = {run.id: run for run in every}
    stages = _planned(study, arm)
    for stage in reversed(stages):
        own = [run for run in every if run.arm == arm and run.seed == seed and run.stage == stage]
        if own:
            chain = [own[0]]  # the overview has the newest first
            while (parent := chain[0].parent) in known:
                chain.insert(0, known[str(parent)])
            return chain
    shared = [run for run in every if not run.arm and run.seed == seed and len(stages) > 1]
    return shared[:1]


def last_runs(workspace: Workspace, study: Study) -> list[str]:
    """The finished runs that arms end with, arm by arm, seed by seed."""
    every = [run for run in overview(workspace) if run.experiment == study.name]
    found = []
    for arm in study.arms:
        stages = _planned(study, arm)
        for seed in study.choice.seeds:
            chain = _chain(study, arm, seed, every)
            if len(chain) == len(stages) and chain[-1].state == "done":
                found.append(chain[-1].id)
    return found
