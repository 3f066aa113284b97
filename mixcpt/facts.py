"""A run told in plain facts: the chain that led to it, how each stage was trained, what was read, what came out.

Everything is plain text, for whoever writes it down to escape: a card, a page. Nothing is computed that is not in the
folders of runs and corpora already; what they do not hold is said to be unknown.
"""

from collections.abc import Iterable, Sequence

from mixcpt import builtin
from mixcpt.config import AdapterConfig
from mixcpt.corpus import Corpus, corpus_names
from mixcpt.errors import NotFound
from mixcpt.estimate import minutes
from mixcpt.figures import signed
from mixcpt.further import fields_words
from mixcpt.journal import objective_words
from mixcpt.manifest import Manifest
from mixcpt.runs import Record, Run, Runs
from mixcpt.samples import kept_facts, needs_scores
from mixcpt.stage_words import reference_words, run_words, samples_words, template_words
from mixcpt.stages import AnyStage, Dpo, Sft, Stage
from mixcpt.workspace import Workspace

Fact = tuple[str, str]
Line = Sequence[str]

STAGES = {"cpt": "Knowledge", "sft": "Format", "dpo": "Preference"}
STAGE_TITLES = {
    "cpt": "Knowledge: continual pre-training",
    "sft": "Format: supervised fine-tuning (SFT)",
    "dpo": "Preference: direct preference optimisation (DPO)",
}
UNKNOWN = "not measured"

_PRECISIONS = {"nf4": "4 bits (NF4, QLoRA)"}


def chain(workspace: Workspace, run: Run) -> tuple[list[Run], str]:
    """The runs that led to `run`, first to last; and the id of one before them that was deleted, or nothing.

    Raises:
        Damaged: one of them cannot be read.
    """
    runs, found = Runs(workspace), [run]
    while parent := found[0].info.parent:
        try:
            found.insert(0, runs.get(parent))
        except NotFound:
            return found, parent
    return found, ""


# How a stage was trained


def training(workspace: Workspace, run: Run) -> list[Fact]:
    """What a stage learned from, by which objective and with which settings, and how long it took once it is done."""
    config, results = run.config, run.results().get("training")
    found = _of_rows(workspace, run, config) if isinstance(config, Stage) else _of_samples(workspace, run, config)
    how = config.training
    found += [
        ("Learning rate", f"{how.learning_rate:g}, {how.schedule}, warm-up in {how.warmup:.0%} of the steps"),
        ("Adapter", adapter_words(config.adapter)),
        ("Seed", str(how.seed)),
    ]
    if results:
        took = f"{results['tokens']:,} tokens in {results['steps']:,} steps, {minutes(results['seconds'])}"
        found.append(("Trained", f"{took}, {computed(results)}"))
    return found


def _of_rows(workspace: Workspace, run: Run, config: Stage) -> list[Fact]:
    rows = f"{config.mixture.row_tokens:,} tokens each, {config.training.rows_per_step:,} a step"
    found = [("Objective", objective_words(config.objective)), ("Rows", rows)]
    if run.info.parent is None:
        return found
    return [
        ("Continues", f"the adapter of {run_words(workspace, run.info.parent)}"),
        ("Field", fields_words(config)),
        *found,
    ]


def _of_samples(workspace: Workspace, run: Run, config: Sft) -> list[Fact]:
    kept, how = kept_facts(run), config.training
    found = [("Samples", samples_words(config, run))]
    if kept:
        found += _chosen(workspace, config, kept)
    found.append(("Chat template", template_words(kept["template"] if kept else config.template)))
    if isinstance(config, Dpo):
        found.append(("Objective", f"DPO with beta {config.preference.beta:g}"))
        found.append(("Reference", reference_words(workspace, config, run.info.parent)))
    else:
        found.append(("Objective", "cross-entropy on the answers alone, the token that ends them included"))
    return [*found, ("Times through", f"{how.epochs:,}, {how.samples_per_step:,} samples a step")]


def _chosen(workspace: Workspace, config: Sft, kept: Record) -> list[Fact]:
    """Where the samples that a run pinned come from."""
    found = [("Chosen from", f"{kept['candidates']:,} candidates of {kept['source']}")]
    if kept["selection"] or needs_scores(config):
        found.append(("Scored under", run_words(workspace, kept["scored_under"])))
    if kept["left_out"]:
        found.append(("Left out", f"{len(kept['left_out']):,} of the chosen, for they could not be trained on"))
    return [*found, ("Fingerprint of the samples", kept["fingerprint"])]


def adapter_words(adapter: AdapterConfig) -> str:
    scale = "alpha / sqrt(rank), rsLoRA" if adapter.rslora else "alpha / rank"
    layers = "all linear layers" if adapter.layers == "all-linear" else f"the {adapter.layers} layers"
    dropout = f", dropout {adapter.dropout:g}" if adapter.dropout else ""
    lora = f"LoRA of rank {adapter.rank}, alpha {adapter.alpha:g} (scale {scale}), on {layers} but the head{dropout}"
    return lora + ("; embeddings and head as whole matrices" if adapter.vocabulary else "")


def computed(results: Record) -> str:
    """In which numbers, and where, the "training" section of results was computed."""
    precision = str(results.get("precision", "unknown numbers"))
    return f"base in {_PRECISIONS.get(precision, precision)}, on {results.get('device', 'an unknown device')}"


# What was read

DATA = ("source", "what it is", "documents", "tokens", "held out", "fingerprint")


def sources(runs: Iterable[Run]) -> list[str]:
    """All that these runs read or were measured on, in the order of use."""
    names: list[str] = []
    for run in runs:
        names += [*_read(run, run.config), run.config.measures.general]
    return list(dict.fromkeys(names))


def _read(run: Run, config: AnyStage) -> list[str]:
    if isinstance(config, Stage):
        return list(config.mixture.target_tokens())
    kept = kept_facts(run)
    return [kept["source"] if kept else config.samples.source]


def manifest(workspace: Workspace, source: str) -> Manifest | None:
    """What is known of a source; None where it was never made here, or is gone."""
    name = source.replace("/", "-")
    return Corpus.open(workspace, name).manifest if name in corpus_names(workspace) else None


def data(source: str, manifest: Manifest | None) -> Line:
    """A source as a line under `DATA`."""
    words = builtin.WORDS.get(source, "").partition(". ")[0].rstrip(".")
    if manifest is None:
        return (source, words or "gone from this machine", "", "", "", "")
    heldout = manifest.split.heldout
    return (
        source,
        words or _origin(manifest),
        f"{manifest.documents:,}",
        f"{manifest.tokens:,}",
        f"{heldout.documents:,} with {heldout.tokens:,} tokens",
        manifest.fingerprint[:16],
    )


def _origin(manifest: Manifest) -> str:
    if manifest.spec and manifest.spec.hub:
        return f"data set {manifest.spec.hub} of the Hugging Face hub"
    files = len(manifest.files)
    return f"{manifest.kind} of the user, from {files:,} file{'' if files == 1 else 's'}"


# What came out

MEASURED = ("after", "field, base", "field, this", "gain", "general text, base", "general text, this", "forgetting",
            "KL to the base")  # fmt: skip
FORMAT = ("after", "template", "prompts", "ended", "kept to the template", "right length", "all three", "difference")
ASKED = ("after", "set", "questions", "base", "this", "difference in points", "guessing", "always the same")


def measured(run: Run) -> Line | None:
    """Bits per byte as a line under `MEASURED`; None before the run has ended."""
    results = run.results().get("training")
    if not results:
        return None
    base, final, cells = results["base"], results["final"], [_after(run)]
    for name, sign in (("domain_bits_per_byte", -1), ("general_bits_per_byte", 1)):
        if name in base:
            change = signed(sign * (final[name] - base[name]))
            cells += [f"{base[name]:.3f}", f"{final[name]:.3f}", change]
        else:
            cells += [UNKNOWN] * 3
    return (*cells, f"{final['prompt_kl']:.3f}" if "prompt_kl" in final else UNKNOWN)


def _after(run: Run) -> str:
    """The stage of a run; of a further corpus with its field, for a chain may hold several of them."""
    stage, words = run.config, STAGES[run.info.stage]
    return f"{words}: {fields_words(stage)}" if isinstance(stage, Stage) and run.info.parent else words


def asked(run: Run) -> list[Line]:
    """The scores of every question set as lines under `ASKED`; empty where none was asked."""
    evaluation = run.results().get("evaluation", {"final": {}})
    return [_scores(run, evaluation, task) for task in evaluation["final"]]


def _scores(run: Run, evaluation: Record, task: str) -> Line:
    base, final, gain = (evaluation[part][task] for part in ("base", "final", "gain"))
    low, high = (signed(100 * bound, 0) for bound in gain["interval"])
    difference = f"{signed(100 * gain['difference'], 0)} ({low} to {high})"
    blind = (f"{final['chance']:.0%}", f"{final['majority']:.0%}")
    called = f"{task}, answers in words" if final.get("measure") == "contains" else task
    items = f"{final['items']:,}"
    return (_after(run), called, items, _share(base), _share(final), difference, *blind)


def _share(score: Record) -> str:
    low, high = score["interval"]
    return f"{score['accuracy']:.0%} ({low:.0%} to {high:.0%})"


def answers(run: Run) -> list[Line]:
    """The form of its answers as lines under `FORMAT`, one for each template; empty where it was not measured."""
    measured = run.results().get("evaluation", {}).get("format", {})
    return [_form(run, template, figures) for template, figures in measured.items()]


def _form(run: Run, template: str, figures: Record) -> Line:
    base, final, gain = figures["base"], figures["final"], figures["gain"]["well_formed"]
    low, high = (signed(100 * bound, 0) for bound in gain["interval"])
    checks = ("ended", "follows", "right_length", "well_formed")
    shares = (f"{base[check]['share']:.0%} → {final[check]['share']:.0%}" for check in checks)
    difference = f"{signed(100 * gain['difference'], 0)} ({low} to {high})"
    return (_after(run), template_words(template), f"{final['items']:,}", *shares, difference)
