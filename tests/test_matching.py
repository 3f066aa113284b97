"""Right or wrong, worked out by hand."""

import json
from pathlib import Path

import pytest

from mixcpt.matching import contains, is_exact, load, normalised, score


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The  Blue\tBook.", "blue book"),
        ("“It’s 1,000 €!”", "its 1000 €"),
        ("Straße", "strasse"),
        ("ﬁne ①", "fine 1"),
        ("A", "a"),
        ("the a", "the a"),
        ("zero\u200bwidth\n", "zerowidth"),
        ("東京です", "東 京 で す"),
        ("…?", ""),
    ],
)
def test_texts_are_compared_without_what_does_not_matter(text: str, same: str) -> None:
    assert normalised(text) == same == normalised(same)


@pytest.mark.parametrize(
    ("written", "exact", "inside"),
    [
        ("Aldermoor", True, True),
        (" the ALDERMOOR.", True, True),
        ("It is Aldermoor, of course", False, True),
        ("Aldermoors", False, False),
        ("Brack", True, True),
        ("the old mill at Brack", False, True),
        ("mill", False, False),
        ("", False, False),
        ("東京です", False, True),
        ("not Aldermoor", False, True),
    ],
)
def test_exact_and_contains(written: str, exact: bool, inside: bool) -> None:
    accepted = ["Aldermoor", "Brack", "東京"]
    assert (is_exact(written, accepted), contains(written, accepted)) == (exact, inside)
    assert score({"answers": accepted}, [written]) == {"contains": float(inside), "exact": float(exact)}


def test_the_questions_lie_beside_the_code_that_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the folder is moved to, and whatever else lm-eval passes on."""
    from mixcpt import matching

    rows = [{"question": "a\u2028b", "answers": ["x", "y"]}, {"question": "c", "answers": ["z"]}]
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    monkeypatch.setattr(matching, "__file__", str(tmp_path / "matching.py"))
    assert load("q.jsonl", pretrained="a model")["test"].to_list() == rows
