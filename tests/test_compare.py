"""Runs side by side: folders made by hand, figures worked by hand."""

import csv
import io
from typing import Any

import pytest
from made import made_run

from mixcpt.claims import claims, pairs_against
from mixcpt.columns import as_csv, as_text, differences_table, format_columns, formats_table
from mixcpt.compare import compare, domain_share, summarise, titled, with_curves
from mixcpt.comparison import as_html
from mixcpt.errors import BadInput
from mixcpt.runs import Run, Runs
from mixcpt.settings import override, validate
from mixcpt.settings_diff import config_diff
from mixcpt.stages import Stage
from mixcpt.studies import make as make_study
from mixcpt.studies import save
from mixcpt.study_kinds import Choice
from mixcpt.study_reports import findings, to_html, to_markdown
from mixcpt.workspace import Workspace

STAGE = validate(
    Stage,
    {
        "mixture": {
            "sources": [
                {"source": "field", "share": 3, "domain": True},
                {"source": "world", "share": 1},
            ]
        }
    },
    "the test",
)


def measure(domain: float, general: float, kl: float = 0.0) -> dict[str, float]:
    return {"domain_bits_per_byte": domain, "general_bits_per_byte": general, "prompt_kl": kl}


def make(
    workspace: Workspace,
    points: list[tuple[int, dict[str, float]]],
    *,
    seed: int = 0,
    arm: str = "mixture",
    experiment: str = "test",
    changes: dict[str, Any] | None = None,
) -> Run:
    """A run whose curve has these (tokens, measure) points."""
    stage = override(STAGE, changes or {}).with_seed(seed)
    run = Runs(workspace).create(stage, experiment=experiment, arm=arm)
    for step, (tokens, figures) in enumerate(points):
        run.append({"step": step, "tokens": tokens, "measure": figures})
    return run


CURVE = [
    (0, measure(1.5, 0.75)),
    (1000, measure(1.25, 0.875, 0.1)),
    (2000, measure(1.0, 1.0, 0.2)),
]


def score(accuracy: float, correct: list[int]) -> dict[str, Any]:
    return {
        "task": "",
        "accuracy": accuracy,
        "interval": [accuracy - 0.1, accuracy + 0.1],
        "items": len(correct),
        "chance": 0.25,
        "majority": 0.5,
        "correct": correct,
    }


def evaluated(run: Run) -> Run:
    """From 3 to 2 of 4 in general, from 1 to 3 of 4 in the field."""
    run.write_results(
        "evaluation",
        {
            "base": {"general": score(0.75, [1, 1, 1, 0]), "atlas_recall": score(0.25, [1, 0, 0, 0])},
            "final": {"general": score(0.5, [1, 1, 0, 0]), "atlas_recall": score(0.75, [1, 1, 1, 0])},
            "gain": {
                "general": {"difference": -0.25, "interval": [-0.5, 0.125]},
                "atlas_recall": {"difference": 0.5, "interval": [0.0, 1.0]},
            },
        },
    )
    return run


def test_a_gain_is_positive_when_the_field_got_better_and_forgetting_when_general_got_worse(
    workspace: Workspace,
) -> None:
    (row,) = compare([make(workspace, CURVE)])
    assert (row["domain_bits_per_byte_base"], row["domain_bits_per_byte"], row["domain_gain"]) == (1.5, 1.0, 0.5)
    assert (row["general_bits_per_byte_base"], row["general_bits_per_byte"], row["forgetting"]) == (0.75, 1.0, 0.25)
    assert row["prompt_kl"] == 0.2
    assert (row["tokens"], row["domain_tokens"]) == (2000, 1500)


def test_the_signs_turn_when_the_field_got_worse_and_general_better(workspace: Workspace) -> None:
    (row,) = compare([make(workspace, [(0, measure(1.0, 1.0)), (64, measure(1.25, 0.5))])])
    assert (row["domain_gain"], row["forgetting"]) == (-0.25, -0.5)


def test_forgetting_of_general_questions_and_gain_of_those_of_the_field(workspace: Workspace) -> None:
    (row,) = compare([evaluated(make(workspace, CURVE))])
    assert row["general_forgetting"] == 0.25
    assert row["general_forgetting_interval"] == [-0.125, 0.5]
    assert row["atlas_recall_gain"] == 0.5
    assert row["atlas_recall_gain_interval"] == [0.0, 1.0]
    assert "general_gain" not in row and "atlas_recall_forgetting" not in row
    assert (row["general_base"], row["general_accuracy"]) == (0.75, 0.5)
    assert (row["atlas_recall_items"], row["atlas_recall_chance"], row["atlas_recall_majority"]) == (4, 0.25, 0.5)


def test_a_row_says_what_was_run(workspace: Workspace) -> None:
    changes = {"objective.retention": "none", "training.learning_rate": 2e-3}
    run = make(workspace, CURVE, seed=4, arm="plain", changes=changes)
    (row,) = compare([run])
    assert {key: row[key] for key in ("run", "experiment", "arm", "seed", "stage", "parent", "retention")} == {
        "run": run.id,
        "experiment": "test",
        "arm": "plain",
        "seed": 4,
        "stage": "cpt",
        "parent": None,
        "retention": "none",
    }
    assert (row["learning_rate"], row["ce_weight"], row["retention_weight"]) == (2e-3, 1.0, 0.0)


def test_a_curve_is_read_where_it_had_seen_so_many_domain_tokens(workspace: Workspace) -> None:
    run = evaluated(make(workspace, CURVE))
    (row,) = compare([run], domain_tokens=780)  # three quarters of 1,000 are 750, within a tenth
    assert (row["tokens"], row["domain_tokens"]) == (1000, 750)
    assert (row["domain_gain"], row["forgetting"]) == (0.25, 0.125)
    assert not [key for key in row if "accuracy" in key], "scores of the end do not belong to the middle"


def test_the_share_that_was_realised_goes_before_the_one_that_was_asked_for(workspace: Workspace) -> None:
    run = make(workspace, CURVE)
    assert domain_share(run) == 0.75
    sources = [{"domain": True, "realised_share": 0.5}, {"domain": False, "realised_share": 0.5}]
    run.write_results("training", {"mixture": {"sources": sources}})
    assert domain_share(run) == 0.5
    assert compare([run], domain_tokens=500)[0]["tokens"] == 1000


def test_a_curve_that_has_no_point_there_is_refused(workspace: Workspace) -> None:
    with pytest.raises(BadInput, match=r"no measure near 1,100 domain tokens \(the nearest is at 750\).*every_steps"):
        compare([make(workspace, CURVE)], domain_tokens=1100)
    with pytest.raises(BadInput, match=r"no measure near 10 domain tokens \(the nearest is at 750\)"):
        compare([make(workspace, CURVE)], domain_tokens=10)  # the base is no point of a run


def test_a_run_without_measures_is_refused(workspace: Workspace) -> None:
    run = make(workspace, [])
    with pytest.raises(BadInput, match=f"{run.id} has no measures yet"):
        compare([run])


def test_a_measure_that_was_not_taken_is_left_out(workspace: Workspace) -> None:
    figures = {"general_bits_per_byte": 0.5}
    (row,) = compare([make(workspace, [(0, figures), (64, figures)])])
    assert row["forgetting"] == 0.0
    assert not {"domain_bits_per_byte", "domain_gain", "prompt_kl"} & row.keys()


def seeds(workspace: Workspace, gains: tuple[float, ...], **more: Any) -> list[Run]:
    return [
        make(workspace, [(0, measure(2.0, 1.0)), (64, measure(2.0 - gain, 1.0))], seed=seed, **more)
        for seed, gain in enumerate(gains)
    ]


def test_seeds_become_a_mean_and_a_t_interval(workspace: Workspace) -> None:
    (arm,) = summarise(compare(seeds(workspace, (0.5, 0.75, 1.0))))
    assert arm["seeds"] == [0, 1, 2] and len(arm["runs"]) == 3
    assert arm["domain_gain"] == 0.75
    # deviation 0.25, t(2) = 4.30265: 4.30265 * 0.25 / sqrt(3) = 0.62104
    assert arm["domain_gain_ci"] == pytest.approx((0.12896, 1.37104), abs=1e-5)
    assert arm["domain_bits_per_byte_ci"] == pytest.approx((1.25 - 0.62104, 1.25 + 0.62104), abs=1e-5)
    assert arm["general_bits_per_byte"] == 1.0 and "general_bits_per_byte_ci" not in arm
    assert arm["learning_rate"] == 1e-3 and arm["arm"] == "mixture"
    assert "seed" not in arm and "run" not in arm


def test_seeds_of_a_recipe_without_arms_are_one_line_too(workspace: Workspace) -> None:
    (arm,) = summarise(compare(seeds(workspace, (0.5, 1.0), arm="")))
    assert arm["seeds"] == [0, 1] and arm["domain_gain"] == 0.75


def test_one_seed_has_no_interval(workspace: Workspace) -> None:
    (arm,) = summarise(compare(seeds(workspace, (0.5,))))
    assert arm["domain_gain"] == 0.5
    assert not [key for key in arm if key.endswith("_ci")]


def test_the_same_run_twice_is_no_second_seed(workspace: Workspace) -> None:
    """A repeated training shows nothing about the spread over seeds; counted, it would make the interval narrower."""
    runs = seeds(workspace, (0.5, 1.0))
    again = make(workspace, [(0, measure(2.0, 1.0)), (64, measure(1.0, 1.0))], seed=1)
    (arm,) = summarise(compare([*runs, runs[0], again]))
    assert arm["seeds"] == [0, 1] and arm["runs"] == [runs[0].id, again.id]
    assert arm == summarise(compare(runs))[0] | {"runs": arm["runs"]}


def test_a_figure_that_some_seeds_lack_is_shown_with_how_many_have_it(workspace: Workspace) -> None:
    bare = make(workspace, [(0, {"general_bits_per_byte": 1.0}), (64, {"general_bits_per_byte": 1.0})], seed=9)
    (arm,) = summarise(compare([bare, *seeds(workspace, (0.5, 1.0))]))
    assert (arm["domain_gain"], arm["domain_gain_runs"]) == (0.75, 2)
    assert arm["forgetting"] == 0.0 and "forgetting_runs" not in arm


def test_tokens_are_means_too(workspace: Workspace) -> None:
    runs = [make(workspace, [(0, measure(1, 1)), (n, measure(1, 1))], seed=n) for n in (1000, 1101)]
    (arm,) = summarise(compare(runs))
    assert (arm["tokens"], arm["domain_tokens"]) == (1050, 788)  # three quarters: 750 and 826
    assert type(arm["tokens"]) is int


def test_other_settings_experiments_and_arms_are_never_averaged(workspace: Workspace) -> None:
    runs = [
        *seeds(workspace, (0.5,)),
        *seeds(workspace, (1.0,), arm="other"),
        *seeds(workspace, (1.0,), experiment="other"),
        *seeds(workspace, (1.0,), changes={"mixture.sources.1.share": 2.0}),
    ]
    assert [len(arm["runs"]) for arm in summarise(compare(runs))] == [1, 1, 1, 1]


def test_scores_of_seeds_are_averaged_and_intervals_over_items_are_left_out(workspace: Workspace) -> None:
    runs = [evaluated(run) for run in seeds(workspace, (0.5, 1.0))]
    (arm,) = summarise(compare(runs))
    assert arm["general_accuracy"] == 0.5 and arm["general_items"] == 4
    assert "general_interval" not in arm
    (single,) = summarise(compare(runs[:1]))
    assert single["general_interval"] == [0.4, 0.6]


def test_csv_holds_every_column_once_and_leaves_what_is_missing_empty(workspace: Workspace) -> None:
    rows = compare([make(workspace, CURVE, arm='a, "b"'), evaluated(make(workspace, CURVE))])
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert len(read) == 2 and set(read[0]) == rows[0].keys() | rows[1].keys()
    assert read[0]["arm"] == 'a, "b"' and read[0]["general_accuracy"] == ""
    assert float(read[1]["general_accuracy"]) == 0.5 and float(read[1]["forgetting"]) == 0.25


def test_the_text_table_shows_values_units_and_spread(workspace: Workspace) -> None:
    runs = [evaluated(run) for run in seeds(workspace, (0.5, 1.0))]
    units, title, line, _, heading, asked, answered = as_text(summarise(compare(runs))).splitlines()
    assert "bits per byte" in units and "nats" in units and "answered right" in heading
    assert title.split()[:4] == ["arm", "seeds", "tokens", "domain"]
    # deviation sqrt(0.125), over sqrt(2) gives 0.25; t(1) = 12.706: 3.177
    assert line.startswith("mixture  2      64") and "+0.750 ±3.177" in line
    assert asked.split()[2:7] == ["general", "guessing", "majority", "before", "after"] and "atlas_recall" in asked
    assert "25%" in answered and "75%" in answered


def test_exact_answers_of_an_open_set_are_a_set_of_their_own(workspace: Workspace) -> None:
    run = evaluated(make(workspace, CURVE))
    found = run.results()["evaluation"]
    for part, share in (("base", 0.1), ("final", 0.3)):
        found[part]["general"]["exact"] = {"accuracy": share, "interval": [share, share]}
    found["gain"]["general"]["exact"] = {"difference": 0.2, "interval": [0.1, 0.3]}
    run.write_results("evaluation", found)
    (row,) = compare([run])
    assert (row["general_accuracy"], row["general_exact_accuracy"], row["general_exact_base"]) == (0.5, 0.3, 0.1)
    assert row["general_exact_gain_interval"] == [0.1, 0.3] and row["general_exact_items"] == row["general_items"]


def formed(run: Run, shares: dict[str, tuple[float, float]], template: str = "alpaca") -> Run:
    """Per check the shares of base and run of 8 answers in a template, and the loss of the references."""
    sides = [
        {
            check: {"share": both[side], "interval": [both[side] - 0.25, both[side] + 0.25]}
            for check, both in shares.items()
        }
        | {"items": 8, "loss": (2.5, 1.5)[side], "length_ratio": 1.0}
        for side in (0, 1)
    ]
    gain = {check: {"difference": after - before, "interval": [0.0, 0.5]} for check, (before, after) in shares.items()}
    one = {"base": sides[0], "final": sides[1], "gain": gain, "source": "s", "tokens": 40, "fingerprint": "f"}
    evaluation = run.results().get("evaluation", {})
    run.write_results("evaluation", evaluation | {"format": {template: one}})
    return run


SHARES = {"well_formed": (0.25, 0.5), "ended": (0.5, 0.75), "follows": (0.75, 1.0), "right_length": (0.25, 0.5)}


def test_the_format_of_answers_is_told_with_items_and_intervals(workspace: Workspace) -> None:
    (row,) = compare([formed(make(workspace, CURVE), SHARES)])
    assert (row["format_alpaca_well_formed_base"], row["format_alpaca_well_formed"]) == (0.25, 0.5)
    assert row["format_alpaca_well_formed_interval"] == [0.25, 0.75] and row["format_alpaca_items"] == 8
    assert row["format_alpaca_ended_gain"] == 0.25 and row["format_alpaca_ended_gain_interval"] == [0.0, 0.5]
    assert (row["format_alpaca_loss_base"], row["format_alpaca_loss"]) == (2.5, 1.5)
    (on_the_way,) = compare([formed(make(workspace, CURVE), SHARES)], 750)
    assert not any(key.startswith("format_") for key in on_the_way)


def test_the_format_of_answers_has_columns(workspace: Workspace) -> None:
    arms = summarise(titled(compare([formed(make(workspace, CURVE), SHARES)])))
    table = formats_table(arms)
    assert table and not any("alpaca" in head for head in differences_table(arms).columns)
    told = dict(zip(table.columns, table.rows[0], strict=True))
    assert told["Well formed, alpaca (of 8 answers)"] == "50% (25% to 75%)"
    assert told["Keeps to the template, alpaca (of 8 answers)"] == "100% (75% to 125%)"
    assert told["Loss of references, alpaca (nats/token)"] == "1.500"
    seen = {column.key: column.help for column in format_columns(arms)}
    assert "in the template alpaca" in seen["format_alpaca_ended"]
    assert formats_table(summarise(titled(compare([make(workspace, CURVE, arm="unasked")])))) is None
    text = as_text(arms)
    assert "format of answers in the template alpaca" in text and "50% (25% to 75%)" in text


def test_pages_to_take_along_have_a_table_of_the_format(workspace: Workspace) -> None:
    study = make_study(workspace, "lssd", Choice(seeds=[0], tune=False), name="mine")
    save(workspace, study)
    runs = [formed(made_run(workspace, experiment="mine", arm="LSSD on"), SHARES)]
    page, report = as_html(workspace, runs), to_markdown(findings(workspace, study))
    assert "<h2>Form of the answers</h2>" in page and "Well formed, alpaca (of 8 answers)" in page
    assert "## Form of the answers" in report and "| LSSD on | 0 | 50% (25% to 75%) |" in report.replace("\\", "")
    assert to_html(findings(workspace, study)).count("<h2>Form of the answers</h2>") == 1


def test_columns_of_several_seeds_have_the_spread_over_them(workspace: Workspace) -> None:
    runs = [
        formed(make(workspace, CURVE, seed=seed), dict.fromkeys(SHARES, (0.25, share)), "own")
        for seed, share in enumerate((0.25, 0.75))
    ]
    (arm,) = summarise(titled(compare(runs)))
    # deviation sqrt(0.125), over sqrt(2) gives 0.25; t(1) = 12.706: 318 points
    table = formats_table([arm])
    assert table
    told = dict(zip(table.columns, table.rows[0], strict=True))
    assert told["Well formed, own (of 8 answers)"] == "50% ± 318%"
    assert "in the model's own template" in as_text([arm])


def test_the_format_of_answers_is_claimed_about(workspace: Workspace) -> None:
    low = [formed(make(workspace, CURVE, seed=seed, arm="random"), SHARES) for seed in range(3)]
    better = dict.fromkeys(SHARES, (0.25, 0.75))
    high = [
        formed(make(workspace, CURVE, seed=seed, arm="easiest", changes={"adapter.rank": 4}), better)
        for seed in range(3)
    ]
    (own,) = claims(pairs_against(summarise(titled(compare([*low, *high])))))
    told = {claim.measure.key: claim.sentence() for claim in own}
    # All seeds differ alike, so rounding decides: 4.30265 / (8 sqrt(6) sqrt(3)) = 0.127 around 0.25.
    assert told["format_alpaca_well_formed"] == (
        "easiest gives 25 points more well-formed answers in the template alpaca than random (95 % 12 to 38, 3 seeds, "
        "8 answers each)"
    )
    assert told["format_alpaca_loss"].startswith(
        "easiest and random are equally sure of the reference answers in the template alpaca within noise"
    )


def test_the_spread_of_a_percentage_is_a_percentage() -> None:
    row = {"arm": "a", "runs": ["x"], "general_accuracy": 0.5, "general_accuracy_ci": (0.25, 0.75)}
    assert "50% ±25%" in as_text([row])


def test_a_run_without_an_arm_is_called_by_its_id(workspace: Workspace) -> None:
    run = make(workspace, CURVE, arm="")
    assert run.id in as_text(compare([run])) and run.id in as_text(summarise(compare([run])))


@pytest.mark.parametrize(
    ("arm", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM", "'@SUM"),
        ("\t=1", "'=1"),
        ("a\r\n=1", "a =1"),
        ("a-b", "a-b"),
    ],
)
def test_a_name_in_csv_is_no_formula_and_numbers_stay_numbers(workspace: Workspace, arm: str, cell: str) -> None:
    run = make(workspace, [(0, measure(1.0, 1.0)), (64, measure(1.25, 0.5))], arm=arm)
    (read,) = csv.DictReader(io.StringIO(as_csv(compare([run]))))
    assert read["arm"] == cell
    assert (read["domain_gain"], read["forgetting"]) == ("-0.25", "-0.5")


def test_csv_has_no_curves(workspace: Workspace) -> None:
    assert "curve" not in next(csv.reader(io.StringIO(as_csv(with_curves([make(workspace, CURVE)])))))


def test_a_title_is_the_name_or_the_arm_or_the_id(workspace: Workspace) -> None:
    named, armed, bare = (make(workspace, CURVE, arm=arm, experiment=str(n)) for n, arm in enumerate(["a", "b", ""]))
    named.relabel(name="mine")
    assert [row["title"] for row in with_curves([named, armed, bare])] == ["mine", "b", bare.id]


def test_arms_of_one_name_are_told_apart_by_experiment_or_id(workspace: Workspace) -> None:
    one, two = make(workspace, CURVE, experiment="one"), make(workspace, CURVE, experiment="two")
    assert [row["title"] for row in with_curves([one, two])] == ["mixture · one", "mixture · two"]
    other = make(workspace, CURVE, experiment="one", changes={"adapter.rank": 4})
    titles = [row["title"] for row in with_curves([one, other])]
    assert titles == [f"mixture · {one.id[-6:]}", f"mixture · {other.id[-6:]}"]


def test_seeds_have_one_title_even_under_several_names(workspace: Workspace) -> None:
    first, second = seeds(workspace, (0.5, 1.0))
    first.relabel(name="first try")
    second.relabel(name="second try")
    assert {row["title"] for row in with_curves([first, second])} == {"mixture"}


def test_only_settings_that_differ_are_listed_with_their_labels(workspace: Workspace) -> None:
    one = make(workspace, CURVE)
    two = make(workspace, CURVE, seed=3, changes={"training.warmup": 0.25, "mixture.joiner": " "})
    assert [
        (row["setting"], row["part"], row["label"], *row["values"].values()) for row in config_diff([one, two])
    ] == [
        ("mixture.joiner", "Mixture", "Between question and answer", '"\\n\\n"', '" "'),
        ("mixture.seed", "Mixture", "Mixture seed", "0", "3"),
        ("training.warmup", "Training", "Warm-up (of the steps)", "0.05", "0.25"),
        ("training.seed", "Training", "Training seed", "0", "3"),
    ]
    assert config_diff([one]) == []


def test_sources_are_matched_by_name_and_compared_as_shares_of_the_whole(workspace: Workspace) -> None:
    three_to_one = make(workspace, CURVE)
    in_percent = make(workspace, CURVE, changes={"mixture.sources.0.share": 75, "mixture.sources.1.share": 25})
    assert config_diff([three_to_one, in_percent]) == []
    other = make(workspace, CURVE, changes={"mixture.sources.1.source": "books", "mixture.sources.1.share": 3})
    diff = {row["label"]: list(row["values"].values()) for row in config_diff([three_to_one, other])}
    assert diff == {
        "Share of field": ["75 %, the field", "50 %, the field"],
        "Share of world": ["25 %", "–"],
        "Share of books": ["–", "50 %"],
    }
