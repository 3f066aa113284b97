"""The commands `study list, plan, run, show, report`: questions asked of several arms under several seeds."""

import argparse
from pathlib import Path
from typing import Any

from mixcpt.commands import command
from mixcpt.errors import BadInput
from mixcpt.workspace import Workspace


def add(commands: Any) -> None:
    """Declare the commands."""
    study = commands.add_parser("study", help="one question, several arms and seeds").add_subparsers(
        required=True, metavar="ACTION"
    )
    command(study, "list", list_studies, "the studies there are, and those that were begun", json=True)
    one = command(study, "plan", plan, "the arms of a study, its cost and what it can detect", json=True)
    one.add_argument("study", metavar="STUDY", help="a shipped study, see `study list`")
    _add_choice(one)
    one.add_argument("--yaml", action="store_true", help="its recipe, to be changed and run by `mixcpt run`")
    one = command(study, "run", run, "carry out a study here, now, or go on with one", json=True)
    one.add_argument("study", metavar="STUDY", help="a shipped study, or the name of one that was begun")
    _add_choice(one)
    one = command(study, "show", show, "how a study stands, and what it claims", json=True)
    one.add_argument("study", metavar="NAME", help="the name of a study that was begun")
    one = command(study, "report", report, "the written report of a study, as a file or on stdout")
    one.add_argument("study", metavar="NAME", help="the name of a study that was begun")
    one.add_argument("--to", choices=("md", "html"), default="md", help="Markdown (md) when not given")
    one.add_argument("--out", type=Path, metavar="OUT", help="write it here")


_CHOICE = ("corpus", "then", "model", "tokens", "seeds", "no_tune", "measured", "name")
"""The options that say what a study is."""


def _add_choice(one: argparse.ArgumentParser) -> None:
    one.add_argument("--corpus", help="the field (builtin/atlas)")
    one.add_argument(
        "--then", metavar="B,C", help="corpora learned after it, one after the other, with commas between; for `chain`"
    )
    one.add_argument(
        "--model", action="append", metavar="MODEL", help="the base (smollm2-135m); repeatable for `models`"
    )
    one.add_argument("--tokens", type=int, metavar="N", help="what each run reads (12,000); `study list` says of what")
    one.add_argument("--seeds", metavar="0,1,2", help="seeds, with commas between (0,1,2)")
    one.add_argument("--no-tune", action="store_true", help="take one learning rate for all arms")
    one.add_argument(
        "--measured", type=int, metavar="N",
        help="tokens of each held-out text that finished runs are measured on (5,000); 0: none",
    )  # fmt: skip
    one.add_argument("--name", help="of the experiment; one is made up when not given")


def _chosen(workspace: Workspace, options: argparse.Namespace) -> Any:
    """The study that the options describe."""
    from mixcpt.recipes import find_model
    from mixcpt.settings import validate
    from mixcpt.studies import kind_of, make
    from mixcpt.study_kinds import BOTH_MODELS, Choice

    kind = kind_of(options.study)
    models = options.model or (list(BOTH_MODELS) if kind.several_models else None)
    given = {
        "corpus": options.corpus,
        "then": [name.strip() for name in options.then.split(",")] if options.then else None,
        "models": models and [find_model(model, Path.cwd()) for model in models],
        "tokens": options.tokens,
        "seeds": options.seeds and _seeds(options.seeds),
        "tune": False if options.no_tune else None,
        "measured": options.measured,
    }
    choice = validate(Choice, {key: value for key, value in given.items() if value is not None}, "the command line")
    return make(workspace, options.study, choice, options.name or "")


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise BadInput(
            f"--seeds {text!r} cannot be read: write whole numbers with commas, for example 0,1,2."
        ) from None


def list_studies(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.cli_show import print_json
    from mixcpt.studies import grid, studies
    from mixcpt.study_kinds import KINDS

    begun = []
    for study in studies(workspace):
        cells = [cell for line in grid(workspace, study) for cell in line]
        done = sum(cell.state == "done" for cell in cells)
        begun.append(
            {"name": study.name, "study": study.kind, "created": study.created, "runs": len(cells), "done": done}
        )
    shipped = [
        {"study": kind.id, "title": kind.title, "question": kind.question, "budget": kind.budget}
        for kind in KINDS.values()
    ]
    if options.json:
        return print_json({"shipped": shipped, "begun": begun})
    for one in shipped:
        print(f"{one['study']:10} {one['title']}\n{'':10} {one['question']}\n{'':10} Budget: {one['budget']}.")
    for there in begun:
        print(f"{there['name']:32} {there['study']:10} {there['done']} of {there['runs']} runs done")


def plan(workspace: Workspace, options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from mixcpt import machine
    from mixcpt.cli_show import print_json, say
    from mixcpt.estimate import minutes
    from mixcpt.modelstore import ensure_model
    from mixcpt.settings import to_yaml
    from mixcpt.study_results import power
    from mixcpt.study_runs import cost

    study = _chosen(workspace, options)
    if options.yaml:
        return print(to_yaml(study.recipe))
    for model in study.choice.models:
        ensure_model(workspace, model, progress=say)
    machine.here(workspace)
    needed, able = cost(workspace, study), power(workspace, study)
    assert needed is not None, "model and machine are known by now"
    if options.json:
        arms = {"arms": study.arms, "pairs": study.pairs, "seeds": study.choice.seeds}
        return print_json(
            {"study": study.kind, "name": study.name, **arms, "cost": asdict(needed), "detectable": asdict(able)}
        )
    print(f"{study.title}: {study.question}")
    for arm in study.arms:
        print(f"  {arm:32} {minutes(needed.arms[arm])} for {len(study.choice.seeds)} seeds")
    if needed.tuning:
        print(f"  {'tuning of the learning rates':32} {minutes(needed.tuning)}")
    if needed.measuring:
        print(f"  {'measures at the end':32} {minutes(needed.measuring)}")
    print(f"{needed.runs} runs, {minutes(needed.total)} in all; the shared teacher cache saves {minutes(needed.saved)}")
    print(able.words())


def run(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.cli_do import Follower
    from mixcpt.cli_show import print_json, run_row, say
    from mixcpt.studies import open_study, studies
    from mixcpt.study_kinds import KINDS
    from mixcpt.study_runs import carry_on
    from mixcpt.supervisor import Supervisor

    begun = options.study in [study.name for study in studies(workspace)]
    given = [name for name in _CHOICE if (value := getattr(options, name)) is not None and value is not False]
    if begun and given and options.study not in KINDS:
        option = given[0].replace("_", "-")
        raise BadInput(
            f"The study {options.study!r} was begun and goes on as it is, but --{option} is given: leave it out, or "
            "begin another study with --name."
        )
    study = open_study(workspace, options.study) if begun and not given else _chosen(workspace, options)
    say(f"study {study.name}: {len(study.arms)} arms, {len(study.choice.seeds)} seeds")
    found = carry_on(workspace, study, Supervisor(workspace), say=say, on_change=Follower())
    if options.json:
        return print_json({"name": study.name, "runs": [run_row(workspace, one.id) for one in found]})
    print(study.name)


def show(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.claim_cards import as_facts
    from mixcpt.cli_show import print_json
    from mixcpt.columns import as_text
    from mixcpt.compare import summarise
    from mixcpt.studies import grid, open_study
    from mixcpt.study_reports import cards_of
    from mixcpt.study_results import results

    study = open_study(workspace, options.study)
    rows, lines = results(workspace, study), grid(workspace, study)
    arms = summarise(rows)
    found = cards_of(workspace, study, arms)
    if options.json:
        cells = [
            {"arm": cell.arm, "seed": cell.seed, "state": cell.state, "run": cell.run}
            for line in lines
            for cell in line
        ]
        rows = [{key: value for key, value in row.items() if key != "curve"} for row in rows]
        facts = {"name": study.name, "study": study.kind, "question": study.question, "grid": cells}
        return print_json(facts | {"runs": rows, "arms": arms, "claims": [as_facts(card) for card in found]})
    print(f"{study.name}: {study.question}")
    for line in lines:
        print(f"  {line[0].arm:32} " + "  ".join(f"seed {cell.seed} {cell.state}" for cell in line))
    if rows:
        print(as_text(arms))
    for card in found:
        for claim in card.claims:
            print(f"- {claim.sentence()}.")


def report(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt import study_reports
    from mixcpt.studies import open_study

    write = {"md": study_reports.to_markdown, "html": study_reports.to_html}[options.to]
    text = write(study_reports.findings(workspace, open_study(workspace, options.study)))
    if options.out:
        options.out.write_text(text, encoding="utf-8")
        return print(options.out)
    print(text, end="")
