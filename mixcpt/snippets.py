"""The few lines of Python that load an export, for model cards and pages. They use only public libraries."""

import json

HERE = "path/to/this/folder"


def load_adapter(base: str, folder: str = HERE) -> str:
    """Loads the model `base` (a hub id or a folder) and the adapter in `folder` on top of it."""
    return f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({_quoted(base)}, dtype="bfloat16")
model = PeftModel.from_pretrained(base, {_quoted(folder)}).eval()
tokenizer = AutoTokenizer.from_pretrained({_quoted(folder)})"""


def load_merged(folder: str = HERE) -> str:
    """Loads the merged model in `folder`."""
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({_quoted(folder)}, dtype="bfloat16").eval()
tokenizer = AutoTokenizer.from_pretrained({_quoted(folder)})"""


def _quoted(text: str) -> str:
    """As a Python string, whatever is in it."""
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else repr(text)


CHAT = """messages = [{"role": "user", "content": "What do you know about this field?"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=200)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""
CONTINUE = """inputs = tokenizer("The first thing to know about it is", return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=200)
print(tokenizer.decode(output[0], skip_special_tokens=True))"""
