"""Commands of `mixcpt` that do something: make corpora, train, rename, delete, start the studio."""

import argparse
import sys
from pathlib import Path

from mixcpt import cli_show
from mixcpt.cli_show import print_json, say
from mixcpt.drafts import Guess
from mixcpt.errors import BadFile, BadInput
from mixcpt.jobs import Job
from mixcpt.recipe import CorpusSpec, load_recipe
from mixcpt.runs import Run, Runs
from mixcpt.settings import parse_change, validate
from mixcpt.workspace import Workspace, check_name


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
            say(line)


def carry_out(workspace: Workspace, run: Run, json: bool) -> int:
    """Train a run that was just made, here and now; prints its id, or with `json` its row."""
    from mixcpt.submission import finish, submit_run
    from mixcpt.supervisor import Supervisor

    say(f"run {run.id}  {run.title}")
    finish(submit_run(workspace, run), Supervisor(workspace), Follower())
    if json:
        print_json(cli_show.run_row(workspace, run.id))
    else:
        print(run.id)
    return 0


def corpus_add(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt.corpus import corpus_names
    from mixcpt.modelstore import ensure_model
    from mixcpt.recipes import submit_ingest
    from mixcpt.submission import finish
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
    ensure_model(workspace, options.model, progress=say)
    job = submit_ingest(workspace, spec, Path.cwd(), options.model, replace=options.replace)
    finish([job], Supervisor(workspace), Follower())
    return cli_show.corpus_show(workspace, options)


def corpus_remove(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.shelf import delete

    delete(workspace, options.name)
    print(f"corpus {options.name} removed")


def model_add(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.models import ensure_model

    print(ensure_model(workspace, options.name, accept_terms=options.accept_terms, progress=say))


def run(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt.recipes import carry_out

    recipe = load_recipe(options.recipe, dict(parse_change(change) for change in options.set))
    guess = _guess(options.guess) if options.guess else None
    folder = options.recipe.absolute().parent
    plan = carry_out(workspace, recipe, folder, say=say, on_change=Follower(), guess=guess)
    if options.json:
        print_json({"recipe": recipe.name, "runs": [cli_show.run_row(workspace, run.id) for run in plan.runs]})
    else:
        for one in plan.runs:
            print(one.id)
    failed = [job for job in plan.jobs if job.state != "done"]
    for job in failed:
        say(f"mixcpt: {job.kind} of {job.run} is {job.state}: {job.status.message}")
    return 1 if failed else 0


def _guess(text: str) -> Guess:
    """As in `gain=20,forgetting=3`, percent of the base's bits per byte."""
    parts = dict(part.partition("=")[::2] for part in text.replace(" ", "").split(","))
    if parts.keys() != {"gain", "forgetting"}:
        raise BadInput(f"--guess {text!r} cannot be read: write --guess gain=20,forgetting=3 (percent).")
    return validate(Guess, {"domain_gain": parts["gain"], "forgetting": parts["forgetting"]}, "--guess")


def cancel(workspace: Workspace, options: argparse.Namespace) -> None:
    one = Runs(workspace).get(options.run)
    for job in Runs(workspace).cancel(one):
        print(f"asked {job.kind} of {one.id} to stop; `mixcpt resume {one.id}` goes on with it")


def pause(workspace: Workspace, options: argparse.Namespace) -> None:
    one = Runs(workspace).get(options.run)
    job = Runs(workspace).pause(one)
    print(f"asked {job.kind} of {one.id} to pause; `mixcpt resume {one.id}` goes on with it")


def rename(workspace: Workspace, options: argparse.Namespace) -> None:
    one = Runs(workspace).get(options.run)
    print(f"{one.id}  {one.relabel(name=options.name).name}")


def tag(workspace: Workspace, options: argparse.Namespace) -> None:
    one = Runs(workspace).get(options.run)
    print(f"{one.id}  {', '.join(one.relabel(tags=options.tags).tags) or 'no tags'}")


def delete(workspace: Workspace, options: argparse.Namespace) -> None:
    one = Runs(workspace).get(options.run)
    if not options.yes:
        _confirm(f"Delete run {one.id} ({one.title}), its adapter and its measures for good?")
    Runs(workspace).delete(one)
    print(f"run {one.id} deleted")


def _confirm(question: str) -> None:
    """Raises BadInput when there is nobody to ask, or the answer is not yes."""
    if not sys.stdin.isatty():
        raise BadInput("Nobody can be asked here whether to delete: add --yes.")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise BadInput("Nothing was deleted: answer y to delete.")


def resume(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt import submission
    from mixcpt.supervisor import Supervisor

    one = Runs(workspace).get(options.run)
    submission.finish(submission.resume(workspace, one), Supervisor(workspace), Follower())
    print(one.id)
    return 0


def rerun(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt import submission
    from mixcpt.supervisor import Supervisor

    changes = dict(parse_change(change) for change in options.set)
    again, jobs = submission.rerun(workspace, Runs(workspace).get(options.run), changes)
    print(again.id, flush=True)
    submission.finish(jobs, Supervisor(workspace), Follower())
    return 0


def note(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.notebook import Notebook

    notebook = Notebook(workspace, options.experiment)
    text = sys.stdin.read() if options.text == "-" else options.text
    kept = notebook.save(notebook.begin(), text)
    if kept is None:
        raise BadInput(
            "The note is empty: write its text after the name of the experiment, or - to read it from stdin."
        )
    print(kept.id)


def pin(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt import charts
    from mixcpt.notebook import Notebook

    subjects = cli_show.subjects_of(workspace, options.chart, options.subjects)
    charts.draw(workspace, options.chart, subjects)  # so that nothing is pinned that cannot be drawn
    print(Notebook(workspace, options.experiment).pin(options.chart, subjects, options.caption).id)


def recorded(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt import recorded as shipped

    for experiment in shipped.EXPERIMENTS:
        for one in shipped.add(workspace, experiment):
            print(one.id)


def app(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt import studio

    studio.start(
        workspace, port=options.port, address=options.address, allowed=options.allow, browser=options.browser, say=say
    )
