"""The data a fresh machine has: enough of it, varied, balanced, and nothing measured that was trained on."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

import re
from collections import Counter

import pytest

from mixcpt import builtin
from mixcpt.builtin import HELDOUT_INSTRUCTIONS, instructions, questions, rows
from mixcpt.corpus import Corpus

REPLAY = rows("replay_a") + rows("replay_b")
GENERAL = rows("general_heldout")
KINDS = {name: rows(f"general_{name}") for name in ("web", "encyclopedic", "code", "dialogue")}
OF_KINDS = [row for some in KINDS.values() for row in some]
INSTRUCTIONS = rows("instructions_a") + rows("instructions_b")
PREFERENCES = rows("preferences")
QUESTIONS = rows("questions")

FUNCTION_WORDS = set(
    re.findall(
        r"\w+",
        """
        a an the of to in on at for from with by as is are was were be been do does did my your his her its
        our their i you he she it we they this that these those and or but if so not no what why how when
        where which who whose can could would should will may might must than then there here into about over
        under between me him them us have has had up out off just only some any each every all both more most
        much many own after before
        """,
    )
)


def text(row):
    """All words of a row, whatever its kind."""
    return " ".join(value for key, value in row.items() if isinstance(value, str) and key not in ("id", "kind", "flaw"))


def opening(sentence):
    return " ".join(sentence.lower().split()[:4])


def skeleton(sentence):
    """The sentence with each run of content words as one blank: "List _ for a _." """
    words = re.findall(r"[a-z']+|[0-9]+|[.,?!:;]", sentence.lower())
    blanked = " ".join(word if word in FUNCTION_WORDS or word in ".,?!:;" else "_" for word in words)
    return re.sub(r"_( _)+", "_", blanked)


def runs(some, length=12):
    """All runs of so many words in the rows, case and punctuation aside."""
    found = set()
    for row in some:
        words = re.findall(r"\w+", text(row).lower())
        found |= {" ".join(words[start : start + length]) for start in range(len(words) - length + 1)}
    return found


def size(some):
    return sum(len(row["text"].encode()) for row in some)


def test_a_skeleton_blanks_what_differs_and_nothing_else():
    """The measure itself: same frame, other filling, is found; another frame is not."""
    assert skeleton("List three uses for a brick.") == "_ for a _ ."
    assert skeleton("Name 12 ideas for a party.") == skeleton("List three uses for a brick.")
    assert skeleton("Why is a brick red?") != skeleton("List three uses for a brick.")


def test_ids_are_unique_over_everything():
    ids = Counter(row["id"] for row in REPLAY + GENERAL + OF_KINDS + INSTRUCTIONS + PREFERENCES + QUESTIONS)
    assert ids.most_common(1)[0][1] == 1


@pytest.mark.parametrize(
    "name",
    [
        *("replay_a", "replay_b", "general_heldout", "instructions_a", "instructions_b", "preferences"),
        *(f"general_{kind}" for kind in KINDS),
    ],
)
def test_no_text_is_blank_padded_or_broken(name):
    for row in rows(name):
        for key, value in row.items():
            assert value.strip() == value, (row["id"], key)
            assert value or key == "input", (row["id"], key)
            assert "\ufffd" not in value and "\r" not in value, (row["id"], key)


def test_there_are_enough_instructions_of_many_kinds():
    kinds = Counter(row["kind"] for row in INSTRUCTIONS)
    assert len(INSTRUCTIONS) >= 400
    assert len(kinds) >= 12
    assert max(kinds.values()) <= 2 * min(kinds.values())


def test_no_instruction_is_given_twice():
    asked = Counter((row["instruction"].lower(), row["input"].lower()) for row in INSTRUCTIONS)
    assert asked.most_common(1)[0][1] == 1
    assert len({row["output"] for row in INSTRUCTIONS}) == len(INSTRUCTIONS)


@pytest.mark.parametrize("frame", [opening, skeleton])
def test_no_more_than_five_instructions_share_a_sentence_frame(frame):
    shared = Counter(frame(row["instruction"]) for row in INSTRUCTIONS)
    assert shared.most_common(1)[0][1] <= 5, shared.most_common(3)


def test_fifty_instructions_are_held_out_of_every_kind():
    heldout = [row for row in instructions() if row["heldout"]]
    assert len(heldout) == HELDOUT_INSTRUCTIONS == 50
    assert {row["kind"] for row in heldout} == {row["kind"] for row in INSTRUCTIONS}


def test_preferences_are_many_differ_and_name_many_flaws():
    assert len(PREFERENCES) >= 200
    assert len({row["prompt"] for row in PREFERENCES}) == len(PREFERENCES)
    assert all(row["chosen"] != row["rejected"] for row in PREFERENCES)
    assert len({row["flaw"] for row in PREFERENCES}) >= 14


def test_the_longer_answer_is_not_the_chosen_one():
    """Length must not tell which was chosen: neither by count nor on average."""
    longer = sum(len(row["chosen"]) > len(row["rejected"]) for row in PREFERENCES) / len(PREFERENCES)
    chosen, rejected = (sum(len(row[side]) for row in PREFERENCES) for side in ("chosen", "rejected"))
    assert 0.4 <= longer <= 0.6
    assert 0.85 <= chosen / rejected <= 1.15


def test_questions_have_four_choices_and_one_answer():
    assert questions() == QUESTIONS
    assert len(QUESTIONS) >= 200
    assert len({row["question"] for row in QUESTIONS}) == len(QUESTIONS)
    for row in QUESTIONS:
        assert len(row["choices"]) == len({choice.lower() for choice in row["choices"]}) == 4
        assert row["answer"] in range(4)
        assert all(choice == choice.strip() != "" for choice in row["choices"])


def test_answers_stand_at_every_place_equally_often():
    places = Counter(row["answer"] for row in QUESTIONS)
    assert all(abs(places[place] / len(QUESTIONS) - 1 / 4) <= 0.03 for place in range(4))


@pytest.mark.parametrize("pick", [max, min], ids=["longest", "shortest"])
def test_length_does_not_give_an_answer_away(pick):
    """Choosing the longest (or shortest) answer, ties by lot, is right for about a quarter."""
    right = 0.0
    for row in QUESTIONS:
        lengths = [len(choice) for choice in row["choices"]]
        candidates = [place for place, length in enumerate(lengths) if length == pick(lengths)]
        right += (row["answer"] in candidates) / len(candidates)
    assert right / len(QUESTIONS) == pytest.approx(0.25, abs=0.1)


def test_words_of_the_question_do_not_give_an_answer_away():
    """Choosing the choice that shares most words with the question, ties by lot, is right for about a quarter."""
    right = 0.0
    for row in QUESTIONS:
        asked = set(re.findall(r"\w+", row["question"].lower()))
        overlap = [len(asked & set(re.findall(r"\w+", choice.lower()))) for choice in row["choices"]]
        candidates = [place for place, count in enumerate(overlap) if count == max(overlap)]
        right += (row["answer"] in candidates) / len(candidates)
    assert right / len(QUESTIONS) == pytest.approx(0.25, abs=0.1)


def test_there_is_enough_general_prose():
    assert size(REPLAY) >= 300_000
    assert size(GENERAL) >= 60_000
    assert len({row["kind"] for row in REPLAY}) >= 8
    assert len({row["kind"] for row in GENERAL}) >= 4


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_general_text_has_enough_documents_of_its_own_name(kind):
    """Some fifteen documents carry an interval; of about the same size in all kinds, so that none outweighs another."""
    some = KINDS[kind]
    assert len(some) >= 15 and 9_000 <= size(some) <= 18_000
    assert max(len(row["text"]) for row in some) < 3 * size(some) / len(some)
    assert {row["kind"] for row in some} == {kind} and len({row["title"] for row in some}) == len(some)
    assert builtin.GENERAL[f"builtin/general-{kind}"] == kind


def test_shipped_python_is_python():
    import ast

    files = [row for row in KINDS["code"] if row["title"].endswith(".py")]
    assert len(files) >= 4
    for row in files:
        ast.parse(row["text"])


def test_runs_are_found_where_there_are_some():
    """The measure itself: twelve words in a row are one run, whatever the case and the commas."""
    twelve = "one two three four five six seven eight nine ten eleven twelve"
    assert runs([{"id": "x", "text": "And " + twelve.upper().replace(" ", ", ")}]) >= {twelve}
    assert runs([{"id": "x", "text": twelve.rsplit(" ", 1)[0]}]) == set()


@pytest.mark.parametrize(
    ("trained", "measured"),
    [
        (REPLAY, GENERAL),
        (INSTRUCTIONS, GENERAL),
        (PREFERENCES, GENERAL),
        (REPLAY + INSTRUCTIONS + PREFERENCES, OF_KINDS),
        (REPLAY + INSTRUCTIONS + PREFERENCES, QUESTIONS),
        ([row for row in instructions() if not row["heldout"]], [row for row in instructions() if row["heldout"]]),
    ],
    ids=[
        "replay, general",
        "instructions, general",
        "preferences, general",
        "all, general by kind",
        "all, questions",
        "instructions, held out",
    ],
)
def test_nothing_measured_was_trained_on(trained, measured):
    assert runs(trained) & runs(measured) == set()


def test_prose_does_not_repeat_itself():
    """No run of twelve words in two documents: such a run would be read far more often than the rest."""
    seen = Counter(run for row in REPLAY + GENERAL + OF_KINDS for run in runs([row]))
    assert [run for run, count in seen.items() if count > 1] == []


def test_what_is_only_measured_is_all_held_out(workspace, tiny_tokenizer):
    made = builtin.open_source(workspace, "builtin/general-dialogue", tiny_tokenizer)
    assert len(made.documents("heldout")) == len(KINDS["dialogue"]) and len(made.documents("train")) == 0
    assert builtin.fingerprint(workspace, "builtin/general-dialogue") != builtin.fingerprint(
        workspace, "builtin/general-web"
    )
    assert made.documents("heldout")[0].text.startswith("At the bicycle counter\n\nCustomer: Morning.")


def test_a_builtin_corpus_is_remade_when_what_ships_changed_and_only_then(workspace, tiny_tokenizer, monkeypatch):
    def made():
        return builtin.open_source(workspace, "builtin/general", tiny_tokenizer).manifest

    monkeypatch.setattr("mixcpt.corpus.now", iter(f"moment {number}" for number in range(9)).__next__)
    first, known = made(), builtin.fingerprint(workspace, "builtin/general")
    assert made() == first, "made once"
    records = builtin.SOURCES["builtin/general"]()
    with monkeypatch.context() as patch:
        patch.setitem(builtin.SOURCES, "builtin/general", lambda: records[:-1])
        assert builtin.fingerprint(workspace, "builtin/general") != known
        assert made().documents == first.documents - 1
        assert made().created == "moment 1"
    with monkeypatch.context() as patch:
        patch.setattr(builtin, "_heldout", lambda source: {records[0].meta["id"]})
        assert made().split.heldout.documents == 1
    assert made().fingerprint == first.fingerprint
    (workspace.corpora / "builtin-general" / "origin.json").unlink()  # as older versions left it
    assert made().created == "moment 4"
    assert Corpus.open(workspace, "builtin-general").manifest.fingerprint == first.fingerprint
