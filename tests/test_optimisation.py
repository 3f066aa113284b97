"""Numbers that follow from how it is trained."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

import pytest

from mixcpt.optimisation import ObjectiveConfig, TrainingConfig


def test_accumulation_is_what_is_left_of_a_step():
    assert TrainingConfig(rows_per_step=12, rows_at_once=3).accumulation == 4
    assert TrainingConfig().accumulation == 1


@pytest.mark.parametrize(
    ("settings", "needed"),
    [({}, True), ({"retention": "kl"}, True), ({"retention": "none"}, False), ({"retention_weight": 0}, False)],
)
def test_a_teacher_is_needed_only_for_retention(settings, needed):
    assert ObjectiveConfig(**settings).needs_teacher is needed
