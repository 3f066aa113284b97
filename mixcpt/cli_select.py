"""Commands of `mixcpt` for the samples of the second stage: score a source, choose from the scores, keep the choice."""

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mixcpt.cli_show import print_json, say
from mixcpt.commands import at_least, command
from mixcpt.errors import BadInput
from mixcpt.scores import SCORES, ScoreTable, alike, default_score, list_tables, table_ids
from mixcpt.selection import Rule, Selection, delete_selection, list_selections, open_selection, selection_names
from mixcpt.settings import validate
from mixcpt.workspace import Workspace

_REASONS = 5


def add(commands: Any) -> None:
    """The commands score, scores, select and selection."""
    one = command(commands, "score", score, "score the samples of a source: how easy each is for a model", json=True)
    one.add_argument("source", metavar="SOURCE", help="builtin/instructions, builtin/preferences or a corpus of yours")
    who = one.add_mutually_exclusive_group()
    who.add_argument("--run", metavar="RUN", help="the run whose adapter is asked; else the base")
    who.add_argument("--model", metavar="M", default=None, help="the base to ask (smollm2-135m)")
    one.add_argument("--template", metavar="NAME", help="own, chatml, llama3, …; none: plain text only")
    one.add_argument("--forms", default=None, metavar="A,B", help="template,plain,alone: how samples are read (all)")
    one.add_argument("--limit", type=at_least(1), metavar="N", help="score only so many samples")
    one.add_argument("--max-tokens", type=int, metavar="N", help="leave longer samples out (2048)")
    one.add_argument("--beta", type=float, help="DPO's, for the held-out DPO loss of pairs (0.1)")
    command(commands, "scores", scores, "the scores that are there", json=True)

    one = command(commands, "select", select, "choose samples by their scores, and save the choice", json=True)
    one.add_argument("scores", metavar="SCORES", help="the id of scores, or a beginning of it that is unique")
    one.add_argument("name", metavar="NAME", help="of the new selection")
    one.add_argument("--strategy", choices=("easiest", "hardest", "random", "all", "by-hand"), default="easiest")
    one.add_argument("--score", choices=tuple(SCORES), metavar="SCORE", help=f"one of {', '.join(SCORES)}")
    end = one.add_mutually_exclusive_group()
    end.add_argument("--count", type=int, metavar="N", help="take so many samples")
    end.add_argument("--tokens", type=int, metavar="N", help="take samples up to so many tokens")
    end.add_argument("--threshold", type=float, metavar="X", help="take samples up to this value of the score")
    one.add_argument("--keep", action="append", default=[], metavar="ID", help="keep this sample too; repeatable")
    one.add_argument("--discard", action="append", default=[], metavar="ID", help="take this one out; repeatable")
    one.add_argument("--seed", type=int, default=0, help="of a choice by chance (0)")
    one.add_argument("--replace", action="store_true", help="replace a selection of the same name")
    _add_saved(commands)


def _add_saved(commands: Any) -> None:
    saved = commands.add_parser("selection", help="list, show, export, import or remove selections").add_subparsers(
        required=True, metavar="ACTION"
    )
    command(saved, "list", list_saved, "all selections", json=True)
    one = command(saved, "show", show, "one selection: its rule, what it comes to, its samples", json=True)
    one.add_argument("name", metavar="NAME")
    one = command(saved, "export", export, "write the chosen samples as JSON lines")
    one.add_argument("name", metavar="NAME")
    one.add_argument("out", type=Path, metavar="OUT.jsonl", help="a file that does not exist yet")
    one = command(saved, "import", import_, "make a selection of the samples that a file lists", json=True)
    one.add_argument("name", metavar="NAME", help="of the new selection")
    one.add_argument("file", type=Path, metavar="FILE.jsonl", help="what export wrote, or lines with an id each")
    one.add_argument("--scores", required=True, metavar="SCORES", help="the scores whose samples the file names")
    one.add_argument("--replace", action="store_true", help="replace a selection of the same name")
    one = command(saved, "remove", remove, "delete a selection")
    one.add_argument("name", metavar="NAME")


def score(workspace: Workspace, options: argparse.Namespace) -> int:
    from mixcpt import score_jobs
    from mixcpt.cli_do import Follower
    from mixcpt.modelstore import ensure_model
    from mixcpt.runs import Runs
    from mixcpt.submission import finish
    from mixcpt.supervisor import Supervisor

    given: dict[str, Any] = {
        "source": options.source,
        "run": Runs(workspace).get(options.run).id if options.run else None,
        "model": {"name": options.model} if options.model else None,
        "template": options.template,
        "what": options.forms.split(",") if options.forms is not None else None,
        "limit": options.limit,
        "max_tokens": options.max_tokens,
        "beta": options.beta,
    }
    given = {key: value for key, value in given.items() if value is not None}
    order = validate(score_jobs.ScoreOrder, given, "the command line")
    if order.run is None:
        ensure_model(workspace, order.under, progress=say)
    job = score_jobs.submit(workspace, order)
    finish([job], Supervisor(workspace), Follower())
    table = ScoreTable.open(workspace, score_jobs.table_of(job))
    if options.json:
        print_json(_row(table))
    else:
        _print_table(table)
    return 0


def _row(table: ScoreTable) -> dict[str, Any]:
    reasons = Counter(alike(sample.reason) for sample in table.samples if sample.reason)
    return {**table.info, "scores": table.names(), "reasons": dict(reasons)}


def _print_table(table: ScoreTable) -> None:
    row = _row(table)
    print(table.id)
    print(f"  {row['samples']:,} samples scored, {row['left_out']:,} left out")
    _print_reasons(row["reasons"])
    for name in table.names():
        values = sorted(sample.scores[name] for sample in table.samples if name in sample.scores)
        low, middle, high = values[0], values[len(values) // 2], values[-1]
        print(f"  {name:20} {low:10.4g} … {middle:10.4g} … {high:10.4g}   {SCORES[name].label}")
    print(f"  choose by it: mixcpt select {table.id} NAME --count 64")


def _print_reasons(reasons: dict[str, int]) -> None:
    for reason, number in sorted(reasons.items(), key=lambda item: -item[1])[:_REASONS]:
        print(f"    {number:,} times: {reason}")
    if len(reasons) > _REASONS:
        print(f"    … and {len(reasons) - _REASONS:,} other reasons")


def scores(workspace: Workspace, options: argparse.Namespace) -> None:
    infos = list_tables(workspace)
    if options.json:
        return print_json(infos)
    for info in infos:
        template = info["template"]["name"] if info["template"] else "no template"
        print(f"{info['id']}  {info['source']}  under {info['run'] or info['model']}  {template}  {info['created']}")
    _name_damaged({*table_ids(workspace)} - {info["id"] for info in infos}, "table.json")
    if not infos:
        print("no scores yet: mixcpt score builtin/instructions --run RUN")


def _name_damaged(names: set[str], file: str) -> None:
    for name in sorted(names):
        say(f"{name} cannot be read: its {file} is damaged")


def select(workspace: Workspace, options: argparse.Namespace) -> None:
    table = _table(workspace, options.scores)
    by_score = options.strategy in ("easiest", "hardest")
    if options.score and not by_score:
        raise BadInput(f"--score says nothing for {options.strategy}: leave it out, or choose easiest or hardest.")
    if by_score and not (options.score or table.names()):
        raise BadInput(f"The scores {table.id} hold no score to choose by: take --strategy random or all.")
    rule = {
        "strategy": options.strategy,
        "score": (options.score or default_score(table.names())) if by_score else None,
        "count": options.count,
        "tokens": options.tokens,
        "threshold": options.threshold,
        "seed": options.seed,
    }
    chosen = Selection.of(table, validate(Rule, rule, "the command line"), options.keep, options.discard)
    _save(workspace, chosen, options)


def _table(workspace: Workspace, id: str) -> ScoreTable:
    from mixcpt.jobs import find_id

    return ScoreTable.open(workspace, find_id(id, table_ids(workspace), "score"))


def _save(workspace: Workspace, selection: Selection, options: argparse.Namespace) -> None:
    selection.save(workspace, options.name, replace=options.replace)
    _print(options.name, selection, options.json)


def _print(name: str, selection: Selection, as_json: bool) -> None:
    counts = selection.counts()
    if as_json:
        return print_json(
            {
                "name": name,
                "kind": selection.kind,
                "scores": selection.info,
                "rule": selection.rule.model_dump(mode="json"),
                "keep": selection.keep,
                "discard": selection.discard,
                "counts": asdict(counts),
                "ids": selection.ids,
            }
        )
    print(f"selection {name}: {selection.rule.words()}")
    under = selection.info["run"] or selection.info["model"]
    print(f"  of {selection.info['source']}, scored under {under}")
    print(f"  chosen      {counts.chosen:,} of {counts.candidates:,} samples")
    print(f"  tokens      {counts.tokens:,}, {counts.answer_tokens:,} of them answers")
    print(f"  by hand     {counts.kept_by_hand:,} kept, {counts.discarded_by_hand:,} discarded")
    print(f"  unscored    {counts.unscored:,}")
    print(f"  left out    {sum(counts.excluded.values()):,}")
    _print_reasons(counts.excluded)


def list_saved(workspace: Workspace, options: argparse.Namespace) -> None:
    found = list_selections(workspace)
    if options.json:
        return print_json(found)
    for one in found:
        rule = validate(Rule, one["rule"], f"the selection {one['name']}")
        print(f"{one['name']:24} {one['chosen']:>7,} samples {one['tokens']:>9,} tokens  {rule.words()}")
    _name_damaged({*selection_names(workspace)} - {one["name"] for one in found}, "selection.json")
    if not found:
        print("no selections yet: mixcpt select SCORES NAME --count 64")


def show(workspace: Workspace, options: argparse.Namespace) -> None:
    _print(options.name, open_selection(workspace, options.name), options.json)


def export(workspace: Workspace, options: argparse.Namespace) -> None:
    if options.out.exists():
        raise BadInput(f"{options.out} is there already: name a file that does not exist yet.")
    number = open_selection(workspace, options.name).export(options.out)
    say(f"{number:,} samples written")
    print(options.out)


def import_(workspace: Workspace, options: argparse.Namespace) -> None:
    from mixcpt.interchange import import_selection

    _save(workspace, import_selection(_table(workspace, options.scores), options.file), options)


def remove(workspace: Workspace, options: argparse.Namespace) -> None:
    delete_selection(workspace, options.name)
    print(f"selection {options.name} removed")
