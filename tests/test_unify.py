import pytest

from mixcpt.records import Message, Record
from mixcpt.unify import strip_templates, unify

CHAT = (Message("system", "Be brief."), Message("user", "Why?"), Message("assistant", "Because."))
PREFERENCE = Record("preferences", messages=(Message("user", "Why?"),), chosen="Because.", rejected="Go away.")


def test_a_document_stays_as_it_is() -> None:
    text = "About [INST] and <|im_end|>:\n\nHuman: x\n\nAssistant: y "
    assert unify(Record("documents", text=text)) == text


def test_a_conversation_becomes_plain_paragraphs() -> None:
    assert unify(Record("instructions", messages=CHAT)) == "Be brief.\n\nWhy?\n\nBecause."
    assert unify(Record("instructions", messages=CHAT), joiner=" ") == "Be brief. Why? Because."


def test_of_a_preference_the_chosen_answer_is_taken() -> None:
    assert unify(PREFERENCE) == "Why?\n\nBecause."
    assert unify(PREFERENCE, preference="both") == "Why?\n\nBecause.\n\nGo away."


def test_a_turn_that_is_only_marks_leaves_no_gap() -> None:
    messages = (Message("user", "Q"), Message("system", "<|endoftext|>"), Message("assistant", "A<|im_end|>"))
    assert unify(Record("instructions", messages=messages)) == "Q\n\nA"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>", "Hi\n\nHello"),
        ("<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Hello </s>", "Be kind.\n\nHi\n\nHello"),
        ("<s>[INST] A [/INST] B </s><s>[INST] C [/INST] D </s>", "A\n\nB\n\nC\n\nD"),
        (
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>",
            "Hi\n\nHello",
        ),
        ("<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n", "Hi\n\nHello"),
        ("<|user|>\nHi</s>\n<|assistant|>\nHello</s>", "Hi\n\nHello"),
        ("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3", "Add.\n\n1 2\n\n3"),
        (
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.",
            "Add.",
        ),
        ("\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye", "Hi\n\nHello\n\nBye"),
        ("USER: Hi\nASSISTANT: Hello", "Hi\n\nHello"),
        ("The end.<|endoftext|>", "The end."),
    ],
)
def test_marks_of_templates_go(raw: str, expected: str) -> None:
    assert strip_templates(raw) == expected


@pytest.mark.parametrize(
    "text",
    [
        "They call it Human: the word stands in the line.",
        "Genes counted:\nHuman: 20,000\nMouse: 22,000",  # no Assistant in it: a list, not a transcript
        "### Results\n\n### Response times: fast",
        "Was <s>10</s> 12 euros, then <s>12</s> 14.",
        "<s>Was 10</s> is 12.",
        "a < b and b |> c; List<user>; [instant]",
        " blanks at both ends \n",
        "",
    ],
)
def test_ordinary_text_is_not_eaten(text: str) -> None:
    assert strip_templates(text) == text
