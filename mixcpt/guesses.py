"""Predict, then reveal: what somebody expected of a run, kept in its folder, and how near it came.

    runs/<id>/guess.json      a `mixcpt.drafts.Guess`

Both halves of a guess are changes in percent of the base's bits per byte (held-out text, from the run's curve).
"""

from dataclasses import dataclass

from mixcpt.drafts import Guess
from mixcpt.runs import Run
from mixcpt.settings import validate
from mixcpt.workspace import read_json, write_json

FILE = "guess.json"
_LEAST_SCALE = 10.0
"""Percent. A miss is counted against what really happened, but never against less than this: near zero, a guess that is
off by one percent is a good guess."""


@dataclass(frozen=True)
class Outcome:
    """A guess beside what happened, in percent of the base; a half is None where it was not measured.

    `score` is from 0 to 100 (ours): for each measured half 100 * (1 - miss / max(10, |real|)), not below 0; their mean.
    """

    guess: Guess
    domain_gain: float | None
    forgetting: float | None
    score: int
    sentence: str


def keep(run: Run, guess: Guess) -> None:
    """Write the guess into the run's folder."""
    write_json(run.folder / FILE, guess.model_dump(mode="json"))


def read(run: Run) -> Guess | None:
    """The guess that was kept; None when nobody guessed."""
    path = run.folder / FILE
    return validate(Guess, read_json(path), f"the guess of run {run.id}") if path.is_file() else None


def outcome(run: Run) -> Outcome | None:
    """The guess and what happened; None without a guess, before the training is done, or when nothing was measured."""
    guess = read(run)
    if guess is None or "training" not in run.results():
        return None
    curve = run.curve()
    first, last = (curve[0]["measure"], curve[-1]["measure"]) if curve else ({}, {})
    worse_domain = _percent(first.get("domain_bits_per_byte"), last.get("domain_bits_per_byte"))
    gain = None if worse_domain is None else -worse_domain
    forgetting = _percent(first.get("general_bits_per_byte"), last.get("general_bits_per_byte"))
    halves = [_points(guess.domain_gain, gain), _points(guess.forgetting, forgetting)]
    known = [points for points in halves if points is not None]
    if not known:
        return None
    score = round(sum(known) / len(known))
    return Outcome(guess, gain, forgetting, score, _sentence(guess, gain, forgetting, score))


def _percent(base: float | None, final: float | None) -> float | None:
    """By how many percent of the base it rose."""
    return 100 * (final / base - 1) if base and final is not None else None


def _points(guessed: float, real: float | None) -> float | None:
    if real is None:
        return None
    return max(0.0, 100 * (1 - abs(guessed - real) / max(_LEAST_SCALE, abs(real))))


def _sentence(guess: Guess, gain: float | None, forgetting: float | None, score: int) -> str:
    parts = []
    if gain is not None:
        parts.append(f"the field became {_words(gain)} (guessed: {_words(guess.domain_gain)})")
    if forgetting is not None:
        parts.append(f"general text became {_words(-forgetting)} (guessed: {_words(-guess.forgetting)})")
    said = " and ".join(parts)
    return f"{said[0].upper()}{said[1:]}, in bits per byte: {score} of 100 points."


def _words(better: float) -> str:
    """A change in percent, positive for the better."""
    rounded = round(abs(better))
    if rounded == 0:
        return "neither better nor worse"
    return f"{rounded} % {'better' if better > 0 else 'worse'}"
