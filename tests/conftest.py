"""What several tests need: a workspace, a tokenizer whose tokens are bytes, and the shared data where it lies."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from mixcpt.corpus import ingest_records
from mixcpt.processes import THREADS
from mixcpt.records import Record
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

os.environ.update(THREADS | os.environ)  # as workers have it; before torch is imported anywhere

_SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of data for developers, which does not ship with the library."""
    if not _SHARED.is_dir():
        pytest.skip(f"the shared data is not at {_SHARED}")
    return _SHARED


@pytest.fixture(scope="session")
def tiny_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of 257 tokens: one a byte, so that tokens are counted by hand, and "<eos>"."""
    folder = tmp_path_factory.mktemp("tiny-tokenizer")
    letters = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_tokenizer_folder: Path) -> TextTokenizer:
    return TextTokenizer.from_folder(tiny_tokenizer_folder)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home")


@pytest.fixture
def quick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that need not be timed."""
    from mixcpt import doctor
    from mixcpt.machine import Machine, Timings

    machine = Machine(
        cpu="c", cores=2, memory_gb=32, memory_available_gb=8.0, disk_free_gb=100, python="3", torch="2",
        cuda=None, cuda_missing="no GPU", bitsandbytes="1", nf4_missing=None,
        timings=Timings(fp32=100.0, bf16=100.0, cpu="c", threads=2, torch="2"),
    )  # fmt: skip
    monkeypatch.setattr(doctor, "machine", lambda workspace: machine)


@pytest.fixture
def studio(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace as that of the app, for AppTest; jobs stay queued, for no supervisor takes them."""
    import streamlit

    from mixcpt.supervisor import Supervisor

    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    monkeypatch.setattr(Supervisor, "start_thread", lambda self, poll=0.5: None)
    streamlit.cache_resource.clear()
    streamlit.cache_data.clear()
    return workspace


@pytest.fixture(scope="session")
def tiny_model_folder(tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: a random Llama of two layers over the byte tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    shutil.copytree(tiny_tokenizer_folder, folder, dirs_exist_ok=True)
    from tiny import llama

    llama(tied=True).save_pretrained(folder)
    return folder


PROSE = (
    "The miller of {0} weighs the sacks twice and writes the sums in a blue book. On market days the road to {0} is "
    "full of carts, and the children count them from the wall. Rain came late to {0}, so the barley stands short this "
    "year."
)


@pytest.fixture
def small_corpora(workspace: Workspace, tiny_tokenizer: TextTokenizer) -> Workspace:
    """A workspace with two corpora of short prose: `field` (the domain) and `world` (general)."""
    for name, places in (("field", range(40)), ("world", range(100, 140))):
        records = [Record(kind="documents", text=PROSE.format(f"place {place}"), file="test") for place in places]
        ingest_records(workspace, name, records, files=[], tokenizer=tiny_tokenizer)
    return workspace


Cli = Callable[..., tuple[int, str, str]]
"""The command line: takes its arguments, gives exit code, stdout and stderr."""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process."""
    from mixcpt.cli import main

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def home(small_corpora: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace of `small_corpora` as that of the command line, whose jobs run inside this process."""
    from in_process import InProcess
    from test_machine import PLAIN

    from mixcpt import machine, supervisor

    monkeypatch.setenv("MIXCPT_HOME", str(small_corpora.root))
    monkeypatch.setattr(supervisor, "Supervisor", InProcess)
    machine.keep(small_corpora, PLAIN)
    return small_corpora
