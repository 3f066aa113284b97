"""`mixcpt diagnose`, as text and as JSON."""

import json

from made import made_run
from test_cli import check_keys
from test_cli_evaluate import Cli, cli

from mixcpt.workspace import Workspace

__all__ = ["cli"]


def test_diagnose_as_json_and_as_text(cli: Cli, workspace: Workspace) -> None:
    run = made_run(workspace, name="mine", forgetting=0.4)
    made_run(workspace, name="calm", forgetting=0.0)
    code, out, _ = cli("diagnose", "trial", "--json")
    shown = json.loads(out)
    assert code == 0 and len(shown) == 2
    check_keys("mixcpt diagnose", shown)
    found = {sign["rule"]: sign for sign in shown[0]["signs"]}
    assert (found["forgetting"]["state"], found["format"]["state"]) == ("found", "elsewhere")
    assert found["forgetting"]["command"] == f"mixcpt rerun {run.id} --set 'training.learning_rate=0.001'"
    code, out, _ = cli("diagnose", run.id[:-1])
    assert code == 0 and out.startswith(f"run {run.id}  mine\n  Found: catastrophic forgetting.")
    assert "try: take smaller steps: learning rate 0.001" in out and "Learned, but not usable: cannot tell" in out


def test_an_unknown_run(cli: Cli, workspace: Workspace) -> None:
    code, _, err = cli("diagnose", "cpt-nobody")
    assert code == 2 and "cpt-nobody" in err
