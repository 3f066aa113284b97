"""The paper's unified format: every record becomes plain text, as if it had been written as a document.

Role marks and chat templates go, turns are joined in order; system turns stay, for they may hold the task. What it
gives up: who said what. Documents are left as they are, for a text *about* templates must keep them.
"""

import re
from typing import Literal

from mixcpt.records import Record

_MARKS = r"""
    <\|im_start\|>[ ]*(?:system|user|assistant|tool)\b | <\|im_end\|>                       # ChatML
  | \[/?INST\] | <</?SYS>>                                                                  # Llama 2
  | \A\s*<s>(?![^\n]*</s>[ \t]*[^\s<]) | <s>(?=\s*\[INST\]) | </s>(?=\s*(?:<s>|<\||\Z))     # not HTML's <s>
  | <\|start_header_id\|>[^<\n]{1,20}<\|end_header_id\|>                                    # Llama 3
  | <\|(?:eot_id|eom_id|begin_of_text|end_of_text|endoftext)\|>
  | <start_of_turn>[ ]*(?:user|model)\b | <end_of_turn> | <bos> | <eos>                     # Gemma
  | <\|(?:system|user|assistant|end)\|>                                                     # Zephyr, Phi
  | ^\#\#\#[ ](?:Instruction|Input|Response|Output|System|User|Human|Assistant):            # Alpaca, Vicuna
  | ^Below[ ]is[ ]an[ ]instruction[ ]that[ ]describes[ ]a[ ]task\b[^\n]{0,80}
       \.[ ]Write[ ]a[ ]response[ ]that[ ]appropriately[ ]completes[ ]the[ ]request\.
"""
_TEMPLATE = re.compile(_MARKS, re.VERBOSE | re.MULTILINE)
_TEMPLATE_AND_TURNS = re.compile(_MARKS + r" | ^(?:Human|Assistant|USER|ASSISTANT):", re.VERBOSE | re.MULTILINE)
_OPENS_WITH_TURN = re.compile(r"\s*(?:Human|Assistant|USER|ASSISTANT):")
_ASKS = re.compile(r"^(?:Human|USER):", re.MULTILINE)
_ANSWERS = re.compile(r"^(?:Assistant|ASSISTANT):", re.MULTILINE)


def unify(record: Record, *, joiner: str = "\n\n", preference: Literal["chosen", "both"] = "chosen") -> str:
    """The training text of `record`: its turns joined by `joiner`.

    Of a preference pair the chosen answer is taken, as in the paper; with `preference="both"` the rejected answer
    follows the chosen one, for trying out whether more text helps.
    """
    if record.kind == "documents":
        return record.text
    parts = [message.content for message in record.messages]
    if record.kind == "preferences":
        parts += [record.chosen, record.rejected] if preference == "both" else [record.chosen]
    plain = (strip_templates(part).strip() for part in parts)
    return joiner.join(part for part in plain if part)


def strip_templates(text: str) -> str:
    """`text` without the marks of well-known chat templates; what stood on both sides of a mark becomes paragraphs.

    "Human:" and "Assistant:" count as marks at line starts only, and only in a text that begins with one of them or
    holds both. A text without marks comes back unchanged.
    """
    turns = _OPENS_WITH_TURN.match(text) or (_ASKS.search(text) and _ANSWERS.search(text))
    parts = (_TEMPLATE_AND_TURNS if turns else _TEMPLATE).split(text)
    if len(parts) == 1:
        return text
    return "\n\n".join(part.strip() for part in parts if part.strip())
