"""The page Compare: every field of its chooser, what it says, and what it refuses."""

import pytest
from made import made_run, open_page, stage_of, texts, widget_of
from streamlit.testing.v1 import AppTest

from mixcpt.evaluated import CHECKS
from mixcpt.notebook import Notebook
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace


@pytest.fixture
def runs(studio: Workspace) -> list[Run]:
    """Ends: gain 0.4 and 0.6, forgetting 0.1 and 0.3, times 1 - exp(-3) = 0.950213."""
    return [
        made_run(studio, arm="mixture", gain=0.4, forgetting=0.1),
        made_run(studio, arm="documents", gain=0.6, forgetting=0.3, stage=stage_of(adapter__rank=4)),
    ]


def compared(*runs: Run, **query: str) -> AppTest:
    app = open_page("compare", runs=",".join(run.id for run in runs), **query)
    assert not app.exception
    return app


def chosen(app: AppTest) -> list[str]:
    ids: list[str] = app.multiselect(key="compare_runs").value
    return ids


def test_an_empty_studio_says_what_to_do(studio: Workspace) -> None:
    app = open_page("compare")
    assert not app.exception and "Nothing to compare yet" in texts(app)


def test_runs_of_the_address_are_compared_in_words(runs: list[Run]) -> None:
    app = compared(*runs)
    said = texts(app)
    assert "**mixture** gained 0.38 bits per byte in the field but forgot 0.10." in said
    assert "**documents** gained 0.57 bits per byte in the field but forgot 0.29." in said
    assert "**documents** gained most in the field, by 0.19 bits per byte before the next." in said
    assert "**mixture** forgot least, by 0.19 bits per byte before the next." in said
    assert "One seed an arm: a hint, not a result." in said


def test_the_table_holds_the_differences_and_the_settings_what_differs(runs: list[Run]) -> None:
    frames = [frame.value for frame in compared(*runs).dataframe]
    table, settings = frames[0], frames[-1]
    assert list(table["title"]) == ["mixture", "documents"]
    assert list(table["domain_gain"]) == pytest.approx([0.4 * 0.950213, 0.6 * 0.950213], abs=1e-6)
    assert settings.to_numpy().tolist() == [["Adapter", "LoRA rank", str(runs[0].config.adapter.rank), "4"]]


def test_the_table_tells_the_format_of_answers_with_its_interval(runs: list[Run]) -> None:
    share = {"share": 0.5, "interval": [0.25, 0.75]}
    side = dict.fromkeys(CHECKS, share) | {"items": 8, "loss": 1.5}
    gain = {check: {"difference": 0.0, "interval": [0.0, 0.0]} for check in CHECKS}
    evaluation = runs[0].results()["evaluation"]
    runs[0].write_results(
        "evaluation", evaluation | {"format": {"alpaca": {"base": side, "final": side, "gain": gain}}}
    )
    table, formats = (frame.value for frame in compared(*runs).dataframe[:2])
    assert list(formats["title"]) == ["mixture"] and list(formats["format_alpaca_well_formed"]) == [0.5]
    assert list(formats["format_alpaca_well_formed_items"]) == ["25% to 75%"]
    assert list(table["general_accuracy_items"]) == ["74% to 92%"] * 2


def test_choosing_runs_writes_the_address(runs: list[Run]) -> None:
    app = open_page("compare")
    assert "Choose two runs or more" in texts(app)
    app.multiselect(key="compare_runs").set_value([runs[0].id]).run()
    assert app.query_params["runs"] == [runs[0].id] or app.query_params["runs"] == runs[0].id
    assert "**mixture** gained" in texts(app) and "**documents**" not in texts(app)
    app.multiselect(key="compare_runs").set_value([]).run()
    assert "runs" not in app.query_params


def test_an_experiment_is_taken_whole_without_tries_and_unfinished_runs(studio: Workspace, runs: list[Run]) -> None:
    made_run(studio, arm="try", stage=stage_of(measures__on="validation"))
    made_run(studio, arm="half", state="running")
    made_run(studio, arm="elsewhere", experiment="other")
    app = open_page("compare")
    app.selectbox(key="compare_experiment").set_value("trial").run()
    assert sorted(chosen(app)) == sorted(run.id for run in runs)
    assert widget_of(app, "selectbox", "compare_experiment").value is None


def test_the_invitation_takes_the_newest_experiment(runs: list[Run]) -> None:
    app = open_page("compare")
    app.button(key="compare_take_0").click().run()
    assert sorted(chosen(app)) == sorted(run.id for run in runs)


def test_runs_without_measures_and_unknown_ones_are_refused_with_the_reason(studio: Workspace, runs: list[Run]) -> None:
    waiting = made_run(studio, arm="waiting", state="queued")
    app = open_page("compare", runs=f"{runs[0].id},{waiting.id},cpt-gone")
    assert not app.exception
    (warning,) = app.warning
    assert "no measures yet" in warning.value and "cpt\\-gone" in warning.value
    assert "**mixture** gained" in texts(app)


def test_equal_field_tokens_are_kept_in_the_address(runs: list[Run]) -> None:
    app = compared(*runs)
    app.toggle(key="compare_equal").set_value(True).run()
    assert app.number_input(key="compare_tokens").value == 6144  # 60 % of 10 * 1,024: the end of both
    app.number_input(key="compare_tokens").set_value(2458).run()  # 60 % of 4 * 1,024
    table = app.dataframe[0].value
    assert list(table["tokens"]) == [4096, 4096]
    # 0.4 * (1 - exp(-3 * 4 / 10)) = 0.4 * 0.698806
    assert table["domain_gain"][0] == pytest.approx(0.4 * 0.698806, abs=1e-6)
    again = compared(*runs, at="2458")
    assert again.toggle(key="compare_equal").value and list(again.dataframe[0].value["tokens"]) == [4096, 4096]


def test_a_point_that_no_run_has_is_refused_in_words(runs: list[Run]) -> None:
    app = compared(*runs, at="99999999")
    assert "no measure near" in app.warning[0].value and not app.dataframe
    assert compared(*runs, at="nonsense").toggle(key="compare_equal").value is False


@pytest.mark.parametrize("measure", ["general", "domain", "kl"])
def test_the_curves_can_show_each_measure(runs: list[Run], measure: str) -> None:
    app = compared(*runs)
    app.segmented_control(key="compare_measure").set_value(measure).run()
    assert not app.exception


def test_a_clicked_point_offers_its_run(runs: list[Run]) -> None:
    app = compared(*runs)
    app.session_state["compare_plane"] = {"selection": {"points": [{"customdata": [runs[1].id]}]}}
    app.run()
    assert not app.exception
    assert any("Open documents" in link.proto.label for link in app.get("page_link"))


def test_seeds_are_one_line_with_their_spread(studio: Workspace) -> None:
    seeds = [made_run(studio, arm="a", seed=seed, gain=0.4 + seed / 10) for seed in range(3)]
    table = compared(*seeds).dataframe[0].value
    assert list(table["seeds"]) == ["0, 1, 2"] and "domain_gain_spread" in table


def test_names_are_shown_as_text(studio: Workspace) -> None:
    evil = made_run(studio, name="**bold** <b>x</b> :red[no] $x$")
    app = compared(evil)
    assert "\\*\\*bold\\*\\*" in texts(app) and "**bold**" not in texts(app)
    assert "One run differs from none" in texts(app)


def test_a_deleted_run_leaves_the_choice(studio: Workspace, runs: list[Run]) -> None:
    app = compared(*runs)
    for run in runs[1:]:
        Runs(studio).delete(run)
    app.run()
    assert not app.exception and chosen(app) == [runs[0].id]


@pytest.mark.parametrize("file", ["run.json", "config.yaml", "metrics.jsonl", "results.json"])
@pytest.mark.parametrize("content", ["{", "[1]", '{"training": 5}\n'])
def test_a_damaged_run_is_refused_and_the_others_are_compared(runs: list[Run], file: str, content: str) -> None:
    (runs[0].folder / file).write_text(content)
    app = compared(runs[0], runs[1])
    assert not app.exception
    assert len(app.dataframe) >= 1


def test_a_number_of_thousands_of_digits_in_the_address_does_nothing(runs: list[Run]) -> None:
    compared(*runs, at="9" * 5000)


def seeded(studio: Workspace) -> list[Run]:
    """Forgetting differs by 0.2, 0.3 and 0.4 times 0.950213."""
    held = stage_of(adapter__rank=4)
    plain = [made_run(studio, arm="plain", seed=seed, forgetting=0.5) for seed in range(3)]
    return plain + [made_run(studio, arm="held", seed=s, forgetting=0.3 - 0.1 * s, stage=held) for s in range(3)]


def test_arms_are_held_against_one_with_interval_and_seeds(studio: Workspace) -> None:
    app = compared(*seeded(studio))
    said = texts(app).replace("\\", "").replace("**", "")
    assert "held forgets 0.29 bits per byte less than plain (95 % 0.05 to 0.52, 3 seeds)." in said
    assert "held and plain gain the same in the field within noise" in said
    app.selectbox(key="claims_against").set_value("held").run()
    said = texts(app).replace("\\", "").replace("**", "")
    assert "plain forgets 0.29 bits per byte more than held (95 % 0.05 to 0.52, 3 seeds)." in said


def test_a_card_holds_what_it_takes_and_goes_to_the_notebook_once(studio: Workspace) -> None:
    app = compared(*seeded(studio))
    app.button(key="claims_card_0").click().run()
    assert not app.exception
    facts = next(frame.value for frame in app.dataframe if "Fact" in frame.value)
    assert {"Model", "Seeds", "Data, builtin/atlas"} <= set(facts["Fact"])
    assert any("--claims --against plain" in code.value for code in app.code)
    app.button(key="claims_note").click().run()
    notebook = Notebook(studio, "trial")
    (note,) = notebook.read().notes
    assert note.text.startswith("### held against plain") and "95 % 0.05 to 0.52" in note.text
    app.button(key="claims_card_0").click().run()
    app.button(key="claims_note").click().run()
    assert len(notebook.read().notes) == 1
    assert "It is in the notebook already" in app.toast[0].value


def test_one_arm_alone_makes_no_claim(runs: list[Run]) -> None:
    assert "Arm against arm" not in texts(compared(runs[0]))


def test_each_arm_has_a_panel_of_its_own_and_the_chart_is_pinned(studio: Workspace, runs: list[Run]) -> None:
    app = open_page("compare", runs=",".join(run.id for run in runs))
    assert "Each arm by itself" in [one.value for one in app.subheader]
    app.button(key="compare_pin_multiples").click().run()
    assert not app.exception and app.button(key="compare_pin_multiples_done").disabled
    alone = open_page("compare", runs=runs[0].id)
    assert "Each arm by itself" not in [one.value for one in alone.subheader]
