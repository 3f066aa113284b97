"""One change of the configuration against each of the failure signatures (`mixcpt.symptoms`): the setting that most
often stands behind it, in the direction that helps.

What this gives up: searching. A change is a next try, and never more than one setting, so that its run tells whether it
was the reason.
"""

from mixcpt.builtin import KINDS
from mixcpt.evidence import Case, Change
from mixcpt.stages import AnyStage, Dpo, Sft, Stage


def hold(case: Case) -> Change:
    """Hold the model nearer to its base: by an objective, by general text, or by smaller steps."""
    stage = case.stage
    if isinstance(stage, Dpo):
        beta = min(10.0, 2 * stage.preference.beta)
        return Change(f"stay nearer to the reference: beta {beta:g}", {"preference.beta": beta})
    if isinstance(stage, Sft):
        return smaller_steps(stage, 2)
    if not stage.objective.needs_teacher:
        return Change(
            "hold it by Logit Swap Self-Distillation (LSSD)",
            {"objective.retention": "lssd", "objective.retention_weight": 1.0},
        )
    if all(source.domain for source in stage.mixture.sources if source.share > 0):
        return _with_source(stage, "builtin/replay", "mix in general text, a third of the tokens")
    return smaller_steps(stage, 2)


def _with_source(stage: Stage, name: str, words: str) -> Change:
    """A source for a third of the tokens, in place of what the mixture has of it."""
    others = [source.model_dump() for source in stage.mixture.sources if source.source != name]
    total = sum(source["share"] for source in others)
    added = {"source": name, "share": round(total / 2, 6)}
    return Change(words, {"mixture.sources": [*others, added]})


def smaller_steps(stage: AnyStage, times: float) -> Change:
    rate = _rounded(stage.training.learning_rate / times)
    return Change(f"take smaller steps: learning rate {rate:g}", {"training.learning_rate": rate})


def _rounded(value: float) -> float:
    return float(f"{value:.2g}")


def use(case: Case) -> Change:
    """Show how knowledge is used: instructions in the mixture, as the paper does; else read more of it."""
    stage = case.stage
    assert isinstance(stage, Stage)
    kinds = {source["source"]: source["kind"] for source in case.mixture()} | KINDS
    if not any(kinds.get(source.source) == "instructions" for source in stage.mixture.sources if source.share > 0):
        return _with_source(stage, "builtin/instructions", "mix in general instructions, a third of the tokens")
    return Change(
        f"read twice as much: {2 * stage.mixture.budget_tokens:,} tokens",
        {"mixture.budget_tokens": 2 * stage.mixture.budget_tokens},
    )


def fewer(stage: Sft) -> Change:
    if isinstance(stage, Dpo):
        beta = min(10.0, 2 * stage.preference.beta)
        return Change(f"stay nearer to the reference: beta {beta:g}", {"preference.beta": beta})
    if stage.training.epochs > 1:
        epochs = stage.training.epochs // 2
        return Change(f"read the samples fewer times: {epochs}", {"training.epochs": epochs})
    count = stage.samples.rule.count
    if stage.samples.selection is None and count and count >= 32:
        return Change(f"learn from fewer samples: {count // 2}", {"samples.rule.count": count // 2})
    return smaller_steps(stage, 2)


def more(case: Case) -> Change:
    stage = case.stage
    usual = type(stage).model_fields["training"].get_default(call_default_factory=True).learning_rate
    rate = stage.training.learning_rate
    if isinstance(stage, Stage) and rate >= usual:
        if stage.objective.needs_teacher and stage.objective.retention_weight > 1:
            weight = _rounded(stage.objective.retention_weight / 2)
            return Change(f"hold it less: weight of retention {weight:g}", {"objective.retention_weight": weight})
        budget = 4 * stage.mixture.budget_tokens
        return Change(f"read four times as much: {budget:,} tokens", {"mixture.budget_tokens": budget})
    if isinstance(stage, Sft) and rate >= usual:
        epochs = min(1000, 2 * stage.training.epochs)
        return Change(f"read the samples more often: {epochs} times", {"training.epochs": epochs})
    faster = min(1.0, _rounded(max(usual, 3 * rate)))
    return Change(f"take larger steps: learning rate {faster:g}", {"training.learning_rate": faster})
