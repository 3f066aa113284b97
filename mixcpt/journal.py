"""The journal of an experiment, written by what lies on disk: corpora, mixtures, launches, results, guesses.

Nothing is stored here and nothing is missed: a run that was started at the command line, or copied from another
machine, is told like any other. What this gives up: what was deleted has no entry any more.
"""

import hashlib
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mixcpt import guesses
from mixcpt.chains import start_of
from mixcpt.config import MixtureConfig
from mixcpt.corpus import Corpus, corpus_names
from mixcpt.diagnosis import diagnose
from mixcpt.errors import BadConfig
from mixcpt.estimate import minutes
from mixcpt.figures import signed
from mixcpt.further import fields_words
from mixcpt.jobs import Jobs
from mixcpt.manifest import Manifest
from mixcpt.optimisation import ObjectiveConfig
from mixcpt.overview import RunSummary, overview
from mixcpt.palette import STAGE_WORDS
from mixcpt.runs import Record, Run
from mixcpt.samples import kept_facts
from mixcpt.stage_words import chain_words, reference_words, run_words, samples_words, template_words
from mixcpt.stages import AnyStage, Dpo, Sft, Stage, read_stage
from mixcpt.stamps import Kept
from mixcpt.workspace import Workspace

KINDS = ("corpus", "mixture", "launch", "failure", "result", "outcome", "note", "pin")
"""In the order in which entries of one second stand."""

Fact = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """One entry of a notebook; all its words but `text`, a note's Markdown, are plain text.

    `time` is ISO 8601 in UTC to the second. `table` has its header first. `run` and `corpus` name what it tells of.
    """

    id: str
    kind: str
    time: str
    title: str = ""
    facts: tuple[Fact, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    text: str = ""
    chart: str = ""
    subjects: tuple[str, ...] = ()
    run: str = ""
    corpus: str = ""
    hidden: bool = False

    @property
    def rank(self) -> int:
        return KINDS.index(self.kind)


@dataclass
class _Mixture:
    """One mixture and the runs that read it, oldest first."""

    config: MixtureConfig
    runs: list[RunSummary] = field(default_factory=list)


_RETENTION = {"kl": "KL to the original", "lssd": "LSSD", "mol": "MoL, reverse KL on general text"}
_GIVEN_UP = {"failed": "failed", "cancelled": "was cancelled"}
_stages: Kept[AnyStage | None] = Kept()
_manifests: Kept[Manifest] = Kept()
_told: Kept[list[Entry]] = Kept()


def journal(workspace: Workspace, experiment: str) -> list[Entry]:
    """The automatic entries of an experiment, in no particular order."""
    runs = [run for run in reversed(overview(workspace)) if run.experiment == experiment]
    stages = {run.id: stage for run in runs if (stage := _stage(workspace.runs / run.id))}
    runs = [run for run in runs if run.id in stages]
    mixtures = _mixtures(runs, stages)
    letters = {run.id: letter for letter, mixture in mixtures.items() for run in mixture.runs}
    ended = _ends(workspace, runs)
    entries = [_corpus_entry(manifest) for manifest in _corpora(workspace, stages.values())]
    entries += [_mixture_entry(workspace, letter, mixture) for letter, mixture in mixtures.items()]
    for run in runs:
        before = letters.get(run.id) or chain_words(Run(workspace.runs / run.id))
        entries += _run_entries(workspace, run, stages[run.id], before, ended.get(run.id))
    return entries


def _stage(folder: Path) -> AnyStage | None:
    """The settings of a run, by libyaml, which is forty times as fast as Python; None for those of another version of
    mixcpt that this one cannot read."""
    path = folder / "config.yaml"

    def read() -> AnyStage | None:
        try:
            return read_stage(yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader), str(path))
        except BadConfig:
            return None

    return _stages.get(folder, [str(path)], read)


def _ends(workspace: Workspace, runs: Iterable[RunSummary]) -> dict[str, str]:
    """When each run that did not come to its end was given up."""
    if not any(run.state in _GIVEN_UP for run in runs):
        return {}
    looks = Jobs(workspace).snapshot()
    return {job.run: status.ended for job, status in looks if job.run and status.state in _GIVEN_UP and status.ended}


# Corpora


def _corpora(workspace: Workspace, stages: Iterable[AnyStage]) -> list[Manifest]:
    """The user's own corpora that these stages read or measure on, as far as they are still there."""
    used: set[str] = set()
    for stage in stages:
        used |= {stage.measures.general, *(source.source for source in stage.mixture.sources)}
        if isinstance(stage, Sft):
            used.add(stage.samples.source)
    return [_manifest(workspace, name) for name in corpus_names(workspace) if name in used]


def _manifest(workspace: Workspace, name: str) -> Manifest:
    path = workspace.corpora / name / "manifest.json"
    return _manifests.get(path, [str(path)], lambda: Corpus.open(workspace, name).manifest)


def _corpus_entry(corpus: Manifest) -> Entry:
    heldout = corpus.split.heldout
    facts = [
        ("Kind", corpus.kind),
        ("Documents", f"{corpus.documents:,} from {_number(len(corpus.files), 'file')}"),
        ("Tokens", f"{corpus.tokens:,}"),
        ("Held out", f"{_number(heldout.documents, 'document')} with {heldout.tokens:,} tokens, never trained on"),
        ("Left out", f"{_number(corpus.exact_duplicates, 'duplicate')}, {corpus.refused_total:,} refused"),
    ]
    return Entry(
        id=f"corpus:{corpus.name}",
        kind="corpus",
        time=corpus.created,
        title=f"Corpus {corpus.name} was added",
        facts=tuple(facts),
        corpus=corpus.name,
    )


# Mixtures


def _mixtures(runs: Sequence[RunSummary], stages: Mapping[str, AnyStage]) -> dict[str, _Mixture]:
    """Each different mixture once, whatever its seed, by a letter in the order of their first use. Stage two reads
    none."""
    found: dict[str, _Mixture] = {}
    for run in runs:
        stage = stages[run.id]
        if isinstance(stage, Stage):
            found.setdefault(_fingerprint(stage.mixture), _Mixture(stage.mixture)).runs.append(run)
    return {_letter(number): mixture for number, mixture in enumerate(found.values())}


def _fingerprint(mixture: MixtureConfig) -> str:
    return hashlib.sha256(mixture.model_dump_json(exclude={"seed"}).encode()).hexdigest()[:8]


def _letter(number: int) -> str:
    """A to Z, then AA, AB and on."""
    rest, last = divmod(number, 26)
    return (_letter(rest - 1) if rest else "") + string.ascii_uppercase[last]


def _mixture_entry(workspace: Workspace, letter: str, mixture: _Mixture) -> Entry:
    config, first = mixture.config, mixture.runs[0]
    facts = [
        ("Rows", f"{config.row_tokens:,} tokens each"),
        ("Read by", _number(len(mixture.runs), "run")),
    ]
    if config.domain_documents:
        facts.insert(1, ("Field", f"its first {_number(config.domain_documents, 'document')} only"))
    sources = _number(len(config.target_tokens()), "source")
    return Entry(
        id=f"mixture:{_fingerprint(config)}",
        kind="mixture",
        time=first.created,
        title=f"Mixture {letter}: {config.total_tokens():,} tokens from {sources}",
        facts=tuple(facts),
        table=mixture_table(config, _first_realised(workspace, mixture.runs)),
    )


def _first_realised(workspace: Workspace, runs: Iterable[RunSummary]) -> dict[str, Record]:
    done = next((run for run in runs if run.state == "done"), None)
    return realised(Run(workspace.runs / done.id)) if done else {}


def realised(run: Run) -> dict[str, Record]:
    """What a finished run really read, by source; empty before."""
    mixture = run.results().get("training", {}).get("mixture", {})
    return {source["source"]: source for source in mixture.get("sources", [])}


def mixture_table(config: MixtureConfig, read: Mapping[str, Record]) -> tuple[tuple[str, ...], ...]:
    """The sources with what was asked for, and with what was read once that is known."""
    total = sum(source.share for source in config.sources)
    header = ("source", "share asked for", "share read", "tokens read", "times through")
    lines = [header if read else (*header[:2], "tokens")]
    targets = config.target_tokens()
    for source in config.sources:
        if source.share == 0:
            continue
        name = f"{source.source} ({', '.join(source.marks)})" if source.marks else source.source
        line = (name, f"{source.share / total:.0%}")
        if got := read.get(source.source):
            lines.append((*line, f"{got['realised_share']:.1%}", f"{got['tokens']:,}", f"{got['epochs']:.2f}"))
        else:
            lines.append((*line, f"{targets[source.source]:,}"))
    return tuple(lines)


# Runs


def _run_entries(workspace: Workspace, run: RunSummary, stage: AnyStage, before: str, ended: str | None) -> list[Entry]:
    """Made anew only when the run has moved on. `before` is the letter of the mixture that it read; of stage two its
    chain in words."""
    folder = workspace.runs / run.id
    reason = run.message if run.state in _GIVEN_UP else ""  # of a run at work it changes all the time
    key = (folder, run.title, run.state, reason, before, ended)
    files = [str(folder / name) for name in ("results.json", "samples.json", guesses.FILE, "measured")]
    return _told.get(key, files, lambda: list(_tell(workspace, Run(folder), run, stage, before, ended)))


def _tell(
    workspace: Workspace, run: Run, summary: RunSummary, stage: AnyStage, before: str, ended: str | None
) -> Iterator[Entry]:
    results = run.results()
    training = results.get("training")
    what = (
        _read_by(workspace, run, stage, before)
        if isinstance(stage, Stage)
        else _learned_from(workspace, run, stage, before)
    )
    yield _launch_entry(run, summary, what, stage)
    if summary.state in _GIVEN_UP:
        yield _failure_entry(summary, ended)
    if training:
        yield _result_entry(workspace, run, summary, training, results.get("evaluation", {}))
        if outcome := guesses.outcome(run):
            yield Entry(
                id=f"outcome:{run.id}",
                kind="outcome",
                time=training["finished"],
                title=summary.title,
                facts=(("Outcome", outcome.sentence),),
                run=run.id,
            )


def _launch_entry(run: Run, summary: RunSummary, what: Sequence[Fact], stage: AnyStage) -> Entry:
    facts = [
        *what,
        ("Learning rate", f"{stage.training.learning_rate:g}, {stage.training.schedule}"),
        ("Adapter", f"LoRA of rank {stage.adapter.rank}"),
        ("Seed", str(stage.training.seed)),
    ]
    if guesses.read(run):
        facts.append(("Guess", "made before the launch; it is shown beside the result"))
    return Entry(
        id=f"launch:{run.id}",
        kind="launch",
        time=summary.created,
        title=summary.title,
        facts=tuple(facts),
        run=run.id,
    )


def _read_by(workspace: Workspace, run: Run, stage: Stage, letter: str) -> list[Fact]:
    parent = run.info.parent
    return [
        *([("Continues", run_words(workspace, parent)), ("Field", fields_words(stage))] if parent else []),
        ("Reads", f"mixture {letter}, {stage.mixture.total_tokens():,} tokens"),
        ("Model", stage.model.name),
        ("Objective", objective_words(stage.objective)),
    ]


def _learned_from(workspace: Workspace, run: Run, stage: Sft, chain: str) -> list[Fact]:
    """What stage two does: after what, from which samples, under which template, and against what."""
    kept = kept_facts(run)
    facts = [
        ("Stage", STAGE_WORDS[stage.stage]),
        ("Chain", chain),
        ("Continues", run_words(workspace, run.info.parent)),
        ("Learns from", samples_words(stage, run)),
        ("Chat template", template_words(kept["template"] if kept else stage.template)),
        ("Times through", f"{stage.training.epochs:,}"),
    ]
    if isinstance(stage, Dpo):
        facts += [
            ("Reference", reference_words(workspace, stage, run.info.parent)),
            ("Beta", f"{stage.preference.beta:g}"),
        ]
    return facts


def objective_words(objective: ObjectiveConfig) -> str:
    """What is minimised, as a sum in words."""
    terms = []
    if objective.ce_weight > 0:
        terms.append(_weighted("cross-entropy", objective.ce_weight))
    if objective.needs_teacher:
        terms.append(_weighted(_RETENTION[objective.retention], objective.retention_weight))
    against = ", held against the run that it continues" if objective.needs_run else ""
    return " + ".join(terms) + against


def _weighted(term: str, weight: float) -> str:
    return term if weight == 1 else f"{weight:g} × {term}"


def _failure_entry(run: RunSummary, ended: str | None) -> Entry:
    return Entry(
        id=f"failure:{run.id}",
        kind="failure",
        time=ended or run.created,
        title=f"{run.title} {_GIVEN_UP[run.state]}",
        facts=(("Reason", run.message or "none was given"),),
        run=run.id,
    )


def _result_entry(workspace: Workspace, done: Run, run: RunSummary, training: Record, evaluation: Record) -> Entry:
    base, final = training["base"], training["final"]
    start = start_of(done.curve()) if run.parent else None
    facts = []
    for key, name, change, sign in (
        ("domain_bits_per_byte", "Field", "gain", -1),
        ("general_bits_per_byte", "General text", "forgetting", 1),
    ):
        if key in base:
            words = (
                f"{base[key]:.3f} → {final[key]:.3f} bits per byte: {change} {signed(sign * (final[key] - base[key]))}"
            )
            own = f", {signed(sign * (final[key] - start[key]))} of it by this stage" if start and key in start else ""
            facts.append((name, words + own))
    if "prompt_kl" in final:
        facts.append(("Distance to the base", f"KL {final['prompt_kl']:.3f} nats per token on general prompts"))
    facts += _preferences(done)
    facts += [(f"Questions: {task}", _questions(evaluation, task)) for task in evaluation.get("final", {})]
    facts.append(("Diagnosis", diagnose(workspace, done).sentence()))
    speed = f"{training['tokens_per_second']:,.0f} tokens/s on {training['device']}"
    facts.append(("Took", f"{minutes(training['seconds'])} for {training['tokens']:,} tokens, {speed}"))
    return Entry(
        id=f"result:{run.id}",
        kind="result",
        time=training["finished"],
        title=run.title,
        facts=tuple(facts),
        run=run.id,
    )


def _preferences(run: Run) -> list[Fact]:
    """What DPO reached in its last step; nothing of other stages."""
    if run.info.stage != "dpo":
        return []
    last = run.losses()[-1]
    return [("Preferences", f"margin {signed(last['margin'])}, {last['accuracy']:.0%} of the pairs in the right order")]


def _questions(evaluation: Record, task: str) -> str:
    base, final, gain = (evaluation[part][task] for part in ("base", "final", "gain"))
    low, high = (signed(100 * bound, 0) for bound in gain["interval"])
    return (
        f"{base['accuracy']:.0%} → {final['accuracy']:.0%} of {final['items']} right: "
        f"{signed(100 * gain['difference'], 0)} points (95 % interval {low} to {high})"
    )


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
