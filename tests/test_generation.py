"""Writing token by token, against loops without a cache and against probabilities worked out by hand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mixcpt.errors import Diverged
from mixcpt.exchanges import Sampling
from mixcpt.generation import Writer, choose, nucleus

COMMON: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.5,
    "bos_token_id": None,
    "eos_token_id": 60,
    "pad_token_id": 60,
}
PROMPT = np.arange(3, 20, dtype=np.int32)
NEVER: frozenset[int] = frozenset()


def model_of(family: str) -> Any:
    """A random model, set up as `models.load_base` does."""
    torch.manual_seed(1)
    makers: dict[str, Callable[[], Any]] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**COMMON)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**COMMON, head_dim=8)),
        "gemma3": lambda: Gemma3ForCausalLM(
            Gemma3TextConfig(
                **COMMON,
                tie_word_embeddings=False,
                head_dim=8,
                sliding_window=8,
                layer_types=["sliding_attention", "full_attention"],
            )
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.5)
        ),
    }
    made = makers[family]().eval()
    made.config.use_cache = False
    return made


def without_cache(model: Any, steps: int) -> list[int]:
    """The likeliest token each time, reading all of it anew."""
    ids = PROMPT.tolist()
    with torch.no_grad():
        for _ in range(steps):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(PROMPT) :]


def written(model: Any, sampling: Sampling, ends: frozenset[int] = NEVER, vocabulary: int = 61) -> Writer:
    writer = Writer(model.config, PROMPT, sampling, ends, vocabulary)
    while not writer.ended:
        writer.write(model)
    return writer


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "gpt2"])
def test_with_a_cache_it_writes_what_it_would_without(family: str) -> None:
    """Gemma's window of 8 tokens is shorter than what it reads."""
    model = model_of(family)
    expected = without_cache(model, 30)
    writer = written(model, Sampling(max_new_tokens=30))
    assert writer.ids == expected and writer.ended == "length"
    assert len(set(expected)) > 3  # a model that only repeats itself would prove nothing


def test_it_ends_with_an_end_token_which_is_part_of_it() -> None:
    model = model_of("llama")
    expected = without_cache(model, 30)
    end = expected[4]
    writer = written(model, Sampling(max_new_tokens=30), frozenset({end}))
    assert writer.ids == expected[: expected.index(end) + 1] and writer.ended == "end"


def test_tokens_that_stand_for_nothing_are_never_written() -> None:
    model = model_of("llama")
    free, bound = (written(model, Sampling(max_new_tokens=30), vocabulary=n).ids for n in (61, 40))
    assert max(free) >= 40 > max(bound)


def test_the_same_seed_writes_the_same_and_another_one_something_else() -> None:
    model = model_of("llama")
    first, again, other = (written(model, Sampling(temperature=1, max_new_tokens=20, seed=s)).ids for s in (5, 5, 6))
    assert first == again != other


def test_chance_takes_each_token_as_often_as_its_probability_says() -> None:
    """P = softmax(ln(6, 3, 1) / T); at temperature 0.5 the odds are squared: 36, 9, 1."""
    logits = torch.tensor([6.0, 3.0, 1.0]).log()
    for temperature, odds in ((1.0, (6, 3, 1)), (0.5, (36, 9, 1))):
        dice = torch.Generator().manual_seed(7)
        sampling = Sampling(temperature=temperature)
        drawn = [choose(logits, sampling, dice) for _ in range(4000)]
        for token, share in enumerate(odds):
            p = share / sum(odds)
            assert abs(drawn.count(token) / 4000 - p) < 4 * math.sqrt(p * (1 - p) / 4000)


def test_two_models_that_think_alike_have_the_same_luck() -> None:
    """Probabilities that differ by a hundredth part ways about as seldom; with independent dice half of all would."""
    one, other = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.51, 0.49]).log()
    dice = [torch.Generator().manual_seed(3) for _ in range(2)]
    sampling = Sampling(temperature=1)
    apart = sum(choose(one, sampling, dice[0]) != choose(other, sampling, dice[1]) for _ in range(2000))
    assert 0 < apart < 60


def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p() -> None:
    p = torch.tensor([0.1, 0.4, 0.2, 0.3])
    for top_p, kept in ((0.4, [1]), (0.41, [1, 3]), (0.7, [1, 3]), (0.71, [1, 2, 3]), (1e-9, [1])):
        assert nucleus(p.double(), top_p).nonzero().flatten().tolist() == kept, top_p


def test_chance_draws_from_the_nucleus_only() -> None:
    logits, dice = torch.tensor([0.1, 0.4, 0.2, 0.3]).log(), torch.Generator().manual_seed(0)
    sampling = Sampling(temperature=1, top_p=0.6)
    assert {choose(logits, sampling, dice) for _ in range(300)} == {1, 3}


def test_no_temperature_takes_the_likeliest() -> None:
    assert choose(torch.tensor([1.0, 5.0, 4.9]), Sampling(), torch.Generator()) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_model_without_numbers_is_told(bad: float) -> None:
    with pytest.raises(Diverged, match="no number"):
        choose(torch.tensor([1.0, bad, 2.0]), Sampling(), torch.Generator())


def test_a_padded_vocabulary_of_minus_infinity_is_fine() -> None:
    logits = torch.tensor([1.0, -math.inf, 2.0])
    assert {choose(logits, Sampling(temperature=2), torch.Generator().manual_seed(s)) for s in range(40)} == {0, 2}
