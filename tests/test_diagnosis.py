"""The rules of a diagnosis, one by one, on runs that were made for each; what they suggest; and the recorded runs."""

from collections.abc import Sequence
from typing import Any

import pytest
from made import made_child, made_job, made_run, stage_of

from mixcpt import answers, recorded
from mixcpt.answers import Answered
from mixcpt.diagnosis import Diagnosis, command, diagnose, draft_with, in_words, of_arms
from mixcpt.drafts import AlignDraft, Draft
from mixcpt.errors import BadInput, NotFound
from mixcpt.evidence import Sign
from mixcpt.measured import Taken, folder_of
from mixcpt.recorded import EXPERIMENT
from mixcpt.runs import Run, Runs
from mixcpt.settings import parse_change
from mixcpt.stages import Stage
from mixcpt.statistics import trend
from mixcpt.workspace import Workspace, write_json


def sign(workspace: Workspace, run: Run, rule: str) -> Sign:
    return next(sign for sign in diagnose(workspace, run).signs if sign.rule == rule)


def measured_again(
    run: Run, text: str, differences: Sequence[float], measure: str = "bits", base: float = 10.0, size: float = 10.0
) -> None:
    """A measure with a document for each difference, of ten bytes (or tokens) each."""
    count = len(differences)
    taken = Taken(
        run=run.id,
        text=text,
        part="",
        measure=measure,
        strength=1.0,
        tokens=100 * count,
        documents=tuple(map(str, range(count))),
        sizes=(size,) * count,
        base_values=(base,) * count,
        values=tuple(base + size * one for one in differences),
        how={"precision": "fp32", "device": "cpu"},
        finished="2026-01-01T00:00:00Z",
    )
    folder_of(run).mkdir(exist_ok=True)
    write_json(folder_of(run) / f"{text.replace('/', '-')}-{measure}.json", taken.kept())


def evaluate(run: Run, **sets: tuple[list[float], list[float], dict[str, Any]]) -> None:
    """Scores and answers of sets: what base and run have right, and how they were asked."""
    from mixcpt.statistics import paired_interval, share_interval

    section: dict[str, Any] = {"base": {}, "final": {}, "gain": {}, "asked": {}}
    for task, (base, final, how) in sets.items():
        for side, right in (("base", base), ("final", final)):
            share = {"accuracy": sum(right) / len(right), "interval": share_interval(sum(right), len(right))}
            section[side][task] = {**share, "items": len(right), "chance": 0.25, "majority": 0.3, "measure": "acc"}
        difference = (sum(final) - sum(base)) / len(base)
        section["gain"][task] = {"difference": difference, "interval": paired_interval(base, final)}
        section["asked"][task] = {"kind": "choice", "fingerprint": task, "precision": "fp32", **how}
        rows = [
            Answered(f"q {number}", ["a", "b"], ["a"], "a", "a", before, after)
            for number, (before, after) in enumerate(zip(base, final, strict=True))
        ]
        answers.write(run, task, rows)
    run.write_results("evaluation", section)


# ---- forgetting


def test_forgetting_is_found_beyond_interval_and_tolerance(workspace: Workspace) -> None:
    run = made_run(workspace, forgetting=0.0)
    measured_again(run, "builtin/general", [0.10, 0.14] * 10)
    found = sign(workspace, run, "forgetting")
    assert found.state == "found" and "+0.120 bits per byte against the base (95 % " in found.seen[0]
    assert "20 documents, 2,000 tokens" in found.seen[0]
    measured_again(run, "builtin/general", [0.02, 0.06] * 10)
    assert sign(workspace, run, "forgetting").state == "absent", "sure, but within what is tolerated"
    measured_again(run, "builtin/general", [1.0, -0.8] * 10)
    wide = sign(workspace, run, "forgetting")
    assert wide.state == "unknown" and f"mixcpt measure {run.id} --tokens" in wide.measure
    measured_again(run, "builtin/general", [0.3] * 5)
    assert sign(workspace, run, "forgetting").state == "unknown", "five documents are too few"


def test_without_a_measure_again_the_curve_counts_and_says_so(workspace: Workspace) -> None:
    found = sign(workspace, made_run(workspace, forgetting=0.4), "forgetting")
    assert found.state == "found" and "800 tokens on the curve, no interval" in found.seen[0]
    assert "mixcpt measure" in found.measure
    assert sign(workspace, made_run(workspace, forgetting=0.01), "forgetting").state == "absent"
    little = made_run(workspace, forgetting=0.4, stage=stage_of(measures__general_tokens=100))
    assert sign(workspace, little, "forgetting").state == "unknown"


def test_far_from_the_base_and_lost_questions_are_forgetting_too(workspace: Workspace) -> None:
    run = made_run(workspace, forgetting=0.0)
    measured_again(run, "builtin/instructions", [1.4, 1.6] * 10, measure="kl", base=0.0)
    found = sign(workspace, run, "forgetting")
    assert found.state == "found" and any("KL to the base 1.50 nats per token" in words for words in found.seen)
    other = made_run(workspace, forgetting=0.0)
    evaluate(other, general=([1.0] * 50, [1.0] * 30 + [0.0] * 20, {}))
    found = sign(workspace, other, "forgetting")
    assert found.state == "found" and any("100% → 60% right (−40 points, 95 % " in words for words in found.seen)


def test_what_is_suggested_against_forgetting(workspace: Workspace) -> None:
    def change(**changes: Any) -> dict[str, Any]:
        found = sign(workspace, made_run(workspace, forgetting=0.4, stage=stage_of(**changes)), "forgetting").change
        assert found is not None
        return found.settings

    assert change(objective__retention="none") == {"objective.retention": "lssd", "objective.retention_weight": 1.0}
    assert change() == {"training.learning_rate": 1e-3}, "half of it, for it is held and mixed already"
    (sources,) = change(mixture__sources=[{"source": "builtin/atlas", "share": 6, "domain": True}]).values()
    assert [(one["source"], one["share"]) for one in sources] == [("builtin/atlas", 6.0), ("builtin/replay", 3.0)]


def test_what_was_forgotten_before_is_not_laid_to_this_run(workspace: Workspace) -> None:
    parent = made_run(workspace, forgetting=0.4)
    child = sign(workspace, made_child(workspace, parent, forgetting=0.01), "forgetting")
    assert child.state == "found" and child.change is None and "before this run began" in child.why
    own = sign(workspace, made_child(workspace, made_run(workspace, forgetting=0.0), forgetting=0.3), "forgetting")
    assert own.change is not None and own.change.settings == {"training.learning_rate": 1e-4}
    dpo = sign(
        workspace, made_child(workspace, made_run(workspace, forgetting=0.0), "dpo", forgetting=0.3), "forgetting"
    )
    assert dpo.change is not None and dpo.change.settings == {"preference.beta": 0.2}


# ---- learned, but not usable


def probes(side: str = "generalised") -> dict[str, Any]:
    return {"probes": {"corpus": "builtin/atlas", "side": side}}


FLAT = [1.0, 0.0] * 200


def test_gained_text_and_flat_questions_are_unusable_knowledge(workspace: Workspace) -> None:
    stage = stage_of(mixture__sources=[{"source": "builtin/atlas", "share": 1, "domain": True}])
    run = made_run(workspace, stage=stage)
    evaluate(run, probes_atlas=(FLAT, [*FLAT[:-2], 0.0, 1.0], probes()))
    found = sign(workspace, run, "unusable")
    assert found.state == "found" and "400 items" in found.seen[1]
    assert found.change is not None and [one["source"] for one in found.change.settings["mixture.sources"]] == [
        "builtin/atlas",
        "builtin/instructions",
    ]
    mixed = made_run(workspace)  # has instructions in its mixture
    evaluate(mixed, probes_atlas=(FLAT, FLAT, probes()))
    change = sign(workspace, mixed, "unusable").change
    assert change is not None and change.settings == {"mixture.budget_tokens": 24_000}


@pytest.mark.parametrize(
    ("base", "final", "state"),
    [
        (FLAT, [1.0] * 400, "absent"),
        (FLAT[:30], FLAT[:30][::-1], "unknown"),
        (FLAT[:10], FLAT[:10], "unknown"),
        ([1.0] * 400, [1.0] * 400, "unknown"),
    ],
    ids=["gained", "a wide interval", "too few", "the base knows all"],
)
def test_questions_that_gained_or_are_too_few(
    workspace: Workspace, base: list[float], final: list[float], state: str
) -> None:
    run = made_run(workspace)
    evaluate(run, probes_atlas=(base, final, probes()))
    assert sign(workspace, run, "unusable").state == state


def test_probes_known_by_heart_do_not_count_as_usable(workspace: Workspace) -> None:
    run = made_run(workspace)
    evaluate(run, by_heart=(FLAT, [1.0] * 400, probes("memorised")), new=(FLAT, FLAT, probes()))
    assert sign(workspace, run, "unusable").state == "found"


def test_without_a_gain_nothing_is_unusable(workspace: Workspace) -> None:
    run = made_run(workspace, gain=0.0)
    evaluate(run, probes_atlas=(FLAT, FLAT, probes()))
    assert sign(workspace, run, "unusable").state == "absent"
    assert sign(workspace, made_child(workspace, made_run(workspace)), "unusable").state == "elsewhere"


# ---- over-fitted to the format


def test_sft_that_loses_the_field_is_over_fitted_to_its_format(workspace: Workspace) -> None:
    parent = made_run(workspace)
    run = made_child(workspace, parent, gain=-0.2, changes={"training.epochs": 4})
    found = sign(workspace, run, "format")
    assert found.state == "found" and "+0.200 bits per byte since the run before" in found.seen[0]
    assert found.change is not None and found.change.settings == {"training.epochs": 2}
    once = sign(workspace, made_child(workspace, parent, gain=-0.2), "format").change
    assert once is not None and once.settings == {"samples.rule.count": 32}
    assert sign(workspace, made_child(workspace, parent, gain=0.0), "format").state == "absent"
    assert sign(workspace, parent, "format").state == "elsewhere"


def test_questions_that_the_run_before_had_right(workspace: Workspace) -> None:
    parent = made_run(workspace)
    run = made_child(workspace, parent, gain=0.0)
    evaluate(parent, probes_atlas=(FLAT, [1.0] * 400, probes()))
    evaluate(run, probes_atlas=(FLAT, FLAT, probes()))
    found = sign(workspace, run, "format")
    assert found.state == "found" and any("−50 points since the run before" in words for words in found.seen)
    evaluate(run, probes_atlas=(FLAT, FLAT, probes() | {"fingerprint": "others"}))
    assert sign(workspace, run, "format").state == "absent", "other questions cannot be held against these"


def test_a_form_that_other_templates_pay_for(workspace: Workspace) -> None:
    def check(difference: float) -> dict[str, Any]:
        side = {"share": 0.5, "interval": [0.4, 0.6]}
        checks = ("ended", "follows", "right_length", "well_formed")
        sides = dict.fromkeys(checks, side) | {"length_ratio": 1.0, "loss": 2.0, "items": 40}
        gain = {"difference": difference, "interval": [difference - 0.05, difference + 0.05]}
        gains = dict.fromkeys(checks, gain)
        return {"base": sides, "final": sides, "gain": gains, "source": "x", "tokens": 64}

    run = made_child(workspace, made_run(workspace), gain=0.0)
    section = run.results()["evaluation"]
    run.write_results("evaluation", {**section, "format": {"own": check(0.4), "alpaca": check(-0.3)}})
    found = sign(workspace, run, "format")
    assert found.state == "found" and any("in template alpaca −30 points" in words for words in found.seen)
    run.write_results("evaluation", {**section, "format": {"own": check(0.4), "alpaca": check(0.0)}})
    assert sign(workspace, run, "format").state == "absent"


# ---- the curves: over-trained, nothing learned, diverged


def with_curve(workspace: Workspace, losses: Sequence[float], heldout: Sequence[float], **changes: Any) -> Run:
    """A run with these losses a step and these bits per byte of the field, evenly over its steps."""
    run = made_run(workspace, stage=stage_of(**changes))
    run.metrics.unlink()
    for step, loss in enumerate(losses, 1):
        run.append({"step": step, "tokens": 100 * step, "loss": loss, "gradient_norm": loss / 2})
    every = len(losses) / (len(heldout) - 1)
    for number, bits in enumerate(heldout):
        tokens = round(100 * every * number)
        measure = {"domain_bits_per_byte": bits, "general_bits_per_byte": 1.25, "prompt_kl": 0.1}
        run.append({"step": tokens // 100, "tokens": tokens, "measure": measure})
    return run


def falling(steps: int) -> list[float]:
    return [4.0 - 3.0 * step / steps for step in range(steps)]


def test_many_readings_and_a_held_out_loss_that_rises(workspace: Workspace) -> None:
    run = with_curve(workspace, falling(40), [1.6, 1.2, 1.3, 1.5, 1.7])
    found = sign(workspace, run, "overtrained")
    assert found.state == "found" and "best at 1,000 tokens and rose by 0.500 bits per byte" in found.seen[0]
    assert found.change is not None and found.change.settings == {"mixture.budget_tokens": 3000}, "a quarter of 12,000"
    mixture = run.results()["training"]["mixture"]
    once = {**mixture, "sources": [{**source, "epochs": 1.0} for source in mixture["sources"]]}
    run.write_results("training", {**run.results()["training"], "mixture": once})
    assert sign(workspace, run, "overtrained").state == "absent", "read once"
    assert sign(workspace, with_curve(workspace, falling(40), [1.6, 1.4, 1.2, 1.21]), "overtrained").state == "absent"
    assert sign(workspace, with_curve(workspace, [2.0] * 40, [1.6, 1.2, 1.5, 1.7]), "overtrained").state == "absent"
    assert sign(workspace, with_curve(workspace, falling(40), [1.6, 1.7]), "overtrained").state == "unknown", (
        "two points"
    )
    worse = sign(workspace, with_curve(workspace, falling(40), [1.6, 1.7, 1.9, 2.2]), "overtrained")
    assert worse.change is not None and worse.change.settings == {"training.learning_rate": 5e-4}


def test_nothing_learned(workspace: Workspace) -> None:
    slow = with_curve(workspace, [3.0] * 40, [1.6, 1.6, 1.595], training__learning_rate=1e-5)
    found = sign(workspace, slow, "nothing")
    assert found.state == "found" and found.change is not None
    assert found.change.settings == {"training.learning_rate": 1e-3}, "what is usual"
    quick = sign(workspace, with_curve(workspace, [3.0] * 40, [1.6, 1.6, 1.595]), "nothing")
    assert quick.change is not None and quick.change.settings == {"mixture.budget_tokens": 48_000}
    assert sign(workspace, made_run(workspace), "nothing").state == "absent"
    run = made_run(workspace, gain=0.0)
    measured_again(run, "builtin/atlas", [0.5, -0.5] * 10)
    assert sign(workspace, run, "nothing").state == "unknown", "these documents cannot tell"
    measured_again(run, "builtin/atlas", [0.01, -0.01] * 10)
    assert sign(workspace, run, "nothing").state == "found", "these can"


def test_nothing_learned_in_stage_two(workspace: Workspace) -> None:
    parent = made_run(workspace)
    assert sign(workspace, made_child(workspace, parent, steps=20), "nothing").state == "absent", "its loss falls"
    assert sign(workspace, made_child(workspace, parent, steps=6), "nothing").state == "unknown", "six steps"
    flat = made_child(workspace, parent, steps=20)
    flat.metrics.unlink()
    for step in range(20):
        flat.append({"step": step + 1, "tokens": step, "loss": 2.0 + 0.001 * (-1) ** step})
    found = sign(workspace, flat, "nothing")
    assert found.state == "found" and found.change is not None and found.change.settings == {"training.epochs": 2}
    assert sign(workspace, made_child(workspace, parent, "dpo", steps=20), "nothing").state == "absent", (
        "its margin is there"
    )
    undecided = made_child(workspace, parent, "dpo", steps=20)
    undecided.metrics.unlink()
    for step in range(20):
        undecided.append({"step": step + 1, "tokens": step, "loss": 0.69, "margin": 0.01 * (-1) ** step})
    assert sign(workspace, undecided, "nothing").state == "found"


def test_diverged(workspace: Workspace) -> None:
    rose = sign(workspace, with_curve(workspace, [2.0] * 20 + [6.0] * 20, [1.6, 1.4, 2.5]), "diverged")
    assert rose.state == "found" and rose.change is not None
    assert rose.change.settings == {"training.learning_rate": 6.7e-4}, "a third"
    spiky = falling(40)
    for step in (15, 22, 30):
        spiky[step] = 9.0
    found = sign(workspace, with_curve(workspace, spiky, [1.6, 1.2]), "diverged")
    assert found.state == "found" and "3 of 40 steps spiked" in found.seen[1] and "4.5 at most" in found.seen[2]
    uneven = [1.0 if step % 4 else 3.9 for step in range(40)]  # a harder source in every fourth step
    uneven[:4] = [4.0] * 4
    assert sign(workspace, with_curve(workspace, uneven, [1.6, 1.2]), "diverged").state == "absent"
    assert sign(workspace, with_curve(workspace, falling(8), [1.6, 1.2]), "diverged").state == "unknown"


def test_a_run_that_failed_with_no_number_has_diverged(workspace: Workspace) -> None:
    message = "The loss became nan at step 7: start again with a lower learning rate (now 0.5)."
    run = made_run(workspace, state="failed", message=message)
    found = sign(workspace, run, "diverged")
    assert found.state == "found" and found.seen == ("The loss became nan at step 7",)
    other = made_run(workspace, state="failed", message="The disk is full.")
    assert sign(workspace, other, "diverged").state == "unknown"


# ---- the whole


def healthy(workspace: Workspace) -> Run:
    run = made_run(workspace, steps=40, forgetting=0.0)
    evaluate(run, probes_atlas=(FLAT, [1.0] * 400, probes()))
    return run


def test_a_healthy_run_says_so(workspace: Workspace) -> None:
    found = diagnose(workspace, healthy(workspace))
    assert found.is_healthy and found.sentence() == "Healthy: no sign of failure, and every one could be judged."
    assert list(in_words(found)) == [found.sentence()]


def test_a_diagnosis_follows_what_is_measured_later(workspace: Workspace) -> None:
    run = healthy(workspace)
    assert diagnose(workspace, run).is_healthy
    measured_again(run, "builtin/general", [0.3, 0.4] * 10)
    found = diagnose(workspace, run)
    assert found.sentence() == "Found: catastrophic forgetting."
    words = "\n".join(in_words(found))
    assert "mixcpt rerun" in words and "--set 'training.learning_rate=0.001'" in words


def test_a_change_becomes_a_draft(workspace: Workspace) -> None:
    run = made_run(workspace, name="mine", forgetting=0.4, stage=stage_of(objective__retention="none"))
    draft = draft_with(workspace, run, "forgetting")
    assert isinstance(draft, Draft) and draft.stage.objective.retention == "lssd" and draft.experiment == "trial"
    assert draft.name == "mine: hold it by Logit Swap Self-Distillation (LSSD)"
    assert isinstance(run.config, Stage) and draft.stage.mixture == run.config.mixture
    child = made_child(workspace, made_run(workspace, forgetting=0.0), forgetting=0.3)
    align = draft_with(workspace, child, "forgetting")
    assert isinstance(align, AlignDraft) and align.parent == child.info.parent
    with pytest.raises(NotFound, match="no sign of 'diverged'"):
        draft_with(workspace, run, "diverged")
    late = made_child(workspace, run, forgetting=0.0)
    with pytest.raises(BadInput, match="no setting of its own helps"):
        draft_with(workspace, late, "forgetting")


def test_the_command_says_what_the_draft_has(workspace: Workspace) -> None:
    run = made_run(workspace, forgetting=0.4, stage=stage_of(mixture__sources=[{"source": "builtin/atlas", "share": 1,
                                                                          "domain": True}]))  # fmt: skip
    change = sign(workspace, run, "forgetting").change
    assert change is not None
    words = command(run.id, change).split(" --set ")
    assert words[0] == f"mixcpt rerun {run.id}"
    assert dict(parse_change(word.strip("'")) for word in words[1:]) == change.settings


def test_arms_by_seed(workspace: Workspace) -> None:
    from mixcpt.compare import summarise, with_curves

    runs = [made_run(workspace, seed=seed, forgetting=0.4 if seed else 0.0) for seed in range(3)]
    (arm,) = of_arms(workspace, summarise(with_curves(runs)))
    assert "catastrophic forgetting (2 of 3 seeds)" in arm.words()
    assert "learned, but not usable (3 of 3 seeds)" in arm.words(found=False)


def test_the_recorded_experiment_has_a_run_that_forgets(workspace: Workspace) -> None:
    recorded.add(workspace)
    found: dict[str, Diagnosis] = {run.title: diagnose(workspace, run) for run in Runs(workspace).all()}
    told = {title: {sign.rule for sign in one.found} for title, one in found.items()}
    assert told["documents, CE"] == {"forgetting", "overtrained"}
    assert told["mixture, CE + LSSD"] == told["mixture, LSSD alone"] == set()
    run = next(run for run in Runs(workspace).all() if run.title == "documents, CE")
    assert draft_with(workspace, run, "forgetting").experiment != EXPERIMENT


def test_a_run_that_waits_shows_nothing_yet(workspace: Workspace) -> None:
    run = made_run(workspace, state="queued")
    made_job(workspace, "train", "queued", run=run.id)
    assert {sign.state for sign in diagnose(workspace, run).signs} == {"unknown", "elsewhere"}


def test_a_trend_and_its_interval() -> None:
    change, (low, high) = trend([1.0, 2.0, 3.0, 4.0])
    assert (change, low, high) == pytest.approx((3.0, 3.0, 3.0))
    change, (low, high) = trend([0.0, 1.0, 0.0])
    # slope 0, residual variance (2/3)/1, error sqrt(2/3 / 2); Student's t at one degree of freedom: 12.7062
    assert change == pytest.approx(0.0) and high == pytest.approx(2 * 12.7062 * (1 / 3) ** 0.5, rel=1e-4) == -low
    with pytest.raises(ValueError, match="at least three"):
        trend([1.0, 2.0])
