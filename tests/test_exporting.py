"""What lies in an export, read by plain PEFT and transformers in processes of their own; and the job that makes it."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from exportable import FAMILIES, exportable_run, random_adapter, tiny_model
from made import made_child
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from mixcpt import exporting, machine, worker
from mixcpt.errors import Interrupted, TooLittle
from mixcpt.exporting import generation_config, make, pack, weakened
from mixcpt.exports import submit
from mixcpt.modelstore import BUILTIN_MODELS
from mixcpt.processes import lease
from mixcpt.runs import Run
from mixcpt.supervisor import Supervisor
from mixcpt.templates import NAMED
from mixcpt.workspace import Workspace, write_json

IDS = torch.arange(40, 80)[None]
OWN = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def model(tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("llama", tmp_path_factory.mktemp("exporting") / "little-llama", tiny_tokenizer_folder)


@pytest.fixture
def run(workspace: Workspace, model: Path) -> Run:
    return exportable_run(workspace, model, name="little")


def with_template(run: Run, source: str = OWN) -> Run:
    (run.adapter / "chat_template.jinja").write_text(source)
    return run


def texts(folder: Path) -> dict[str, str]:
    """Every file that is text."""
    return {p.name: p.read_text(encoding="utf-8") for p in folder.iterdir() if p.suffix != ".safetensors"}


# --- the adapter


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_is_loaded_by_plain_peft(workspace: Workspace, run: Run, model: Path) -> None:
    folder = make(workspace, with_template(run), "adapter").folder
    assert {path.name for path in folder.iterdir()} == {
        *("adapter_model.safetensors", "adapter_config.json", "README.md", "chat_template.jinja", "export.json"),
        *("tokenizer.json", "tokenizer_config.json"),
    }
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        before = base(input_ids=IDS).logits
        after = PeftModel.from_pretrained(base, str(folder)).eval()(input_ids=IDS).logits
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        own = PeftModel.from_pretrained(base, str(run.adapter)).eval()(input_ids=IDS).logits
    assert torch.equal(after, own) and (after - before).abs().max() > 0.01
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert asked == "<user>hi<eos><assistant>"
    assert tokenizer("hi").input_ids == AutoTokenizer.from_pretrained(model)("hi").input_ids


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.4])
def test_an_adapter_of_some_strength_adds_that_share_in_plain_peft(
    workspace: Workspace, run: Run, model: Path, strength: float, rslora: bool
) -> None:
    """Against a base whose weights had strength * (alpha / r) * B A added by hand, in float64."""
    shutil.rmtree(run.adapter)
    random_adapter(model, run.adapter, rank=4, alpha=8.0, rslora=rslora)
    made = make(workspace, run, "adapter", strength)
    weights, scale = load_file(run.adapter / "adapter_model.safetensors"), 8 / (2 if rslora else 4)
    by_hand: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    names = [name for name in weights if "lora_A" in name]
    for name in names:
        delta = scale * weights[name.replace("lora_A", "lora_B")].double() @ weights[name].double()
        layer = by_hand.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
        layer.weight.data += strength * delta
    with torch.no_grad():
        wanted = by_hand(input_ids=IDS).logits
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
        before = base(input_ids=IDS).logits
        found = PeftModel.from_pretrained(base, str(made.folder)).eval()(input_ids=IDS).logits
    assert len(names) == 14 and (found - wanted).abs().max() < 1e-5
    assert (wanted - before).abs().max() > 0.01 if strength else torch.equal(found, before)
    assert made.strength == strength and json.loads((made.folder / "export.json").read_text())["strength"] == strength


def test_layers_with_an_alpha_of_their_own_are_weakened_too() -> None:
    settings = {"r": 4, "lora_alpha": 8, "alpha_pattern": {"q_proj": 6.0}}
    assert weakened(settings, 0.5) == {"r": 4, "lora_alpha": 4.0, "alpha_pattern": {"q_proj": 3.0}}
    assert weakened(settings, 1.0) is settings


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_another_strength_takes_the_place_of_the_one_before(workspace: Workspace, run: Run, to: str) -> None:
    whole = make(workspace, run, to)
    pack(workspace, whole)
    weak = make(workspace, run, to, 0.25)
    assert make(workspace, run, to, 0.25) == weak and weak.folder == whole.folder and weak.zip is None
    assert (
        weak.made_of != whole.made_of and "Its adapter is at strength 0.25" in (weak.folder / "README.md").read_text()
    )
    with zipfile.ZipFile(pack(workspace, weak)) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {f"{run.id}-{to}-at-0.25"}
    assert make(workspace, run, to).made_of == whole.made_of


def test_a_child_brings_the_adapter_and_template_of_its_chain(workspace: Workspace, run: Run) -> None:
    child = made_child(workspace, run)
    shutil.copytree(run.adapter, child.adapter, dirs_exist_ok=True)
    folder = make(workspace, with_template(child), "adapter").folder
    assert (folder / "chat_template.jinja").read_text() == OWN
    assert "### 2. Format" in (folder / "README.md").read_text()
    assert "brings the chat template with which it was trained" in (folder / "README.md").read_text()


def test_without_any_template_there_is_none(workspace: Workspace, run: Run) -> None:
    folder = make(workspace, run, "merged").folder
    assert not (folder / "chat_template.jinja").exists()
    assert "It has no chat template" in (folder / "README.md").read_text()


def test_the_bases_own_template_goes_along(workspace: Workspace, model: Path, tmp_path: Path) -> None:
    """Where it stood in tokenizer_config.json it is moved to a file of its own, so that there are not two."""
    folder = tmp_path / "chatty"
    shutil.copytree(model, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", settings | {"chat_template": OWN, "name_or_path": str(tmp_path)})
    made = make(workspace, exportable_run(workspace, folder), "adapter").folder
    assert (made / "chat_template.jinja").read_text() == OWN
    assert {"chat_template", "name_or_path"}.isdisjoint(json.loads((made / "tokenizer_config.json").read_text()))
    assert "brings the chat template of its base" in (made / "README.md").read_text()


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_no_path_of_this_machine_is_in_it(workspace: Workspace, run: Run, model: Path, to: str) -> None:
    folder = make(workspace, with_template(run), to).folder
    for name, text in texts(folder).items():
        for path in (model.parent, workspace.root, Path(sys.prefix), Path.home(), Path(__file__).parents[1]):
            assert str(path) not in text, name
    files = {path.suffix for path in folder.iterdir()}
    assert files == {".safetensors", ".json", ".md", ".jinja"}, "nothing that could be run, nothing pickled"
    if to == "adapter":
        assert json.loads(texts(folder)["adapter_config.json"])["base_model_name_or_path"] == "little-llama"


def test_a_built_in_base_goes_by_its_hub_name_and_brings_its_notice(workspace: Workspace, model: Path) -> None:
    for name in BUILTIN_MODELS:
        shutil.copytree(model, workspace.models / name)
        write_json(workspace.models / name / "mixcpt.json", {})
        run = exportable_run(workspace, name, workspace.models / name)
        folder = make(workspace, run, "adapter").folder
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == BUILTIN_MODELS[name].hub
        notice = folder / "NOTICE"
        assert notice.exists() == ("gemma" in name)
        assert not notice.exists() or "Gemma Terms of Use" in notice.read_text()


# --- the merged model

FRESH = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder in sys.argv[1:]:
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not loading["missing_keys"] and not loading["unexpected_keys"], loading
    assert model.dtype == torch.bfloat16 and model.config.tie_word_embeddings
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 256
    assert model.generation_config.pad_token_id == 256
    ids = tokenizer("The miller", return_tensors="pt")
    model.lm_head.weight.data[256] = 0.0
    model.lm_head.weight.data[256] += 5 * model(**ids, output_hidden_states=True).hidden_states[-1][0, -1].detach()
    assert model.generate(**ids, max_new_tokens=20, do_sample=False)[0].tolist()[-1] == 256, "an end token ends it"
    assert len(model.generate(**ids, max_new_tokens=20, do_sample=False)[0]) == ids.input_ids.shape[1] + 1
"""


def test_merged_models_are_loaded_by_plain_transformers_and_end(
    workspace: Workspace, tiny_tokenizer_folder: Path, tmp_path: Path
) -> None:
    folders = []
    for family in FAMILIES:
        model = tiny_model(family, tmp_path / family, tiny_tokenizer_folder)
        folders.append(make(workspace, exportable_run(workspace, model), "merged").folder)
        assert {path.name for path in folders[-1].iterdir()} == {
            *("model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
            *("README.md", "export.json"),
        }
    done = subprocess.run([sys.executable, "-c", FRESH, *folders], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_generation_ends_wherever_an_answer_may(model: Path, tmp_path: Path) -> None:
    """What the base says, the tokenizer's end, and the end of turn of the template that was trained with."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(model, base)
    adapter.mkdir()
    write_json(base / "generation_config.json", {"eos_token_id": [7, 256], "temperature": 0.3, "do_sample": False,
                                                 "_from_model_config": True})  # fmt: skip
    assert generation_config(base, adapter) == {
        "eos_token_id": [7, 256], "pad_token_id": 7, "temperature": 0.3, "do_sample": False,
    }  # fmt: skip
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": 257, "content": "<turn>"})
    write_json(base / "tokenizer.json", tokenizer)
    (adapter / "chat_template.jinja").write_text(OWN.replace("eos_token", "'<turn>'"))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    write_json(base / "tokenizer_config.json", settings | {"pad_token": {"content": "<turn>"}})
    found = generation_config(base, adapter)
    assert (found["eos_token_id"], found["pad_token_id"]) == ([7, 256, 257], 257)
    (base / "generation_config.json").unlink()
    (adapter / "chat_template.jinja").write_text(NAMED["alpaca"])
    assert generation_config(base, adapter) == {"eos_token_id": 256, "pad_token_id": 257}


def test_a_base_whose_generation_config_contradicts_itself_is_merged_too(
    workspace: Workspace, model: Path, tmp_path: Path
) -> None:
    """Some published models have one that transformers reads, but refuses to write."""
    folder = tmp_path / "odd"
    shutil.copytree(model, folder)
    write_json(folder / "generation_config.json", {"eos_token_id": 256, "do_sample": False, "top_p": 0.5})
    made = make(workspace, exportable_run(workspace, folder), "merged").folder
    assert GenerationConfig.from_pretrained(made).top_p == 0.5


# --- the code that a card prints


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_the_code_in_the_card_runs(workspace: Workspace, run: Run, model: Path, to: str, tmp_path: Path) -> None:
    folder = make(workspace, with_template(run), to).folder
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    code = "\n".join(blocks).replace("path/to/this/folder", str(folder)).replace("path/to/little-llama", str(model))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# --- making it


def test_tasks_are_those_that_the_run_was_asked(workspace: Workspace, run: Run) -> None:
    made = make(workspace, run, "tasks")
    assert {"general.yaml", "general.jsonl", "README.md", "export.json"} <= {
        path.name for path in made.folder.iterdir()
    }
    assert (made.folder / "general.jsonl").read_text() == (run.folder / "tasks" / "general.jsonl").read_text()
    assert make(workspace, run, "tasks") == made


@pytest.mark.parametrize("to", ["adapter", "merged"])
def test_stopping_leaves_nothing_behind(workspace: Workspace, run: Run, to: str) -> None:
    def stop() -> None:
        raise Interrupted("Cancelled.")

    with pytest.raises(Interrupted):
        make(workspace, run, to, stop=stop)
    assert [path.name for path in (run.folder / "exports").iterdir()] == [f".{to}.lock"]


def test_what_a_killed_process_left_is_cleared_away(workspace: Workspace, run: Run) -> None:
    left = run.folder / "exports" / ".building-adapter-0123abcd"
    left.mkdir(parents=True)
    (left / "adapter_model.safetensors").write_bytes(b"half")
    make(workspace, run, "adapter")
    assert not left.exists()


def test_a_full_disk_is_said_beforehand(workspace: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(TooLittle, match=rf"Exporting run {run.id} \(merged\) needs .* GB of disk"):
        make(workspace, run, "merged")
    assert not (run.folder / "exports" / "merged").exists()


def test_too_little_memory_is_said_beforehand(workspace: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_gb", lambda: (8.0, 0.1))
    with pytest.raises(TooLittle, match=r"Merging run .* needs about 0\.7 GB of memory, but 0\.1 GB are free here"):
        make(workspace, run, "merged")
    make(workspace, run, "adapter")


def test_a_zip_holds_the_same_files_in_one_folder(workspace: Workspace, run: Run, tmp_path: Path) -> None:
    made = make(workspace, run, "adapter")
    assert made.zip is None
    with zipfile.ZipFile(pack(workspace, made)) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    unpacked = tmp_path / f"{run.id}-adapter"
    assert {p.name: p.read_bytes() for p in unpacked.iterdir()} == {
        p.name: p.read_bytes() for p in made.folder.iterdir()
    }
    run.relabel(name="other")
    assert make(workspace, run, "adapter").zip is None, "a zip of what was before must not be offered"


def test_the_job_exports_without_the_accelerator(workspace: Workspace, run: Run) -> None:
    """By a real worker, while somebody else has the accelerator."""
    job = submit(workspace, run, "merged", zipped=True, strength=0.5)
    with lease(workspace, "somebody else") as descriptor:
        assert descriptor is not None
        Supervisor(workspace).run_until([job.id], poll=0.1)
    assert (job.state, job.status.message[:23]) == ("done", "Exported merged at 0.5:"), job.tail(20)
    assert (run.folder / "exports" / "merged.zip").is_file()


def test_too_large_a_zip_is_not_made(workspace: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "ZIP_BYTES", 1000)
    job = submit(workspace, run, "adapter", zipped=True)
    worker.work(worker.JobContext(workspace, job))
    assert job.state == "done" and not (run.folder / "exports" / "adapter.zip").exists()
