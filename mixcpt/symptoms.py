"""What can be read off a run that went wrong: one function a failure signature, each with its evidence and one change.

The signatures are those that Mix-CPT argues from (catastrophic forgetting, knowledge that is memorised but cannot be
used, a format learned at the cost of knowledge) and three that every training knows (over-trained on a tiny corpus,
nothing learned, diverged). The limits below are ours. A rule says `found` only where its numbers carry it, `absent`
where they speak against it, and `unknown` with what to measure where they are too few.

What this gives up: causes. A rule sees what a run did and names the setting that most often stands behind it; whether
that helps is for another run to show.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace

from mixcpt import answers, evaluated, measured, remedies
from mixcpt.chains import own, start_of
from mixcpt.claims import NOISE
from mixcpt.courses import diverged, overtrained
from mixcpt.errors import NotFound
from mixcpt.evidence import (
    LEAST_STEPS,
    LEAST_TOKENS,
    TOLERANCE,
    Case,
    Sign,
    State,
    about,
    about_field,
    asked,
    field_gain,
    that_count,
    told,
)
from mixcpt.figures import signed
from mixcpt.measured import FEW
from mixcpt.stages import Dpo, Sft, Stage
from mixcpt.statistics import paired_interval, seed_interval, trend

KL_TOLERANCE = 1.0
"""Nats per token: a run farther from its base than this on general prompts answers as another model would."""
USABLE = 0.10
"""A gain on questions about the field below this share is called flat."""
LEAST_ITEMS = 20
"""Questions under which a set is not judged."""

Rule = Callable[[Case], Sign]


# ---- catastrophic forgetting -----------------------------------------------------------------------------------------

_FORGETS = Sign(
    "forgetting",
    "Catastrophic forgetting",
    "absent",
    why="Text that it never trained on got harder to predict than it was for the base, by more than these texts vary: "
    "the weights that held general ability were used for the field.",
    unless="It does not count where general text does not matter to you, or where the general text is of another "
    "language or kind than what you will ask.",
)


def forgetting(case: Case) -> Sign:
    """General bits per byte up beyond interval and tolerance, or far from the base, or general questions lost."""
    verdicts = [_general_text(case), _distance(case), _general_questions(case)]
    seen = tuple(words for _, words in verdicts if words)
    states = [state for state, _ in verdicts]
    if "found" in states:
        surer = "" if case.again(measured.GENERAL_PART) else _measure_again(case)
        return replace(_forgotten(case, seen), measure=surer)
    if states[0] == "unknown" or (states[1] == "unknown" and case.figure("prompt_kl") is not None):
        return replace(_FORGETS, state="unknown", seen=seen, measure=_measure_again(case))
    return replace(_FORGETS, seen=seen)


def _general_text(case: Case) -> tuple[State, str]:
    if taken := case.again(measured.GENERAL_PART):
        (low, high), few = taken.interval, len(taken.documents) < FEW
        found = low > 0 and taken.difference > TOLERANCE and not few
        wide = high > TOLERANCE and (low <= 0 or few)
        return "found" if found else "unknown" if wide else "absent", told(taken, "General text")
    change, limit = case.moved("general_bits_per_byte"), case.stage.measures.general_tokens
    if change is None:
        return "unknown", ""
    words = f"General text {signed(change)} bits per byte ({limit:,} tokens on the curve, no interval)"
    if limit < LEAST_TOKENS:
        return "unknown", words
    return "found" if change > TOLERANCE else "absent", words


def _distance(case: Case) -> tuple[State, str]:
    found = next((one for one in case.taken if one.measure == "kl"), None)
    if found:
        low, high = found.interval
        words = (
            f"KL to the base {found.figure:.2f} nats per token on general prompts (95 % {low:.2f} to {high:.2f}, "
            f"{len(found.documents)} prompts)"
        )
        return "found" if low > KL_TOLERANCE and len(found.documents) >= FEW else "absent", words
    value = case.figure("prompt_kl")
    if value is None:
        return "unknown", ""
    tokens = case.stage.measures.prompt_tokens
    words = f"KL to the base {value:.2f} nats per token on general prompts ({tokens:,} tokens, no interval)"
    if value <= KL_TOLERANCE:
        return "absent", words
    return "found" if tokens >= LEAST_TOKENS else "unknown", words


def _general_questions(case: Case) -> tuple[State, str]:
    line = next((line for line in case.lines if line.task == "general"), None)
    if line is None:
        return "unknown", ""
    lost = line.difference_interval[1] < -TOLERANCE and line.items >= LEAST_ITEMS  # one of several measures
    return "found" if lost else "absent", asked(line)


def _forgotten(case: Case, seen: tuple[str, ...]) -> Sign:
    start, base = start_of(case.curve), case.curve[0]["measure"] if case.curve else {}
    key = "general_bits_per_byte"
    if case.run.info.parent and start and key in start and key in base:
        before, whole = start[key] - base[key], case.moved(key) or 0.0
        seen = (*seen, f"It began with {signed(before)} bits per byte of that, from the run before it")
        if before > whole / 2:
            return replace(
                _FORGETS,
                state="found",
                seen=seen,
                why="Most of it was forgotten before this run began, so no setting of this one gives it back: look at "
                "the run that it continues.",
            )
    return replace(_FORGETS, state="found", seen=seen, change=remedies.hold(case))


def _measure_again(case: Case) -> str:
    return f"Measure more text, with an interval: mixcpt measure {case.run.id} --tokens 20000"


# ---- loss down, but the knowledge cannot be used ---------------------------------------------------------------------

_UNUSABLE = Sign(
    "unusable",
    "Learned, but not usable",
    "absent",
    why="It predicts held-out text of the field better and answers questions about it no better: what was read was "
    "memorised as running text, and nothing in the mixture showed how to use it.",
    unless="It does not count where the questions are not about this field, ask for what its documents do not say, or "
    "are answered by the base already.",
)


@about(_UNUSABLE, Stage)
def unusable(case: Case, stage: Stage) -> Sign:
    """The field's held-out text is gained, questions about the field are flat."""
    gain, words = field_gain(case)
    lines = [line for line in about_field(case) if line.base < 1 - USABLE]
    seen = (*([words] if words else []), *map(asked, lines))
    if gain == "absent":
        return replace(_UNUSABLE, seen=seen)
    if gain == "unknown" or not lines:
        return replace(_UNUSABLE, state="unknown", seen=seen, measure=_ask_field(case))
    if any(line.is_sure and line.difference > 0 for line in that_count(lines)):
        return replace(_UNUSABLE, seen=seen)
    if any(line.difference_interval[1] >= USABLE or line.items < LEAST_ITEMS for line in that_count(lines)):
        return replace(_UNUSABLE, state="unknown", seen=seen, measure=_ask_field(case))
    return replace(_UNUSABLE, state="found", seen=seen, change=remedies.use(case))


def _ask_field(case: Case) -> str:
    items = sum(line.items for line in about_field(case))
    more = f" (the present {items} items are too few)" if items else ""
    if "builtin/atlas" in case.stage.mixture.domain_sources():
        return f"Ask all of the atlas{more}: mixcpt evaluate {case.run.id} --tasks atlas; then other seeds tell more."
    return f"Ask more about the field{more}: mixcpt evaluate {case.run.id} --tasks probes --items 200"


# ---- over-fitted to a format -----------------------------------------------------------------------------------------

_FORMAT = Sign(
    "format",
    "Over-fitted to the format",
    "absent",
    why="The stage that teaches how to answer took away what the stage before had taught, or answers keep their form "
    "in the one template that it saw and lose it in others: the samples were learned by heart, not the form.",
    unless="It does not count where only this template is used and the field's documents are not what you ask for.",
)


@about(_FORMAT, Sft)
def format(case: Case, stage: Sft) -> Sign:
    """Of SFT and DPO: knowledge of the field lost since the run before, or a form that other templates pay for."""
    verdicts = [_field_lost(case), *_questions_lost(case), *_templates_lost(case)]
    seen = tuple(words for _, words in verdicts if words)
    if any(state == "found" for state, _ in verdicts):
        return replace(_FORMAT, state="found", seen=seen, change=remedies.fewer(stage))
    if all(state == "unknown" for state, _ in verdicts):
        measure = f"Ask it, and the run before it, the same: mixcpt evaluate {case.run.id} --tasks probes --format 50"
        return replace(_FORMAT, state="unknown", seen=seen, measure=measure)
    return replace(_FORMAT, seen=seen)


def _field_lost(case: Case) -> tuple[State, str]:
    start, after, key = start_of(case.curve), case.figure("domain_bits_per_byte"), "domain_bits_per_byte"
    if start is None or key not in start or after is None or len(own(case.curve)) < 2:
        return "unknown", ""
    lost, tokens = after - start[key], case.stage.measures.domain_tokens
    words = (
        f"Held-out text of the field {signed(lost)} bits per byte since the run before "
        f"({tokens:,} tokens on the curve, no interval)"
    )
    return "unknown" if tokens < LEAST_TOKENS else "found" if lost > TOLERANCE else "absent", words


def _questions_lost(case: Case) -> list[tuple[State, str]]:
    """Questions about the field that the run before answered right and this one does not, item by item."""
    try:
        parent = case.run.parent
    except NotFound:
        return []
    found: list[tuple[State, str]] = []
    for line in about_field(case) if parent else []:
        assert parent is not None
        its = evaluated.section(parent).get("asked", {}).get(line.task, {})
        if not its or evaluated.how_asked(its) != evaluated.how_asked(line.asked):
            continue
        before, after = answers.read(parent, line.task), answers.read(case.run, line.task)
        if len(before) != len(after) or len(after) < LEAST_ITEMS:
            continue
        subjects = [row.about or str(number) for number, row in enumerate(after)]
        pairs = [row.final_right for row in before], [row.final_right for row in after]
        low, high = paired_interval(*pairs, subjects)
        difference = (sum(pairs[1]) - sum(pairs[0])) / len(after)
        words = (
            f"{line.task.replace('_', ' ')} questions {signed(100 * difference, 0)} points since the run before "
            f"(95 % {signed(100 * low, 0)} to {signed(100 * high, 0)}, {len(after)} items)"
        )
        found.append(("found" if high < 0 else "absent", words))
    return found


def _templates_lost(case: Case) -> list[tuple[State, str]]:
    """Well formed more often in one template and less often in another, each beyond its interval."""
    changes = [(one, *one.differences["well_formed"]) for one in evaluated.format_lines(case.run)]
    gained = any(interval[0] > 0 for _, _, interval in changes)
    return [
        (
            "found" if gained and interval[1] < 0 else "absent",
            f"Well-formed answers in template {one.template} {signed(100 * difference, 0)} points (95 % "
            f"{signed(100 * interval[0], 0)} to {signed(100 * interval[1], 0)}, {one.items} prompts)",
        )
        for one, difference, interval in changes
    ]


# ---- nothing learned -------------------------------------------------------------------------------------------------

_NOTHING = Sign(
    "nothing",
    "Nothing learned",
    "absent",
    why="What it was trained for is no better than before, by more than could be seen: the steps were too small or too "
    "few, or it was held too tightly.",
    unless="It does not count where the base knew the field, or the form, already.",
)


def nothing(case: Case) -> Sign:
    """The field (of SFT the answers, of DPO the preference) is no better than at the beginning."""
    stage = case.stage
    state, seen = _preferred(case) if isinstance(stage, Dpo) else _answered(case) if isinstance(stage, Sft) else (
        _gained(case)
    )  # fmt: skip
    sign = replace(_NOTHING, state=state, seen=tuple(seen))
    if state == "found":
        surer = _measure_again(case) if isinstance(stage, Stage) and not case.again(measured.DOMAIN) else ""
        return replace(sign, change=remedies.more(case), measure=surer)
    if state == "unknown":
        measure = _measure_again(case) if isinstance(stage, Stage) else "Train for more steps: these are too few."
        return replace(sign, measure=measure)
    return sign


def _gained(case: Case) -> tuple[State, list[str]]:
    state, words = field_gain(case)
    seen = [words] if words else []
    opposite: dict[State, State] = {"found": "absent", "absent": "found"}
    state = opposite.get(state, "unknown")
    fell = _course(case, "loss")
    if state == "found" and fell and fell[1][1] < 0 and (case.moved("domain_bits_per_byte") or 0.0) > NOISE:
        return "absent", [*seen, "It learned what it read and lost held-out text: that is not nothing"]
    return state, seen


def _answered(case: Case) -> tuple[State, list[str]]:
    found = _course(case, "loss")
    if found is None:
        return "unknown", []
    change, (low, high) = found
    start = statistics.fmean(record["loss"] for record in case.losses[:3])
    words = (
        f"The loss of the answers changed by {signed(change)} nats per token over {len(case.losses)} steps "
        f"(95 % {signed(low)} to {signed(high)}, by its trend)"
    )
    if high < 0:
        return "absent", [words]
    return "found" if low > -0.05 * start else "unknown", [words]


def _preferred(case: Case) -> tuple[State, list[str]]:
    margins = [record["margin"] for record in case.losses if "margin" in record]
    last = margins[-max(3, len(margins) // 4) :]
    interval = seed_interval(last) if len(margins) >= LEAST_STEPS else None
    if interval is None:
        return "unknown", []
    low, high = interval
    words = (
        f"Margin of chosen over rejected answers {signed(statistics.fmean(last))} in the last {len(last)} steps "
        f"(95 % {signed(low)} to {signed(high)})"
    )
    return "absent" if low > 0 else "found" if high < 0.05 else "unknown", [words]


def _course(case: Case, key: str) -> tuple[float, tuple[float, float]] | None:
    values = [float(record[key]) for record in case.losses if key in record]
    return trend(values) if len(values) >= LEAST_STEPS else None


RULES: tuple[Rule, ...] = (diverged, forgetting, unusable, format, overtrained, nothing)
