"""Choices read in one row with their question, against a forward pass of the model for each choice alone."""

# mypy: allow-untyped-defs, allow-untyped-calls

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from mixcpt.asking import Asking, Request
from mixcpt.errors import Interrupted
from mixcpt.models import load_base

SMALL: dict[str, Any] = {"vocab_size": 257, "num_hidden_layers": 2}
SIZES: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128, "initializer_range": 0.2,
}  # fmt: skip
FAMILIES = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SMALL, **SIZES)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**SMALL, **SIZES, head_dim=8)),
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(**SMALL, n_embd=32, n_head=4, n_positions=128, initializer_range=0.2)
    ),
    "gemma3, eager": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**SMALL, **SIZES, head_dim=8, pad_token_id=0)),
    "gemma3, a window": lambda: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(
            **SMALL, **SIZES, head_dim=8, sliding_window=8, layer_types=["sliding_attention"] * 2, pad_token_id=0
        )
    ),
}


def request(question: str, choice: str) -> Request:
    return (question, choice), list(question.encode()), list(choice.encode())


REQUESTS = [
    request("Who keeps the book?", " the miller"),
    request("Who keeps the book?", " x"),
    request("Rain came", " late"),
    request("Who keeps the book?", " the smith"),
    request("Alone", " here"),
    request("Rain came", " early"),
    request("Rain came", " late"),
]


@torch.no_grad()
def alone(model: Any, requests: list[Request]) -> list[tuple[float, bool]]:
    """Each choice in a row of its own, summed up by hand in float64."""
    answers = []
    for _, question, choice in requests:
        ids = torch.tensor([question + choice])
        logp = model(ids, use_cache=False).logits[0].double().log_softmax(-1)[len(question) - 1 : -1]
        picked = logp[range(len(choice)), choice].sum().item()
        answers.append((picked, logp.argmax(-1).tolist() == choice))
    return answers


def asking(model: Any, folder: Path, batch_size: int, heard: Callable[[float], None] = lambda share: None) -> Asking:
    return Asking(model, tf.AutoTokenizer.from_pretrained(str(folder)), batch_size, heard)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_every_choice_sees_its_question_and_itself_only(
    family: str, batch_size: int, tiny_tokenizer_folder: Path
) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    if "eager" in family:
        model.set_attn_implementation("eager")
    asked = asking(model, tiny_tokenizer_folder, batch_size)
    found = asked._loglikelihood_tokens(copy.deepcopy(REQUESTS))
    assert asked._together == (batch_size > 1 and "window" not in family), "a window cannot be put into one row"
    for one, (wanted, greedy) in zip(found, alone(model, REQUESTS), strict=True):
        assert one[0] == pytest.approx(wanted, abs=1e-4) and one[1] == greedy


def test_a_question_is_read_once_and_not_again_for_each_choice(tiny_model_folder: Path) -> None:
    model = load_base(tiny_model_folder, "cpu", "fp32")
    rows: list[int] = []

    def count(module: Any, args: Any, given: dict[str, Any]) -> None:
        rows.append(len(given["input_ids"] if given else args[0]))

    model.register_forward_pre_hook(count, with_kwargs=True)
    one = asking(model, tiny_model_folder, 8)
    one._checked = True
    one._loglikelihood_tokens(copy.deepcopy(REQUESTS))
    assert rows == [2, 1], "two questions with all their choices, then the third, which has one only"


def test_where_both_ways_differ_it_is_lm_eval_s(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_base(tiny_model_folder, "cpu", "fp32")
    one = asking(model, tiny_model_folder, 8)
    monkeypatch.setattr(one, "_at_once", lambda batch: [(-1.0, True)] * sum(map(len, batch)))
    found = one._loglikelihood_tokens(copy.deepcopy(REQUESTS))
    assert [answer[0] for answer in found] == pytest.approx([wanted for wanted, _ in alone(model, REQUESTS)], abs=1e-4)
    assert not one._together


def test_one_at_a_time_is_lm_eval_s_own_way_to_the_last_bit(tiny_model_folder: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    model = load_base(tiny_model_folder, "cpu", "bf16")
    tokenizer = tf.AutoTokenizer.from_pretrained(str(tiny_model_folder))
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)._loglikelihood_tokens(copy.deepcopy(REQUESTS))
    assert asking(model, tiny_model_folder, 1)._loglikelihood_tokens(copy.deepcopy(REQUESTS)) == theirs


def test_it_says_how_far_it_is_and_ends_when_told(tiny_model_folder: Path) -> None:
    model = load_base(tiny_model_folder, "cpu", "fp32")
    shares: list[float] = []
    one = asking(model, tiny_model_folder, 1, shares.append)
    one.total = len(REQUESTS)
    one._loglikelihood_tokens(copy.deepcopy(REQUESTS))
    assert shares == sorted(shares) and len(shares) > 3 and shares[-1] <= 1

    def stop(share: float) -> None:
        raise Interrupted("stop")

    with pytest.raises(Interrupted):
        asking(model, tiny_model_folder, 4, stop)._loglikelihood_tokens(copy.deepcopy(REQUESTS))
