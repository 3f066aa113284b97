"""Two stages, setting by setting."""

from made import stage_of

from mixcpt.config import SourceShare
from mixcpt.differences import Difference, differences


def test_a_stage_does_not_differ_from_itself() -> None:
    assert differences(stage_of(), stage_of()) == []


def test_changed_settings_are_named_as_in_the_form_and_in_its_order() -> None:
    stage = stage_of(training__learning_rate=0.5, mixture__budget_tokens=64)
    usual = stage_of(training__learning_rate=0.25)
    assert differences(stage, usual) == [
        Difference("mixture.budget_tokens", "Training tokens", 64, 12_000),
        Difference("training.learning_rate", "Learning rate", 0.5, 0.25),
    ]


def test_other_sources_are_one_difference() -> None:
    stage = stage_of(mixture__sources=[{"source": "x", "share": 1}])
    (found,) = differences(stage, stage_of())
    assert found.path == "mixture.sources" and found.value == [SourceShare(source="x", share=1).model_dump()]
    assert len(found.usual) == 4
