"""Changes as people write them, dotted settings, and YAML that keeps every text as it was."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

import pytest

from mixcpt.config import MixtureConfig, SourceShare
from mixcpt.errors import BadConfig
from mixcpt.settings import load_yaml, override, parse_change, to_yaml, validate
from mixcpt.stages import Stage


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("training.learning_rate=1e-4", "training.learning_rate", 1e-4),
        ("a=1E+3", "a", 1000.0),
        ("a=2.5", "a", 2.5),
        ("a=-3", "a", -3),
        ("a=true", "a", True),
        ("a=null", "a", None),
        ("a=[1, 2]", "a", [1, 2]),
        ("a=[1e-4, x]", "a", [1e-4, "x"]),
        ("a={b: 1}", "a", {"b": 1}),
        ("a=lssd", "a", "lssd"),
        ("a=no", "a", "no"),
        ("a=on", "a", "on"),
        ("a=nan", "a", "nan"),
        ("a=infinity", "a", "infinity"),
        ("a=2024-01-02", "a", "2024-01-02"),
        ("a='1e-4'", "a", "1e-4"),
        ("a=b=c", "a", "b=c"),
        ("a =x", "a", "x"),
        ("a=", "a", None),
    ],
)
def test_a_change_reads_as_people_write_it(text, name, value):
    found = parse_change(text)
    assert found == (name, value)
    assert type(found[1]) is type(value)


@pytest.mark.parametrize("text", ["a", "=1", "", "a=[1,", "a=}"])
def test_a_change_that_cannot_be_read_is_refused(text):
    with pytest.raises(BadConfig, match="cannot be read"):
        parse_change(text)


def test_override_replaces_only_what_it_names():
    stage = validate(Stage, {"mixture": {"sources": [{"source": "a", "share": 1}, {"source": "b", "share": 2}]}}, "s")
    changed = override(stage, {"mixture.sources.1.share": 5, "objective.retention": "kl"})
    assert [source.share for source in changed.mixture.sources] == [1, 5]
    assert changed.objective.retention == "kl"
    assert changed.training == stage.training and stage.mixture.sources[1].share == 2


@pytest.mark.parametrize(
    "text", ["on", "no", "1e4", "1.0", "true", "null", "", "2024-01-02", "1e-4", "12:30", " a ", "#"]
)
def test_any_text_survives_the_round_trip(tmp_path, text):
    config = MixtureConfig(sources=[SourceShare(source="a", share=1)], joiner=text)
    (tmp_path / "m.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert validate(MixtureConfig, load_yaml(tmp_path / "m.yaml"), "m") == config
