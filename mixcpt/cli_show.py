"""Commands of `mixcpt` that only look: tables, charts and reports of what lies on disk, and needs of a recipe."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixcpt.errors import BadInput, NotFound
from mixcpt.jobs import Jobs
from mixcpt.recipe import load_recipe
from mixcpt.runs import Run, Runs
from mixcpt.settings import parse_change
from mixcpt.workspace import Workspace

if TYPE_CHECKING:
    from mixcpt.overview import RunSummary
    from mixcpt.preview import PreviewToken

QUICK = Path(__file__).parents[1] / "recipes" / "quick.yaml"


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def doctor(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt import doctor as checks
    from mixcpt.estimate import Estimate
    from mixcpt.recipes import estimate_recipe

    machine = checks.machine(workspace, refresh=True)
    if options.json:
        return print_json(machine.model_dump() | {"precision": machine.precision})
    print(checks.report(machine))
    quick = load_recipe(QUICK)
    if (workspace.models / quick.cpt.model.name).exists():  # the doctor only looks, it fetches nothing
        needs = [need.estimate for need in estimate_recipe(workspace, quick, say)]
        whole = Estimate(max(one.memory_bytes for one in needs), sum(one.seconds for one in needs), {})
        print(f"\nTraining of the quick recipe needs {whole.words()}.")


def corpus_show(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt.corpus import Corpus

    manifest = Corpus.open(workspace, options.name).manifest
    if options.json:
        print_json(manifest.model_dump())
        return 0
    split = manifest.split
    print(f"corpus {manifest.name}: {manifest.kind}")
    print(f"  files            {len(manifest.files):,}")
    print(f"  documents        {manifest.documents:,}")
    print(f"  characters       {manifest.characters:,}")
    print(f"  tokens           {manifest.tokens:,}")
    print(f"  exact duplicates {manifest.exact_duplicates:,} (left out)")
    print(f"  training         {split.train.documents:,} {split.method}, {split.train.tokens:,} tokens")
    print(f"  held out         {split.heldout.documents:,} {split.method}, {split.heldout.tokens:,} tokens")
    print(f"  refused          {manifest.refused_total:,}")
    for item in manifest.refused[:20]:
        print(f"    {item.file}{f' line {item.line}' if item.line else ''}: {item.reason}")
    if manifest.refused_total > 20:
        print(f"    … {manifest.refused_total - 20:,} more; see {workspace.corpora / manifest.name / 'manifest.json'}")
    return 0


def corpus_list(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.corpus import list_corpora

    manifests = list_corpora(workspace)
    if options.json:
        return print_json([manifest.model_dump() for manifest in manifests])
    for manifest in manifests:
        print(f"{manifest.name:30} {manifest.kind:13} {manifest.documents:>9,} documents {manifest.tokens:>12,} tokens")
    if not manifests:
        print("no corpora yet: mixcpt corpus add NAME FILE...")


def corpus_search(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.corpus import Corpus
    from mixcpt.search import places, search

    corpus = Corpus.open(workspace, options.name)
    documents = corpus.documents(options.split)
    found = search(documents, options.query, options.limit)
    rows = [{"number": index, **asdict(documents[index])} for index in found.indices]
    if options.json:
        return print_json({"total": found.total, "documents": rows})
    for row in rows:
        start, end = places(row["text"], options.query)[0]
        around = " ".join(row["text"][max(0, start - 60) : end + 60].split())
        print(f"{row['number']:>7,}  {row['file']}  …{around}…")
    print(f"{found.total:,} of {len(documents):,} documents hold {options.query!r}")


def list_runs(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.overview import overview

    rows = [_row(workspace, run) for run in reversed(overview(workspace))]
    if options.json:
        return print_json(rows)
    for row in rows:
        scores = ", ".join(f"{name} {value:.3f}" for name, value in row["scores"].items())
        labels = " ".join(filter(None, [row["name"], *(f"#{tag}" for tag in row["tags"])]))
        print(
            f"{row['id']}  {row['status']:9}  {row['stage']}  {row['experiment']}  {row['arm']:24}  seed {row['seed']}"
            f"  {row['tokens']:>9,} tokens  {scores}" + (f"  {labels}" if labels else "")
        )
    if not rows:
        print("no runs yet: mixcpt run recipes/quick.yaml")


def run_row(workspace: Workspace, id: str) -> dict[str, Any]:
    """What is shown of one run in a list."""
    from mixcpt.overview import summary

    found = summary(workspace, id)
    assert found is not None, "it was just made"
    return _row(workspace, found)


def _row(workspace: Workspace, run: "RunSummary") -> dict[str, Any]:
    from mixcpt.overview import DAMAGED

    results = {} if run.state == DAMAGED else Runs(workspace).get(run.id).results()
    return {
        "id": run.id,
        "name": run.name,
        "tags": list(run.tags),
        "stage": run.stage,
        "status": run.state,
        "parent": run.parent,
        "experiment": run.experiment,
        "arm": run.arm,
        "seed": run.seed,
        "tokens": run.tokens,
        "scores": results.get("training", {}).get("final", {}),
    }


def list_jobs(workspace: Workspace, options: argparse.Namespace) -> None:
    rows = [
        {
            "id": job.id,
            "kind": job.kind,
            "status": job.state,
            "run": job.run,
            "started": job.status.started,
            "message": job.status.message,
        }
        for job in Jobs(workspace).all()
    ]
    if options.json:
        return print_json(rows)
    for row in rows:
        print(f"{row['id']}  {row['kind']:8}  {row['status']:9}  {row['run'] or '-'}  {row['message']}")
    if not rows:
        print("no jobs yet")


def compare(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt import columns, settings_diff
    from mixcpt import compare as tables
    from mixcpt.findings import left_out

    chosen = chosen_runs(workspace, options.runs)
    if options.html:
        from mixcpt.comparison import as_html

        return _write(options.html, as_html(workspace, chosen, options.domain_tokens, options.unseen))
    if options.diff:
        return _print_diff(settings_diff.config_diff(chosen), options.json)
    if options.claims:
        return _print_claims(workspace, chosen, options)
    rows = _rows(chosen, options)
    if options.json:
        return print_json({"runs": rows, "arms": tables.summarise(rows)})
    if options.csv:
        return print(columns.as_csv(rows), end="")
    arms = tables.summarise(tables.titled(rows))
    print(columns.as_text(arms))
    for words in left_out(arms):
        say(words)
    if any(len(arm["runs"]) > 1 for arm in arms):
        say("± is the 95 % interval of the mean over seeds")


def _rows(chosen: Sequence[Run], options: argparse.Namespace) -> list[dict[str, Any]]:
    from mixcpt.compare import compare
    from mixcpt.unseen import unseen

    rows = compare(chosen, options.domain_tokens)
    return unseen(rows, chosen) if options.unseen else rows


def _print_claims(workspace: Workspace, chosen: Sequence[Run], options: argparse.Namespace) -> None:
    from mixcpt.claim_cards import as_facts, as_markdown, cards
    from mixcpt.claims import pairs_against
    from mixcpt.compare import summarise, titled

    arms = summarise(titled(_rows(chosen, options)))
    if len(arms) < 2:
        raise BadInput("A claim is about two arms, but these runs are one: name runs of another arm too.")
    found = cards(workspace, pairs_against(arms, options.against), options.domain_tokens)
    if options.json:
        return print_json([as_facts(card) for card in found])
    print("\n".join(as_markdown(card) for card in found), end="")


def _print_diff(diff: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        return print_json(diff)
    for line in diff:
        print(line["setting"])
        for run, value in line["values"].items():
            print(f"  {run}  {value}")
    if not diff:
        print("the same settings in every run")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    print(path)


def estimate(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.estimate import minutes
    from mixcpt.recipes import estimate_recipe, find_models

    recipe = load_recipe(options.recipe, dict(parse_change(change) for change in options.set))
    needs = estimate_recipe(workspace, find_models(recipe, options.recipe.absolute().parent), say)
    seconds = sum(need.runs * need.estimate.seconds for need in needs)
    if options.json:
        arms = [{"arm": need.arm, "stage": need.stage, "runs": need.runs, **asdict(need.estimate)} for need in needs]
        most = max(need.estimate.memory_bytes for need in needs)
        return print_json({"recipe": recipe.name, "arms": arms, "memory_bytes": most, "seconds": seconds})
    for need in needs:
        times = f", {need.runs} times" if need.runs > 1 else ""
        hand = need.estimate.at_hand
        warm = "" if hand is None else f"; teacher cache: {hand:.0%} of the tokens are at hand"
        print(f"{need.stage} {need.arm or recipe.name:28} {need.estimate.words()}{times}{warm}")
    print(f"{'in all':32} {minutes(seconds)} of scoring, training and measuring")


def preview(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.mixture import realise
    from mixcpt.modelstore import ensure_model, find_folder
    from mixcpt.preview import preview as preview_row
    from mixcpt.preview import readings
    from mixcpt.recipes import find_models
    from mixcpt.tokens import TextTokenizer

    recipe = load_recipe(options.recipe, dict(parse_change(change) for change in options.set))
    stage = find_models(recipe, options.recipe.absolute().parent).cpt
    folder = find_folder(workspace, stage.model.name) or ensure_model(workspace, stage.model.name, progress=say)
    tokenizer = TextTokenizer.from_folder(folder)
    mixture = realise(workspace, stage.mixture, tokenizer)
    if options.row >= len(mixture):
        raise BadInput(f"There is no row {options.row:,}: the mixture has {len(mixture):,}, counted from 0.")
    row = preview_row(mixture, tokenizer, options.row)
    if options.json:
        return print_json({"mixture": mixture.summary(), "row": asdict(row)})
    for source in mixture.report():
        print(
            f"{source.source:24} {source.tokens:>9,} tokens ({source.realised_share:.1%}, asked for "
            f"{source.requested_share:.1%}) of {source.available_tokens:,}, which {readings(source.epochs)}"
        )
    print(f"\nrow {row.number:,} of {len(mixture):,}: {len(row.tokens):,} tokens, {row.room:,} places empty")
    for number, segment in enumerate(row.segments):
        print(f"--- {segment.source}: {segment.name}, reading {segment.reading}, {segment.tokens:,} tokens")
        print("".join(_marked(token) for token in row.tokens if token.segment == number))
    print("\n⏎end marks the end of a document; ⟦…⟧ is context only, nothing is learned from it")


def _marked(token: "PreviewToken") -> str:
    text = "⏎end" if token.is_end else token.text
    return f"⟦{text}⟧" if token.is_masked else text


def chart(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt import charts
    from mixcpt.plotting import as_html

    figure = charts.draw(workspace, options.chart, subjects_of(workspace, options.chart, options.subjects))
    _write(options.out, as_html([figure], charts.CHARTS[options.chart].title))


def notebook(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt import reports
    from mixcpt.notebook import Notebook, experiments

    names = [experiment.name for experiment in experiments(workspace)]
    if options.experiment not in names:
        known = f"take one of {', '.join(names)}" if names else "there is none yet, run a recipe first"
        raise NotFound(f"There is no experiment {options.experiment!r}: {known}.")
    write = {"md": reports.to_markdown, "html": reports.to_html, "ipynb": reports.to_ipynb}[options.to]
    text = write(Notebook(workspace, options.experiment))
    if options.out:
        return _write(options.out, text)
    print(text, end="")


def subjects_of(workspace: Workspace, chart: str, names: Sequence[str]) -> list[str]:
    """What a chart draws: whole ids of runs, an experiment standing for its finished ones; else names as they are."""
    from mixcpt.charts import CHARTS

    if chart not in CHARTS or CHARTS[chart].of in ("corpus", "selection"):
        return list(names)
    return [run.id for run in chosen_runs(workspace, names)]


def chosen_runs(workspace: Workspace, names: Sequence[str]) -> list[Run]:
    """Runs by id or beginning of it; the name of an experiment stands for its finished runs, tuning left out."""
    runs = Runs(workspace)
    found: list[Run] = []
    jobs = Jobs(workspace)
    for name in names:
        members = [run for run in runs.all() if run.info.experiment == name]
        kept = [run for run in members if run.state(jobs) == "done" and not run.info.arm.startswith("tune ")]
        if members and not kept:
            raise BadInput(f"The experiment {name!r} has no finished run yet: wait, or look at `mixcpt jobs`.")
        tried = sum(run.info.arm.startswith("tune ") for run in members)
        if unfinished := len(members) - len(kept) - tried:
            say(f"{name}: {unfinished} of {len(members) - tried} runs left out, for they are not finished")
        found += kept or [runs.get(name)]
    return list({run.id: run for run in found}.values())
