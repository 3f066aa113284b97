"""What a comparison says in words: drawn from the numbers, and never more than they carry.

Differences of at most `NOISE` bits per byte are called nothing, and of arms that lie so near no one is put first. With
several seeds the test over seeds must agree too, which is paired where two arms are held against each other
(`mixcpt.claims`). Of a run of stage two it is said what the chain reached, and what of it that stage did.

What this gives up: it knows nothing of questions or of costs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mixcpt.claims import LEVEL, NOISE, asked_differently, by_seed
from mixcpt.compare import Row, task_words, tasks
from mixcpt.figures import signed
from mixcpt.palette import STAGE_NAMES
from mixcpt.statistics import seed_difference

_SAME_BASE = 0.005
"""Bits per byte by which two measures of one base may differ, for it may be held in other precisions."""
_SAME_TOKENS = 1.1


@dataclass(frozen=True)
class Finding:
    """A sentence about one arm: its title, which is somebody's text, and the rest, which is ours."""

    title: str
    words: str


def findings(arms: Sequence[Row]) -> list[Finding]:
    """What each arm gained and forgot; arms are rows of `compare.summarise` with a title."""
    return [Finding(str(arm["title"]), words) for arm in arms if (words := _words(arm))]


def _words(arm: Row) -> str:
    gain, loss = _gain(arm), _loss(arm)
    if gain and loss:
        torn = _told(arm, "domain_gain") > 0 and _told(arm, "forgetting") > 0
        return f"{gain} {'but' if torn else 'and'} {loss}{_share_of_stage(arm)}"
    return (gain or loss) + _share_of_stage(arm)


def _share_of_stage(arm: Row) -> str:
    """What the last stage of a chain changed, where a chain came before it."""
    if not arm.get("parent_stage"):
        return ""
    shares = [
        f"{words} {signed(arm[key] - arm[f'{key}_start'], 2)}"
        for key, words in (("domain_gain", "gain"), ("forgetting", "forgetting"))
        if key in arm and f"{key}_start" in arm
    ]
    stage, before = (STAGE_NAMES.get(name, name) for name in (arm["stage"], arm["parent_stage"]))
    which = "this stage by itself" if stage == before else f"{stage} itself, since {before}"
    return f" ({which}: {', '.join(shares)})" if shares else ""


def _gain(arm: Row) -> str:
    if "domain_gain" not in arm:
        return ""
    sign = _told(arm, "domain_gain")
    if sign == 0:
        return f"gained nothing in the field that can be told ({_figure(arm, 'domain_gain')} bits per byte)"
    return f"{'gained' if sign > 0 else 'lost'} {_size(arm, 'domain_gain')} bits per byte in the field"


def _loss(arm: Row) -> str:
    if "forgetting" not in arm:
        return ""
    sign = _told(arm, "forgetting")
    if sign == 0:
        return f"forgot nothing that can be told ({_figure(arm, 'forgetting')})"
    return (
        f"forgot {_size(arm, 'forgetting')}" if sign > 0 else f"got {_size(arm, 'forgetting')} better at general text"
    )


def _told(arm: Row, key: str) -> int:
    """The sign of a figure, 0 when it cannot be told from nothing."""
    low, high = arm.get(f"{key}_ci", (arm[key], arm[key]))
    if abs(arm[key]) <= NOISE or low <= 0 <= high:
        return 0
    return 1 if arm[key] > 0 else -1


def _figure(arm: Row, key: str) -> str:
    return signed(arm[key], 2) + _spread(arm, key)


def _size(arm: Row, key: str) -> str:
    return f"{abs(arm[key]):.2f}{_spread(arm, key)}"


def _spread(arm: Row, key: str) -> str:
    """Half the width of the interval over seeds, where there is one."""
    interval = arm.get(f"{key}_ci")
    return f" ± {(interval[1] - interval[0]) / 2:.2f}" if interval else ""


def leaders(arms: Sequence[Row]) -> list[Finding]:
    """Who gained most and who forgot least, where one arm leads by more than can be noise. Nobody leads among runs
    that were measured from different bases or read unequal amounts of the field."""
    if len(arms) < 2 or not _same_base(arms) or not _same_tokens(arms):
        return []
    return [
        *_leader(arms, "domain_gain", 1, "gained most in the field"),
        *_leader(arms, "forgetting", -1, "forgot least"),
    ]


def _leader(arms: Sequence[Row], key: str, sign: int, words: str) -> Iterator[Finding]:
    ranked = sorted((arm for arm in arms if key in arm), key=lambda arm: -sign * arm[key])
    if len(ranked) < 2:
        return
    first = ranked[0]
    if all(_apart(first, other, key) for other in ranked[1:]):
        lead = abs(first[key] - ranked[1][key])
        yield Finding(str(first["title"]), f"{words}, by {lead:.2f} bits per byte before the next")


def _apart(one: Row, other: Row, key: str) -> bool:
    if abs(one[key] - other[key]) <= NOISE:
        return False
    if found := seed_difference(by_seed(one, key), by_seed(other, key)):
        return found.p < LEVEL
    (low, high), (other_low, other_high) = (arm.get(f"{key}_ci", (arm[key], arm[key])) for arm in (one, other))
    return bool(high < other_low or other_high < low)


def cautions(arms: Sequence[Row]) -> list[str]:
    """What these figures do not show, each in a sentence or two."""
    found = []
    single = [arm for arm in arms if len(arm["seeds"]) == 1]
    if len(single) == len(arms):
        found.append("One seed an arm: a hint, not a result. Repeat the runs with other seeds before you believe it.")
    elif single:
        found.append(f"{len(single)} of {len(arms)} arms have one seed only: for them this is a hint, not a result.")
    if len(arms) > 1 and not _same_base(arms):
        found.append(
            "The bases differ: these runs had other models or were measured on other texts, so each is compared with "
            "its own base and no one is put first."
        )
    if len(arms) > 1 and not _same_tokens(arms):
        least, most = min(arm["domain_tokens"] for arm in arms), max(arm["domain_tokens"] for arm in arms)
        found.append(
            f"They read from {least:,} to {most:,} tokens of the field, so no one is put first: compare them at equal "
            "field tokens."
        )
    if different := asked_differently(arms):
        found.append(
            f"They were not all asked {' and '.join(different)} alike (the same items in the same precision), so these "
            "are not compared: ask the runs again (page Runs, tab Questions, or `mixcpt evaluate`)."
        )
    found += _seen(arms)
    found.append(f"Differences of up to {NOISE} bits per byte are called nothing.")
    return found


def _seen(arms: Sequence[Row]) -> list[str]:
    """That questions stand in what the runs read, or were left out for that."""
    told = []
    for task in tasks(arms):
        if most := max((arm.get(f"{task}_contaminated", 0) for arm in arms), default=0):
            told.append(
                f"Up to {most} of the {task_words(task)} questions stand in what a run read: compare without them (the "
                "switch on the page Compare, or `mixcpt compare --unseen`)."
            )
    return told + left_out(arms)


def left_out(arms: Sequence[Row]) -> list[str]:
    """Which questions do not count because a run has read them (`mixcpt.unseen`), a sentence a set."""
    told = []
    for task in dict.fromkeys(task for arm in arms for task in arm.get("left_out", {})):
        counts = {len(arm["left_out"][task]) for arm in arms if task in arm.get("left_out", {})}
        most = f"{'up to ' if len(counts) > 1 else ''}{max(counts)}"
        words = "is left out, for it stands" if most == "1" else "are left out, for they stand"
        scoreless = [arm for arm in arms if task in arm.get("left_out", {}) and f"{task}_accuracy" not in arm]
        name = task_words(task)
        told.append(f"{most.capitalize()} of the {name} questions {words} in what a run read.")
        if scoreless:
            told.append(
                f"{len(scoreless)} of {len(arms)} arms have no {name} score then: the answers were not kept one by "
                "one, or all questions were read."
            )
    return told


def _same_base(arms: Sequence[Row]) -> bool:
    return all(
        max(values) - min(values) <= _SAME_BASE
        for key in ("domain_bits_per_byte_base", "general_bits_per_byte_base")
        if (values := [arm[key] for arm in arms if key in arm])
    )


def _same_tokens(arms: Sequence[Row]) -> bool:
    tokens = [arm["domain_tokens"] for arm in arms]
    return bool(max(tokens) <= _SAME_TOKENS * min(tokens))
