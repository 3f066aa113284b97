"""Terms, gaps and what may stand in their place, against small cases worked out by hand."""

from collections import Counter

import pytest

from mixcpt.cloze import Surroundings, Vocabulary, gaps, general_counts, is_rival, kind
from mixcpt.sentences import Sentence


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("binding", "logging"), ("treated", "divided"), ("resection", "procedure"), ("procedures", "operations"),
        ("Tonkulo", "Worveth"), ("HIV", "mRNA"), ("1423", "1999"), ("surgical", "chronic"), ("enum", "vector"),
    ],
)  # fmt: skip
def test_words_of_one_kind(one: str, other: str) -> None:
    assert kind(one) == kind(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("binding", "treated"), ("vector", "vectors"), ("tonkulo", "Tonkulo"), ("Rust", "HIV"), ("HIV", "SNPs"),
        ("1423", "142"), ("chronic", "kidney"), ("word", "half-word"),
    ],
)  # fmt: skip
def test_words_of_other_kinds(one: str, other: str) -> None:
    assert kind(one) != kind(other)


def vocabulary(**counts: int) -> Vocabulary:
    return Vocabulary().read([" ".join(f"{word} " * count for word, count in counts.items())])


def test_a_characteristic_word_is_five_times_as_frequent_as_in_general_text() -> None:
    general = sum(general_counts().values())
    assert general_counts()["glorbix"] == 0 and general > 50_000
    # Half an occurrence in general text: the corpus of `total` words needs 5 · 0.5 · total / general of them.
    needed = 2.5 * 4 * general / general
    for count, wanted in ((int(needed), True), (int(needed) - 1, False)):
        one = vocabulary(glorbix=count)
        one.total = 4 * general
        assert one.is_characteristic("glorbix") is wanted
    assert not vocabulary(the=3, glorbix=40).is_characteristic("the"), "frequent here, but everywhere else too"


def test_terms_are_frequent_enough_to_be_learned_and_rare_enough_to_tell_something() -> None:
    terms = vocabulary(
        glorbix=3, twice=2, snorvel=11, Zwemf=40, HIV=3, abc=5, the=9, glorbily=5, Plover=4, plover=6
    ).terms()
    assert terms == {"glorbix", "Zwemf", "HIV", "plover"}
    # snorvel stands more than 10 times in a corpus of less than 10,000 words; Plover only begins sentences


def test_a_gap_has_words_before_it_and_its_term_nowhere_else() -> None:
    terms = {"glorbix", "snorvel", "Zwemf"}
    sentence = Sentence("The glorbix in the old town of Zwemf has one snorvel, and that is all.", "It rained.")
    zwemf, snorvel = gaps(3, sentence, terms)
    assert (zwemf.term, zwemf.question, zwemf.rest) == (
        "Zwemf", "It rained. The glorbix in the old town of", " has one snorvel, and that is",
    )  # fmt: skip
    assert (zwemf.left, zwemf.right, zwemf.document) == ("of", "has", 3)
    assert snorvel.rest == ", and that is all." and snorvel.right == "and"
    assert snorvel.asked == "It rained. The glorbix in the old town of Zwemf has one snorvel"


@pytest.mark.parametrize(
    "text",
    [
        "Here the sixth word is a glorbix, too early to be asked.",
        "Here in this town the glorbix stands twice, since one glorbix is not enough.",
        "Here in this town they tell of glorbixes, but what is a glorbix then?",
        "In this long sentence of ours a word (glorbix) stands right behind a bracket.",
        "In this long sentence of ours a glorbix-like thing is no glorbix/snorvel.",
    ],
)
def test_a_gap_that_gives_itself_away_is_none(text: str) -> None:
    assert list(gaps(0, Sentence(text, ""), {"glorbix"})) == []


def test_a_term_that_the_context_names_is_not_asked_for() -> None:
    text = "Nobody in this old town knows what a glorbix is."
    assert [gap.term for gap in gaps(0, Sentence(text, "We talk."), {"glorbix"})] == ["glorbix"]
    assert list(gaps(0, Sentence(text, "Take the glorbix."), {"glorbix"})) == []


def test_rivals_are_alike_in_length_and_frequency_and_no_form_of_the_term() -> None:
    one = Vocabulary(Counter(glorbix=30, snorvel=90, plover=91, drifter=10, abcd=30, glorbic=30))
    assert [other for other in one.counts if is_rival("glorbix", other, one)] == ["snorvel", "drifter"]


def surroundings() -> Surroundings:
    found = Surroundings()
    for text in (
        "The big glorbix of Zwemf sleeps all day in the sun.",
        "The big snorvel of Zwemf wakes all day in the sun.",
        "Every 1423 of Zwemf was found in a well near here.",
    ):
        found.add(Sentence(text, ""), {"glorbix", "snorvel", "1423"}, {"zwemf", "glorbix", "snorvel"})
    return found


def test_terms_are_alike_by_their_neighbours() -> None:
    around = surroundings()
    assert around.likeness("glorbix", "snorvel") == pytest.approx(2)  # left "big", right "of": both sets are equal
    assert around.likeness("glorbix", "1423") == pytest.approx(1)  # only "of" is shared
    (gap,) = gaps(0, Sentence("In this land of ours there is one big glorbix left.", ""), {"glorbix"})
    assert [around.fit(term, gap) for term in ("snorvel", "1423", "other")] == [1, 0, 0]


def test_a_question_is_knowable_where_training_text_joins_term_and_question() -> None:
    around = surroundings()

    def knowable(text: str, term: str, others: int = 0) -> bool:
        (gap,) = gaps(0, Sentence(text, ""), {term})
        return around.is_knowable(gap, others)

    assert knowable("In the fine old town of Zwemf lives a glorbix today.", "glorbix")
    assert not knowable("In the fine old town of Zwemf lives a glorbix today.", "glorbix", others=1), (
        "only one such sentence"
    )
    assert not knowable("In a fine old town of this land lives a glorbix today.", "glorbix")
    assert not knowable("In the fine old town of Zwemf there came the 1423 today.", "1423"), (
        "once is chance for a number"
    )
