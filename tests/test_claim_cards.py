"""Claim cards of made-up runs: what is on them, in every form, and by the command line."""

import json
import shlex

import pytest
from made import made_run, stage_of

from mixcpt.claim_cards import Card, as_markdown, as_parts, cards
from mixcpt.claims import pairs_against
from mixcpt.cli import main
from mixcpt.compare import compare, summarise, titled
from mixcpt.plotting import as_html
from mixcpt.runs import Run
from mixcpt.seed_chart import seeds
from mixcpt.workspace import Workspace

EVIL = 'docs <b>|</b> $x$ "a"'


@pytest.fixture
def runs(workspace: Workspace) -> list[Run]:
    """Ends are gain and forgetting times 1 - exp(-3) = 0.950213; the differences of forgetting are 0.2, 0.3, 0.4."""
    rank = stage_of(adapter__rank=4)
    plain = [made_run(workspace, arm=EVIL, seed=seed, gain=0.4, forgetting=0.5) for seed in range(3)]
    held = [
        made_run(workspace, arm="held", seed=seed, gain=0.4, forgetting=0.3 - 0.1 * seed, stage=rank)
        for seed in range(3)
    ]
    return [*plain, *held]


def card_of(workspace: Workspace, runs: list[Run]) -> Card:
    (card,) = cards(workspace, pairs_against(summarise(titled(compare(runs)))))
    return card


def test_a_card_holds_what_it_takes_to_check_it(workspace: Workspace, runs: list[Run]) -> None:
    card = card_of(workspace, runs)
    # the mean is 0.3 * 0.950213 = 0.285064, half the interval 2.48414 * 0.0950213 = 0.236046
    forgets = next(claim for claim in card.claims if claim.measure.key == "forgetting")
    assert forgets.sentence() == f"held forgets 0.29 bits per byte less than {EVIL} (95 % 0.05 to 0.52, 3 seeds)"
    facts = dict(card.facts)
    assert facts["Model"] == "smollm2-135m" and facts["Seeds"] == "0, 1, 2"
    hashes = {name: value for name, value in facts.items() if name.startswith("Data, ")}
    assert "Data, builtin/atlas" in hashes and "Data, builtin/general" in hashes
    assert all(len(value) >= 16 and int(value, 16) for value in hashes.values())
    assert card.settings == (("Adapter: LoRA rank", "4", str(runs[0].config.adapter.rank)),)
    assert facts["Runs, held"] == ", ".join(run.id for run in runs[3:])


def test_the_command_on_a_card_prints_the_card_again(
    workspace: Workspace, runs: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    card = card_of(workspace, runs)
    name, *arguments = shlex.split(card.command)
    assert name == "mixcpt" and main(arguments) == 0
    assert capsys.readouterr().out == as_markdown(card)
    assert main([*arguments, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    forgets = next(claim for claim in found["claims"] if claim["measure"] == "forgetting")
    assert forgets["verdict"] == "less" and forgets["seeds"] == [0, 1, 2]
    assert forgets["points"] == pytest.approx([-0.2 * 0.950213, -0.3 * 0.950213, -0.4 * 0.950213])


def test_the_command_names_all_that_the_card_was_corrected_among(
    workspace: Workspace, runs: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A third arm, and another experiment with an arm of the same name, so that titles have to be told apart."""
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    stage = stage_of(adapter__rank=2)
    more = [made_run(workspace, arm="held", seed=seed, experiment="else", stage=stage) for seed in range(3)]
    arms = summarise(titled(compare([*runs[3:], *runs[:3], *more])))
    found = cards(workspace, pairs_against(arms, arms[0]["title"]))
    assert arms[0]["title"].startswith("held · ") and found[0].claims[0].pairs == 2
    _, *arguments = shlex.split(found[1].command)
    assert main(arguments) == 0 and capsys.readouterr().out.rstrip() == "\n".join(map(as_markdown, found)).rstrip()


def test_claims_need_two_arms(
    workspace: Workspace, runs: list[Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    assert main(["compare", runs[0].id, "--claims"]) == 2
    assert "name runs of another arm" in capsys.readouterr().err
    assert main(["compare", "trial", "--claims", "--against", "nobody"]) == 2
    assert "No arm is called 'nobody'" in capsys.readouterr().err


def test_names_on_a_card_do_nothing(workspace: Workspace, runs: list[Run]) -> None:
    card = card_of(workspace, runs)
    markdown, page = as_markdown(card), as_html(as_parts(card), card.title)
    assert "<b>" not in markdown.partition("```")[0] and r"docs \<b\>\|\</b\>" in markdown
    assert "<b>" not in page and "docs &lt;b&gt;|" in page
    assert card.command in page.replace("&#x27;", "'").replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"')


def test_sources_that_are_gone_are_said_to_be(workspace: Workspace) -> None:
    stage = stage_of(**{"mixture__sources": [{"source": "gone", "share": 1, "domain": True}]})
    card = card_of(workspace, [made_run(workspace, arm="a", stage=stage), made_run(workspace, arm="b", stage=stage)])
    assert dict(card.facts)["Data, gone"] == "not in this workspace any more"


def test_every_seed_is_drawn_as_a_point_with_mean_and_interval(workspace: Workspace, runs: list[Run]) -> None:
    figure = seeds(titled(compare(runs)))
    points, mean = [trace for trace in figure.data if trace.xaxis == "x2"]
    assert list(points.x) == pytest.approx([-0.2 * 0.950213, -0.3 * 0.950213, -0.4 * 0.950213])
    assert list(points.customdata) == [0, 1, 2]
    assert mean.x[0] == pytest.approx(-0.285064, abs=1e-6)
    spread = [mean.error_x.array[0], mean.error_x.arrayminus[0]]
    assert spread == pytest.approx([0.236046] * 2, abs=1e-5)
    assert "docs &lt;b&gt;" in str(points.hovertemplate)


def test_pairs_are_drawn_as_they_are_named(workspace: Workspace, runs: list[Run]) -> None:
    third = [
        made_run(workspace, arm="third", seed=seed, gain=0.4, forgetting=0.1, stage=stage_of(adapter__rank=2))
        for seed in range(3)
    ]
    rows = titled(compare([*runs, *third]))
    figure = seeds(rows, [("held", EVIL), ("third", "held"), ("third", "gone")])
    assert [name.split(" ")[0] for name in figure.layout.yaxis.ticktext] == ["held", "third"]
    assert figure.layout.yaxis.ticktext[1] == "third \N{MINUS SIGN} held"
    points = [list(trace.x) for trace in figure.data if trace.xaxis == "x2" and len(trace.x) == 3]
    # forgetting: 0.1 minus 0.3, 0.2, 0.1, each times 1 - exp(-3)
    assert points[1] == pytest.approx([-0.2 * 0.950213, -0.1 * 0.950213, 0.0], abs=1e-5)


def test_one_seed_is_a_point_without_an_interval_and_one_arm_is_nothing(workspace: Workspace, runs: list[Run]) -> None:
    figure = seeds(titled(compare([runs[0], runs[3]])))
    assert [len(trace.x) for trace in figure.data] == [1, 1, 1]
    assert "Two arms" in seeds(titled(compare(runs[:3]))).layout.annotations[0].text
