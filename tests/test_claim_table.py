"""Claims at a glance, against figures worked out by hand."""

from test_claims import arm

from mixcpt.claim_table import glance
from mixcpt.claims import claims, pairs_against


def test_a_line_a_pair_and_a_column_a_measure() -> None:
    # As in test_claims: forgetting -0.3, 4.30265 * 0.1 / sqrt(3) = 0.248 each way; the gain of 0.2 +- 0.430 is noise.
    # With two pairs Holm doubles p: 0.0351 of the first becomes 0.070, which is noise too, that of the second stays.
    plain = arm("plain", [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    better = arm("LSSD", [0.2, 0.3, 0.7], [0.3, 0.3, 0.3])
    table = glance(claims(pairs_against([plain, better])))
    assert table.columns == ["Arms", "Gain (bits/byte)", "Forgetting (bits/byte)"]
    assert table.rows == [["LSSD − plain", "same: +0.20 (−0.23 to 0.63)", "better: −0.30 (−0.55 to −0.05)"]]


def test_worse_a_hint_and_what_only_one_pair_has() -> None:
    plain = arm("plain", [0.3], [0.1], general_accuracy=0.8)
    one = arm("one", [0.1], [0.1], general_accuracy=0.7)
    two = arm("two", [0.3], [0.3])
    table = glance(claims(pairs_against([plain, one, two])))
    assert table.columns[-1] == "general (points)"
    assert table.rows == [
        ["one − plain", "hint: −0.20", "same: 0.00", "hint: −10"],
        ["two − plain", "same: 0.00", "hint: +0.20", "–"],
    ]
