"""Tests for the fictional domain: each one guards a property that a fair measurement rests on."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import FrozenInstanceError
from itertools import combinations, pairwise
from typing import Any

import pytest

from mixcpt import atlas
from mixcpt.atlas import (
    FORMS,
    ONE_TO_ONE,
    RECALL_FRAMES,
    RELATIONS,
    TWO_STEP_FRAMES,
    Question,
    World,
    describe,
    documents,
    make_world,
    questions,
    sentences,
    shared_runs,
)

SIZES = range(atlas.MIN_TOWNS, atlas.MAX_TOWNS + 1)
KINDS = ("recall", "two-step")
PINNED = ("Famfuvia", "Bravrune", "raven")


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def corpus(world: World) -> list[dict[str, Any]]:
    return documents(world)


@pytest.fixture(scope="module")
def items(world: World) -> list[Question]:
    return questions(world)


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text)


def blank(text: str, world: World) -> str:
    """The text with every name and object replaced by the slot that the run check knows."""
    names = {world.country, *world.towns, *(fact.object for fact in world.facts)}
    return re.sub(r"\b(" + "|".join(sorted(names)) + r")\b", "{x}", text, flags=re.IGNORECASE)


def spread(counts: Counter[Any]) -> int:
    return max(counts.values()) - min(counts.values())


# --- the world ----------------------------------------------------------------------------------


def test_equal_seeds_agree_and_others_differ(world: World) -> None:
    assert make_world(7) == world
    assert documents(make_world(7), 7) == documents(world, 7)
    assert questions(make_world(7), 7) == questions(world, 7)
    assert make_world(8) != world
    assert set(make_world(8).towns).isdisjoint(world.towns)
    assert documents(world, 8) != documents(world, 7)
    assert [q.choices for q in questions(world, 8)] != [q.choices for q in questions(world, 7)]


def test_seed_7_stays_what_it_was(world: World) -> None:
    """Published scores refer to this world, so a change in drawing order must be noticed."""
    assert (world.country, world.towns[0], world.facts[3].object) == PINNED


def test_default_world_has_four_facts_for_each_of_twelve_towns(world: World) -> None:
    assert len(world.towns) == 12 and len(world.facts) == 48
    assert Counter(fact.relation for fact in world.facts) == dict.fromkeys(RELATIONS, 12)
    for town, name in enumerate(world.towns):
        for relation in RELATIONS:
            fact = world.facts[world.fact_index(town, relation)]
            assert (fact.subject, fact.relation) == (name, relation)
            assert world.objects(relation)[town] == fact.object


@pytest.mark.parametrize("towns", SIZES)
def test_one_to_one_relations_share_no_object(towns: int) -> None:
    for seed in range(5):
        drawn = make_world(seed, towns)
        for relation in ONE_TO_ONE:
            assert len(set(drawn.objects(relation))) == towns
        months = Counter(drawn.objects("fair"))
        assert len(months) == min(towns, 12)
        assert spread(months) <= 1


def test_names_collide_with_no_other_name() -> None:
    fixed = (*atlas.PRODUCTS, *atlas.ANIMALS, *atlas.MONTHS)
    for left, right in combinations(fixed, 2):
        assert left.lower() not in right.lower() and right.lower() not in left.lower()
    for seed in range(12):
        drawn = make_world(seed, atlas.MAX_TOWNS)
        invented = (drawn.country, *drawn.towns, *drawn.objects("river"))
        assert len({name[:2] for name in invented}) == len(invented)
        for left, right in combinations((*invented, *fixed), 2):
            assert left.lower() not in right.lower() and right.lower() not in left.lower()


def test_names_are_no_words_of_the_text_around_them() -> None:
    prose = " ".join(form for group in FORMS.values() for form in group).lower()
    for seed in range(12):
        drawn = make_world(seed, atlas.MAX_TOWNS)
        for name in (drawn.country, *drawn.towns, *drawn.objects("river")):
            assert name.lower() not in prose


def test_pools_fit_every_frame() -> None:
    """ "a" precedes animals, and products stand where only a plural fits."""
    assert not [name for name in atlas.ANIMALS if name[0] in "aeiou"]
    assert all(name.endswith("s") for name in atlas.PRODUCTS)
    assert min(len(atlas.PRODUCTS), len(atlas.ANIMALS)) >= atlas.MAX_TOWNS


def test_records_are_frozen(world: World, items: list[Question]) -> None:
    for record, field in ((world, "country"), (world.facts[0], "object"), (items[0], "answer")):
        with pytest.raises(FrozenInstanceError):
            setattr(record, field, "changed")
        assert not hasattr(record, "__dict__")


@pytest.mark.parametrize("towns", [3, 25, 0, -1, True, 12.0])
def test_town_bounds(towns: int) -> None:
    with pytest.raises(ValueError, match=rf"towns={re.escape(repr(towns))} .*choose a whole number from 4 to 24"):
        make_world(towns=towns)


@pytest.mark.parametrize("count", [0, -3, 1001, 2.5])
def test_sentence_bounds(world: World, count: int) -> None:
    pattern = rf"sentences_per_fact={re.escape(repr(count))} .*choose a whole number from 1 to 1000"
    for build in (documents, sentences):
        with pytest.raises(ValueError, match=pattern):
            build(world, sentences_per_fact=count)


# --- the forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", RELATIONS)
def test_forms_are_many_and_differ(relation: str) -> None:
    forms = FORMS[relation]
    assert len(forms) >= 24
    for form in forms:
        assert form.count("{town}") == 1
        assert form.count("{object}") + form.count("{Object}") == 1
        assert not {"{other}", "{rival}"} <= set(re.findall(r"\{\w+\}", form))
    for left, right in combinations(forms, 2):
        a, b = (set(words(form.lower())) for form in (left, right))
        assert len(a & b) / len(a | b) <= 0.75, (left, right)


# --- the documents ------------------------------------------------------------------------------


def test_every_fact_stands_in_twenty_forms(world: World, corpus: list[dict[str, Any]]) -> None:
    told = sentences(world)
    assert len(told) == 48 * 20
    for index, fact in enumerate(world.facts):
        mine = [line for line in told if line.fact == index]
        assert len({line.form for line in mine}) >= 20
        home = [doc["text"] for doc in corpus if index in doc["meta"]["facts"]]
        for line in mine:
            assert fact.subject in line.text
            assert fact.object.lower() in line.text.lower()
            assert sum(text.count(line.text) for text in home) == 1
            assert sum(doc["text"].count(line.text) for doc in corpus) == 1


def test_sentences_are_filled_from_the_form_they_name(world: World) -> None:
    for line in sentences(world):
        fact = world.facts[line.fact]
        pattern = re.escape(FORMS[fact.relation][line.form])
        slots = {"town": fact.subject, "object": fact.object, "Object": fact.object.capitalize()}
        for slot, value in slots.items():
            pattern = pattern.replace(re.escape("{" + slot + "}"), value)
        pattern = re.sub(r"\\\{(other|rival)\\\}", r"(?P<\1>\\w+)", pattern)
        match = re.fullmatch(pattern, line.text)
        assert match is not None, line
        for slot, value in match.groupdict().items():
            pool = world.objects(fact.relation) if slot == "other" else world.towns
            assert value in pool and value not in (fact.object, fact.subject)


@pytest.mark.parametrize("count", [1, 19, 27, 28, 29, 60])
def test_no_form_returns_before_all_were_used(world: World, count: int) -> None:
    used: dict[int, Counter[int]] = {index: Counter() for index in range(len(world.facts))}
    for line in sentences(world, sentences_per_fact=count):
        used[line.fact][line.form] += 1
    for index, forms in used.items():
        total = len(FORMS[world.facts[index].relation])
        laps, rest = divmod(count, total)
        assert forms.total() == count
        assert max(forms.values()) == laps + (rest > 0)
        assert len(forms) == min(count, total)


def test_every_fact_has_the_same_share_of_denials_and_comparisons(world: World) -> None:
    shares: dict[int, Counter[str]] = {index: Counter() for index in range(len(world.facts))}
    for line in sentences(world):
        form = FORMS[world.facts[line.fact].relation][line.form]
        shares[line.fact].update(re.findall(r"\{(other|rival)\}", form))
    assert all(share == {"other": 1, "rival": 1} for share in shares.values())


@pytest.mark.parametrize("towns", [4, 12, 24])
@pytest.mark.parametrize("count", [5, 20])
def test_object_frequencies_are_level(towns: int, count: int) -> None:
    drawn = make_world(3, towns)
    text = Counter(word.lower() for doc in documents(drawn, 3, count) for word in words(doc["text"]))
    for relation in RELATIONS:
        seen = {text[name.lower()] for name in drawn.objects(relation)}
        assert len(seen) == 1
        assert seen.pop() >= count


def test_a_denied_or_compared_town_never_has_the_same_month() -> None:
    for seed in range(4):
        drawn = make_world(seed, 24)
        month = dict(zip(drawn.towns, drawn.objects("fair"), strict=True))
        for line in sentences(drawn, seed):
            fact = drawn.facts[line.fact]
            if fact.relation == "fair" and "{rival}" in FORMS["fair"][line.form]:
                rival = next(town for town in drawn.towns if town in line.text and town != fact.subject)
                assert month[rival] != fact.object


def test_documents_have_their_shape(world: World, corpus: list[dict[str, Any]]) -> None:
    assert len({doc["id"] for doc in corpus}) == len(corpus)
    assert len({doc["title"].split(":")[0] for doc in corpus}) == 8
    sizes: Counter[int] = Counter()
    for doc in corpus:
        assert set(doc) == {"id", "title", "text", "meta"} and list(doc["meta"]) == ["facts"]
        assert "{" not in doc["text"] + doc["title"]
        facts = doc["meta"]["facts"]
        assert facts == sorted(set(facts)) and facts
        about = {world.facts[index].subject for index in facts}
        assert all(town in doc["title"] for town in about)
        sizes[len(about)] += 1
    assert set(sizes) == {1, 2, 3}
    assert json.loads(json.dumps(corpus)) == corpus


@pytest.mark.parametrize("count", [1, 2, 20, 45])
@pytest.mark.parametrize("towns", [4, 12, 24])
def test_document_length(towns: int, count: int) -> None:
    for seed in range(3):
        lengths = [len(doc["text"].split()) for doc in documents(make_world(seed, towns), seed, count)]
        assert min(lengths) >= 60
        assert max(lengths) <= 140


def test_a_pool_of_long_sentences_makes_more_documents() -> None:
    pool = [atlas.Sentence(index, 0, " ".join(["word"] * 20)) for index in range(16)]
    pieces = atlas._split(random.Random(0), pool)
    assert sorted(line.fact for piece in pieces for line in piece) == list(range(16))
    assert max(len(piece) for piece in pieces) * 20 <= atlas.MAX_WORDS - atlas.CONNECTING_WORDS


def test_default_corpus_size(corpus: list[dict[str, Any]]) -> None:
    tokens = 1.35 * sum(len(doc["text"].split()) for doc in corpus)
    assert 12_000 <= tokens <= 24_000


def test_meta_lists_all_facts_stated_and_no_others(world: World, corpus: list[dict[str, Any]]) -> None:
    told = sentences(world)
    for doc in corpus:
        rest, stated = doc["text"], set()
        for line in told:
            if line.text in rest:
                stated.add(line.fact)
        assert sorted(stated) == doc["meta"]["facts"]


def test_connecting_text_names_no_object(world: World, corpus: list[dict[str, Any]]) -> None:
    told = sorted((line.text for line in sentences(world)), key=len, reverse=True)
    pool = {name.lower() for name in (*atlas.PRODUCTS, *atlas.ANIMALS, *atlas.MONTHS, *world.objects("river"))}
    for doc in corpus:
        rest = doc["text"]
        for text in told:
            rest = rest.replace(text, "")
        assert not pool & {word.lower() for word in words(rest)}


def test_forms_name_no_object_of_their_own() -> None:
    pool = {name.lower() for name in (*atlas.PRODUCTS, *atlas.ANIMALS, *atlas.MONTHS)}
    texts = [form for group in (*FORMS.values(), *RECALL_FRAMES.values()) for form in group]
    for text in (*texts, *TWO_STEP_FRAMES.values(), *atlas._FILLERS):
        assert not pool & {word.lower() for word in words(text)}, text


# --- the questions ------------------------------------------------------------------------------


def test_question_frames_share_no_run_with_forms() -> None:
    assert shared_runs() == []


def test_run_check_can_fail() -> None:
    form = FORMS["fair"][0]
    assert shared_runs(frames=["I hear " + form.replace("{object}.", "the month of")]) == [
        "_ holds its fair in",
    ]
    assert shared_runs(frames=["Its fair in"], texts=["holds its fair in {object}"]) == ["its fair in"]
    assert shared_runs(length=3) != []


def test_question_texts_share_no_run_with_documents(
    world: World, corpus: list[dict[str, Any]], items: list[Question]
) -> None:
    asked = [blank(item.question, world) for item in items]
    told = [blank(doc["text"], world) for doc in corpus]
    assert shared_runs(asked, told) == []
    assert shared_runs([told[0]], told) != []


def test_recall_asks_every_fact_in_six_ways(world: World, items: list[Question]) -> None:
    asked = Counter((item.subject, item.relation) for item in items if item.kind == "recall")
    assert set(asked) == {(fact.subject, fact.relation) for fact in world.facts}
    assert set(asked.values()) == {6}
    assert all(item.subject in item.question for item in items if item.kind == "recall")


def test_two_step_hides_the_town_and_names_one_fact_of_it(world: World, items: list[Question]) -> None:
    two_step = [item for item in items if item.kind == "two-step"]
    assert len(two_step) >= 48
    for item in two_step:
        assert not [town for town in world.towns if town in item.question]
        clues = [fact for fact in world.facts if fact.object in words(item.question)]
        assert len(clues) == 1
        assert clues[0].subject == item.subject and clues[0].relation != item.relation
        assert clues[0].relation in ONE_TO_ONE


@pytest.mark.parametrize("towns", SIZES)
def test_choices_hold_one_right_answer(towns: int) -> None:
    drawn = make_world(towns, towns)
    truth = {(fact.subject, fact.relation): fact.object for fact in drawn.facts}
    asked = questions(drawn, towns)
    assert len({item.id for item in asked}) == len(asked)
    assert len({item.question for item in asked}) == len(asked)
    for item in asked:
        right = truth[item.subject, item.relation]
        assert item.choices[item.answer] == right
        assert len(item.choices) == len(set(item.choices)) == 4
        assert set(item.choices) <= set(drawn.objects(item.relation))
        assert item.choices.count(right) == 1


@pytest.mark.parametrize("towns", SIZES)
def test_answer_positions_are_level(towns: int) -> None:
    asked = questions(make_world(1, towns), 1)
    groups = [asked]
    groups += [[q for q in asked if q.kind == kind] for kind in KINDS]
    groups += [[q for q in asked if q.kind == kind and q.relation == rel] for kind in KINDS for rel in RELATIONS]
    for group in groups:
        places = Counter(item.answer for item in group)
        assert set(places) == {0, 1, 2, 3}
        assert spread(places) <= 1


def test_answer_positions_follow_no_simple_order(items: list[Question]) -> None:
    steps = Counter((b.answer - a.answer) % 4 for a, b in pairwise(items))
    assert max(steps.values()) < 0.5 * len(items)


@pytest.mark.parametrize("towns", SIZES)
def test_distractors_are_level_with_answers(towns: int) -> None:
    """Each object is wrong three times for each time it is right, so counting strings stays at chance."""
    drawn = make_world(2, towns)
    for kind in KINDS:
        for relation in RELATIONS:
            group = [item for item in questions(drawn, 2) if item.kind == kind and item.relation == relation]
            right = Counter(item.choices[item.answer] for item in group)
            shown = Counter(choice for item in group for choice in item.choices)
            assert set(shown) == set(drawn.objects(relation))
            assert all(shown[name] == 4 * right[name] for name in shown)


def test_choices_continue_the_question(items: list[Question]) -> None:
    for item in items:
        assert item.question == item.question.strip() and item.question[-1] not in ".?!:"
        assert all(choice.split() == [choice] for choice in item.choices)
        assert (item.question.split()[-1].lower() == "a") == (item.relation == "arms")


def test_as_dict_is_plain_json(items: list[Question]) -> None:
    row = items[0].as_dict()
    assert list(row) == ["id", "question", "choices", "answer", "kind", "meta"]
    assert json.loads(json.dumps(row)) == row
    assert row["choices"][row["answer"]] == items[0].choices[items[0].answer]
    assert row["meta"] == {"relation": items[0].relation, "subject": items[0].subject}


# --- the table ----------------------------------------------------------------------------------


def test_describe_shows_every_fact_in_its_cell(world: World) -> None:
    lines = [line for line in describe(world).splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0] == ["Town", "River", "Product", "Fair", "Arms"]
    assert len(rows) == 2 + len(world.towns)
    cells = {(row[0], name.lower()): cell for row in rows[2:] for name, cell in zip(rows[0], row, strict=True)}
    assert all(cells[fact.subject, fact.relation] == fact.object for fact in world.facts)
    assert world.country in describe(world)
