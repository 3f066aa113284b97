"""Asking a model in memory by lm-eval: with progress, a way to stop, and choices at a third of the price.

lm-eval reads the whole question again for every choice. With more than one question at once a question is read here
once, with all its choices behind it in the same row, each of which sees the question and itself only. That changes
log-likelihoods by rounding (about 1e-6 in fp32) and is checked against lm-eval's own way on the longest question, which
is used throughout where the two differ. One at a time it is lm-eval's own way from the beginning, to the last bit: in
16 bits rounding is coarse enough to change answers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from torch import Tensor

Request = tuple[Any, list[int], list[int]]
"""What lm-eval makes of a choice: its texts, the ids of the question, the ids of the choice."""
Answer = tuple[float, bool]
"""Log-likelihood of the choice in nats, and whether greedy decoding would write it."""
_TOLERANCE = 1e-3  # nats for one choice; a wrong mask is off by whole nats


class Asking(HFLM):  # type: ignore[misc]
    """lm-eval's model over one in memory. `heard` is called with the share of requests that is done."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, heard: Callable[[float], None]):
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self.heard, self.total, self.done = heard, 1, 0
        self._together = batch_size > 1
        self._checked = False

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        self.total += len(requests)
        return super().loglikelihood(requests, disable_tqdm=True)

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        self.total += len(requests)
        return super().generate_until(requests, disable_tqdm=True)

    def _model_call(self, inps: Tensor, attn_mask: Any = None, labels: Any = None) -> Any:
        self._tell(len(inps))
        return super()._model_call(inps, attn_mask, labels)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **options: Any) -> Any:
        self._tell(len(context))
        return super()._model_generate(context, max_length, stop, **options)

    def _tell(self, requests: int) -> None:
        self.done += requests
        self.heard(min(1.0, self.done / self.total))

    def _loglikelihood_tokens(
        self, requests: list[Request], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[Answer]:
        plain = partial(super()._loglikelihood_tokens, disable_tqdm=True)
        groups = _by_question(requests) if self._together else {}
        shared = [places for places in groups.values() if len(places) > 1 and self._fits(requests, places)]
        shared.sort(key=lambda places: -_length(requests, places))
        if shared and not self._checked:
            self._checked = True
            longest = [requests[place] for place in shared[0]]  # in which a window of attention would show
            pairs = zip(plain(longest), self._at_once([longest]), strict=True)
            self._together = all(abs(theirs[0] - ours[0]) < _TOLERANCE for theirs, ours in pairs)
        if not self._together:
            return list(plain(requests))
        answers: dict[int, Answer] = {}
        for start in range(0, len(shared), self.batch_size):
            batch = shared[start : start + self.batch_size]
            found = self._at_once([[requests[place] for place in places] for places in batch])
            answers |= zip((place for places in batch for place in places), found, strict=True)
        alone = [place for place in range(len(requests)) if place not in answers]
        answers |= zip(alone, plain([requests[place] for place in alone]) if alone else [], strict=True)
        return [answers[place] for place in range(len(requests))]

    def _fits(self, requests: Sequence[Request], places: Sequence[int]) -> bool:
        return _length(requests, places) <= int(self.max_length)

    def _at_once(self, batch: Sequence[Sequence[Request]]) -> list[Answer]:
        """Every choice of every question of a batch, in order; a row holds a question and its choices."""
        rows = [_Row(requests) for requests in batch]
        width = max(len(row.ids) for row in rows)
        ids, positions = (torch.zeros((len(rows), width), dtype=torch.long) for _ in range(2))
        seen = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)  # padding sees itself: no row may be empty
        for number, row in enumerate(rows):
            size = len(row.ids)
            ids[number, :size], positions[number, :size] = torch.tensor(row.ids), torch.tensor(row.positions)
            seen[number, :size, :size] = row.seen()
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
        self._tell(sum(len(requests) for requests in batch))
        with torch.no_grad():
            logits = self.model(
                input_ids=ids.to(self.device),
                position_ids=positions.to(self.device),
                attention_mask=mask.to(self.device),
                use_cache=False,
            ).logits
        return [answer for number, row in enumerate(rows) for answer in row.answers(logits[number].float())]


class _Row:
    """A question with all its choices behind it, the last token of each left out, for nothing follows it."""

    def __init__(self, requests: Sequence[Request]):
        self.question = requests[0][1]
        self.choices = [choice for _, _, choice in requests]
        self.ids, self.positions, self._starts = list(self.question), list(range(len(self.question))), list[int]()
        for choice in self.choices:
            self._starts.append(len(self.ids))
            self.ids += choice[:-1]
            self.positions += range(len(self.question), len(self.question) + len(choice) - 1)

    def seen(self) -> Tensor:
        """[tokens, tokens], True where the token of a row sees that of a column."""
        belongs = torch.zeros(len(self.ids), dtype=torch.long)
        for number, (start, choice) in enumerate(zip(self._starts, self.choices, strict=True), 1):
            belongs[start : start + len(choice) - 1] = number
        same = belongs[:, None] == belongs[None, :]
        return (same | (belongs == 0)[None, :]).tril()

    def answers(self, logits: Tensor) -> list[Answer]:
        """From the logits of the row, [tokens, vocabulary]."""
        found = []
        for start, choice in zip(self._starts, self.choices, strict=True):
            states = [len(self.question) - 1, *range(start, start + len(choice) - 1)]
            logp = logits[states].log_softmax(-1)
            ids = torch.tensor(choice, device=logits.device)
            total = logp.gather(1, ids[:, None]).sum().item()
            found.append((total, bool((logp.argmax(-1) == ids).all())))
        return found


def _by_question(requests: Sequence[Request]) -> dict[tuple[int, ...], list[int]]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, (_, question, _) in enumerate(requests):
        groups.setdefault(tuple(question), []).append(place)
    return groups


def _length(requests: Sequence[Request], places: Sequence[int]) -> int:
    return len(requests[places[0]][1]) + sum(len(requests[place][2]) for place in places)


def samples_of(
    model: Any,
    tokenizer: Any,
    task: Task,
    batch_size: int,
    chosen: list[int] | None = None,
    heard: Callable[[float], None] = lambda share: None,
) -> list[dict[str, Any]]:
    """What lm-eval says of every question of a task, in order: the question (`doc`), the texts it was asked in
    (`arguments`), what came back (`filtered_resps`), and a value of each of its `metrics`. Of several ways to read an
    answer (filters) the first counts.

    Args:
        chosen: the indices of the questions that are asked; None asks all.
        heard: told the share that is done; whatever it raises ends the asking.
    """
    # As `simple_evaluate` has it, which also looks for the model on the hub and lists what is installed.
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    outcome = evaluate(
        lm=Asking(model, tokenizer, batch_size, heard),
        task_dict={"tasks": {task.task_name: task}, "groups": {}, "group_map": {}},
        samples=None if chosen is None else {task.task_name: chosen},
        bootstrap_iters=0,
        log_samples=True,
    )
    samples = outcome["samples"][task.task_name]
    first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
    return sorted(first, key=lambda sample: int(sample["doc_id"]))
