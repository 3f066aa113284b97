"""The command line: the same library, in words that scripts can rely on (docs/cli.md).

With --json one JSON document goes to stdout and nothing else; everything meant for people goes to stderr then. An error
is one sentence; exit code 2 for bad input, 1 for a failed job.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixcpt import __version__
from mixcpt.config import CorpusSpec, load_recipe, parse_change, validate
from mixcpt.errors import BadFile, BadInput, MixcptError
from mixcpt.jobs import Job, Jobs
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace, check_name

QUICK = Path(__file__).parents[1] / "recipes" / "quick.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        code = int(options.action(Workspace(), options) or 0)
        sys.stdout.flush()
        return code
    except MixcptError as error:
        print(f"mixcpt: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:  # the reader has seen enough, as in `mixcpt runs | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        print(f"mixcpt: {error.filename} cannot be used ({error.strerror}): check that path.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("mixcpt: stopped; a run that was started goes on, see `mixcpt jobs`", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mixcpt", description="Adapt a language model to your field, and see what it forgets."
    )
    parser.add_argument("--version", action="version", version=f"mixcpt {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _command(commands, "doctor", doctor, "what this machine can do, and what is missing", json=True)

    corpus = commands.add_parser("corpus", help="add, show, list or remove corpora").add_subparsers(
        required=True, metavar="ACTION"
    )
    command = _command(corpus, "add", corpus_add, "ingest files; prints the report", json=True)
    command.add_argument("name", help="name of the new corpus")
    command.add_argument(
        "files", nargs="+", metavar="FILE", help="files or folders (txt, md, json, jsonl, csv, parquet, gz, zip)"
    )
    command.add_argument("--kind", choices=("documents", "instructions", "preferences"), help="guessed when not given")
    command.add_argument("--text-column", help="the column or key that holds the text; guessed when not given")
    command.add_argument("--where", action="append", default=[], metavar="FIELD=VALUE", help="only such records")
    command.add_argument("--limit", type=int, help="only the first so many records")
    command.add_argument("--model", default="smollm2-135m", help="whose tokenizer counts the tokens")
    command.add_argument("--replace", action="store_true", help="replace a corpus of the same name")
    command = _command(corpus, "show", corpus_show, "the report of one corpus", json=True)
    command.add_argument("name")
    _command(corpus, "list", corpus_list, "all corpora", json=True)
    command = _command(corpus, "remove", corpus_remove, "delete a corpus")
    command.add_argument("name")

    model = commands.add_parser("model", help="fetch models").add_subparsers(required=True, metavar="ACTION")
    command = _command(model, "add", model_add, "fetch, check and convert a model")
    command.add_argument("name", help="smollm2-135m, gemma-3-270m, a folder or a hub id")
    command.add_argument("--accept-terms", action="store_true", help="you have read the model's terms and accept them")

    command = _command(commands, "run", run, "run a recipe here, now; prints each run's id", json=True)
    command.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    command.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a setting of the recipe")

    _command(commands, "runs", list_runs, "every run", json=True)
    _command(commands, "jobs", list_jobs, "every job", json=True)
    for name, action, help in (
        ("show", show, "one run: config, status, results"),
        ("cancel", cancel, "stop a run; what was done is kept"),
        ("resume", resume, "go on with a stopped run"),
        ("rerun", rerun, "the same run again, as a new one"),
    ):
        command = _command(commands, name, action, help, json=name == "show")
        command.add_argument("run", metavar="RUN", help="a run's id, or a beginning of it that is unique")

    command = _command(commands, "compare", compare, "domain and general scores side by side", json=True)
    command.add_argument("runs", nargs="+", metavar="RUN", help="runs, or names of experiments")
    command.add_argument("--domain-tokens", type=int, help="read every curve where it had seen so many domain tokens")
    command.add_argument("--csv", action="store_true", help="every column, as CSV")

    command = _command(commands, "export", export, "write out what a run made")
    command.add_argument("run", metavar="RUN")
    command.add_argument(
        "--to", choices=("adapter",), default="adapter", help="adapter: a folder that plain PEFT loads"
    )
    command.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")

    _command(commands, "app", app, "open the studio (until it lands: the quick recipe, here in the terminal)")
    return parser


def _command(commands: Any, name: str, action: Any, help: str, json: bool = False) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    command.set_defaults(action=action, json=False)
    if json:
        command.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else")
    return command


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Follower:
    """Prints a line whenever a job has something new to say."""

    def __init__(self) -> None:
        self.last: dict[str, str] = {}

    def __call__(self, job: Job) -> None:
        status = job.status
        line = f"{job.kind} {job.label or job.run or ''}: {status.state}" + (
            f", {status.message}" if status.message else ""
        )
        if self.last.get(job.id) != line:
            self.last[job.id] = line
            _say(line)


def doctor(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt import doctor as checks
    from mixcpt.recipes import estimate_stage

    machine = checks.machine(workspace, refresh=True)
    if options.json:
        return _print_json(machine.model_dump() | {"precision": machine.precision})
    print(checks.report(machine))
    quick = load_recipe(QUICK).cpt
    if (workspace.models / quick.model.name).exists():  # the doctor only looks, it fetches nothing
        print(f"\nTraining of the quick recipe needs {estimate_stage(workspace, quick).words()}.")


def corpus_add(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt.corpus import corpus_names
    from mixcpt.modelstore import ensure_model
    from mixcpt.recipes import finish, submit_ingest
    from mixcpt.supervisor import Supervisor

    check_name(options.name, "corpus name")
    if options.name in corpus_names(workspace) and not options.replace:
        raise BadInput(f"There is a corpus {options.name!r} already: choose another name, or add --replace.")
    for file in options.files:
        if not Path(file).expanduser().exists():
            raise BadFile(f"There is no file or folder {file!r}: check the path.")
    where = dict(change.split("=", 1) for change in options.where if "=" in change)
    if len(where) != len(options.where):
        raise BadInput(f"--where {options.where} cannot be read: write --where field=value, for example split=train.")
    given = {"name": options.name, "files": options.files, "kind": options.kind, "text_column": options.text_column}
    spec = validate(CorpusSpec, given | {"where": where, "limit": options.limit}, "the command line")
    ensure_model(workspace, options.model, progress=_say)
    job = submit_ingest(workspace, spec, Path.cwd(), options.model, replace=options.replace)
    finish(workspace, [job], Supervisor(workspace), Follower())
    return corpus_show(workspace, options)


def corpus_show(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt.corpus import Corpus

    manifest = Corpus.open(workspace, options.name).manifest
    if options.json:
        _print_json(manifest.model_dump())
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
        return _print_json([manifest.model_dump() for manifest in manifests])
    for manifest in manifests:
        print(f"{manifest.name:30} {manifest.kind:13} {manifest.documents:>9,} documents {manifest.tokens:>12,} tokens")
    if not manifests:
        print("no corpora yet: mixcpt corpus add NAME FILE...")


def corpus_remove(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.corpus import remove

    remove(workspace, options.name)
    print(f"corpus {options.name} removed")


def model_add(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.models import ensure_model

    print(ensure_model(workspace, options.name, accept_terms=options.accept_terms, progress=_say))


def run(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt.recipes import carry_out

    recipe = load_recipe(options.recipe, dict(parse_change(change) for change in options.set))
    folder = options.recipe.absolute().parent
    plan = carry_out(workspace, recipe, folder, say=_say, on_change=Follower())
    if options.json:
        jobs = Jobs(workspace)
        _print_json({"recipe": recipe.name, "runs": [_summary(jobs, run) for run in plan.runs]})
    else:
        for one in plan.runs:
            print(one.id)
    failed = [job for job in plan.jobs if job.state != "done"]
    for job in failed:
        _say(f"mixcpt: {job.kind} of {job.run} is {job.state}: {job.status.message}")
    return 1 if failed else 0


def _summary(jobs: Jobs, run: Run) -> dict[str, Any]:
    training = run.results().get("training", {})
    losses = run.losses()
    return {
        "id": run.id,
        "name": run.info.name,
        "stage": run.info.stage,
        "status": run.state(jobs),
        "parent": run.info.parent,
        "experiment": run.info.experiment,
        "arm": run.info.arm,
        "seed": run.info.seed,
        "tokens": losses[-1]["tokens"] if losses else 0,
        "scores": training.get("final", {}),
    }


def list_runs(workspace: Workspace, options: argparse.Namespace) -> None:
    jobs = Jobs(workspace)
    rows = [_summary(jobs, run) for run in Runs(workspace).all()]
    if options.json:
        return _print_json(rows)
    for row in rows:
        scores = ", ".join(f"{name} {value:.3f}" for name, value in row["scores"].items())
        print(
            f"{row['id']}  {row['status']:9}  {row['experiment']}  {row['arm']:24}  seed {row['seed']}  "
            f"{row['tokens']:>9,} tokens  {scores}"
        )
    if not rows:
        print("no runs yet: mixcpt run recipes/quick.yaml")


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
        return _print_json(rows)
    for row in rows:
        print(f"{row['id']}  {row['kind']:8}  {row['status']:9}  {row['run'] or '-'}  {row['message']}")
    if not rows:
        print("no jobs yet")


def show(workspace: Workspace, options: argparse.Namespace) -> None:
    one = Runs(workspace).get(options.run)
    jobs = [job for job in Jobs(workspace).all() if job.run == one.id]
    shown = {
        **asdict(one.info),
        "status": one.state(Jobs(workspace)),
        "jobs": [{"id": job.id, "kind": job.kind, "status": job.state, "message": job.status.message} for job in jobs],
        "config": one.config.model_dump(mode="json"),
        "curve": one.curve(),
        "results": one.results(),
        "folder": str(one.folder),
    }
    if options.json:
        return _print_json(shown)
    print(f"run {one.id}  {shown['status']}  {one.info.experiment} {one.info.arm}  seed {one.info.seed}")
    for job in shown["jobs"]:
        print(f"  {job['kind']:9} {job['status']:9} {job['message']}")
    for point in shown["curve"]:
        measures = ", ".join(f"{name} {value:.4f}" for name, value in point["measure"].items())
        print(f"  step {point['step']:>5}  {point['tokens']:>9,} tokens  {measures}")
    for task, score in shown["results"].get("evaluation", {}).get("final", {}).items():
        base = shown["results"]["evaluation"]["base"][task]
        low, high = score["interval"]
        print(
            f"  {task}: {base['accuracy']:.1%} → {score['accuracy']:.1%} (95 % {low:.1%} to {high:.1%}, "
            f"{score['items']} items, chance {score['chance']:.0%}, majority {score['majority']:.0%})"
        )
    if training := shown["results"].get("training"):
        print(
            f"  {training['tokens']:,} tokens in {training['steps']} steps, {training['tokens_per_second']:.0f} "
            f"tokens/s, {training['seconds'] / 60:.1f} minutes of which {training['measure_share']:.0%} measuring, "
            f"{training['peak_memory_bytes'] / 1e9:.1f} GB at most; {training['trainable_parameters']:,} of "
            f"{training['total_parameters']:,} parameters trained, in {training['precision']} on {training['device']}"
        )
    print(f"  folder {one.folder}")


def compare(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt import compare as tables

    rows = tables.compare(_runs(workspace, options.runs), options.domain_tokens)
    if options.json:
        return _print_json({"runs": rows, "arms": tables.summarise(rows)})
    if options.csv:
        return print(tables.as_csv(rows), end="")
    arms = tables.summarise(rows)
    print(tables.as_text(arms))
    if any(len(arm["runs"]) > 1 for arm in arms):
        _say("± is the 95 % interval of the mean over seeds")


def _runs(workspace: Workspace, names: Sequence[str]) -> list[Run]:
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
            _say(f"{name}: {unfinished} of {len(members) - tried} runs left out, for they are not finished")
        found += kept or [runs.get(name)]
    return list({run.id: run for run in found}.values())


def cancel(workspace: Workspace, options: argparse.Namespace) -> None:
    one, jobs = Runs(workspace).get(options.run), Jobs(workspace)
    active = [job for job in jobs.all() if job.run == one.id and job.state in ("queued", "running", "paused")]
    if not active:
        raise BadInput(f"Run {one.id} is {one.state(jobs)}, so there is nothing to cancel.")
    for job in reversed(active):  # those that wait first, so that none starts meanwhile
        jobs.request_cancel(job)
        print(f"asked {job.kind} of {one.id} to stop; `mixcpt resume {one.id}` goes on with it")


def resume(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt import recipes
    from mixcpt.supervisor import Supervisor

    one = Runs(workspace).get(options.run)
    recipes.finish(workspace, recipes.resume(workspace, one), Supervisor(workspace), Follower())
    print(one.id)
    return 0


def rerun(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt import recipes
    from mixcpt.supervisor import Supervisor

    again, jobs = recipes.rerun(workspace, Runs(workspace).get(options.run))
    print(again.id, flush=True)
    recipes.finish(workspace, jobs, Supervisor(workspace), Follower())
    return 0


def export(workspace: Workspace, options: argparse.Namespace) -> None:
    one = Runs(workspace).get(options.run)
    if not (one.adapter / "adapter_model.safetensors").is_file():
        raise BadInput(f"Run {one.id} is {one.state(Jobs(workspace))} and has no adapter yet: let it finish first.")
    if options.out.exists():
        raise BadInput(f"{options.out} is there already: name a folder that does not exist yet.")
    shutil.copytree(one.adapter, options.out)
    print(options.out)


def app(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt.compare import as_text, compare, summarise
    from mixcpt.recipes import carry_out

    _say("The app has not landed yet, so this runs the quick recipe here in the terminal; it takes some minutes.")
    recipe = load_recipe(QUICK)
    plan = carry_out(workspace, recipe, Path.cwd(), say=_say, on_change=Follower())
    if any(job.state != "done" for job in plan.jobs):
        return 1
    print(as_text(summarise(compare(plan.runs))))
    _say(f"next: mixcpt show {plan.runs[0].id}, or your own documents: mixcpt corpus add NAME FILE...")
    return 0


if __name__ == "__main__":
    sys.exit(main())
