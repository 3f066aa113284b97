"""How long a page of the studio takes to answer, over the real server, while a training is running.

    python bench/pages.py [--runs 200] [--documents 100000] [--visits 30] [--idle]

A workspace is filled with many runs and a large corpus, the server is started on it, a real training of the built-in
model runs in a worker beside it (not with --idle), and a client speaks the browser's protocol: it asks for a page and
waits for the message that its script has finished. Drawing in the browser comes on top. Prints a table in
milliseconds: median and 95th percentile over the visits, in turn over all pages.
"""

import argparse
import asyncio
import itertools
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect

from mixcpt.align_drafts import begin, stage_after
from mixcpt.builtin import open_source
from mixcpt.corpus import ingest_records
from mixcpt.drafts import Drafts, default_stage
from mixcpt.exchanges import Answer, Exchanges, Question, Sampling, Voice
from mixcpt.exchanges import begin as begin_exchange
from mixcpt.jobs import Jobs
from mixcpt.modelstore import ensure_model
from mixcpt.records import Message, Record
from mixcpt.runs import Run, Runs
from mixcpt.scores import ScoredSample, ScoreTable
from mixcpt.settings import override, validate
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace, now

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from made import made_chain, made_run  # noqa: E402 (the tests' maker of runs)

PAGES = ("home", "corpora", "mixture", "launch", "runs", "selection", "talk", "compare", "notebook")
SAMPLES = 5000
"""Scored samples of the Selection page."""
ANSWER = 200
"""Tokens of an answer on the Talk page."""
WORDS = [
    "river",
    "stone",
    "lantern",
    "orchard",
    "market",
    "harbour",
    "winter",
    "ledger",
    "copper",
    "garden",
    "bridge",
    "teacher",
    "window",
    "valley",
]


def fill(workspace: Workspace, runs: int, documents: int) -> tuple[str, str]:
    """Runs, a large corpus and a draft that reads it; returns the draft's and one run's id."""
    tokenizer = TextTokenizer.from_folder(ensure_model(workspace, "smollm2-135m", progress=print))
    for source in ("builtin/atlas", "builtin/replay", "builtin/instructions", "builtin/preferences", "builtin/general"):
        open_source(workspace, source, tokenizer)
    chosen = np.random.default_rng(0).integers(len(WORDS), size=(documents, 60))
    records = (
        Record(kind="documents", text=f"Note {number}. " + " ".join(WORDS[word] for word in row), file="bench")
        for number, row in enumerate(chosen.tolist())
    )
    ingest_records(workspace, "large", records, files=[], tokenizer=tokenizer)
    for number in range(runs):
        made_run(workspace, experiment=f"experiment-{number % 8}", arm=f"arm {number}", steps=200, seed=number)
    tokens = 40 * documents
    stage = override(
        default_stage(),
        {"mixture.sources.0.source": "large", "mixture.budget_tokens": tokens, "mixture.row_tokens": 128},
    )
    draft = Drafts(workspace).create(stage, "experiment-0")
    return draft.id, Runs(workspace).all()[-1].id


def score_samples(workspace: Workspace) -> str:
    """Scores of as many samples as a workbench of them has to hold; returns their id."""
    random = np.random.default_rng(1)
    chosen = random.integers(len(WORDS), size=(SAMPLES, 120))
    losses = random.normal(2.5, 0.6, size=(SAMPLES, 2)).clip(0.05)
    samples = []
    for number, (row, (template, plain)) in enumerate(zip(chosen.tolist(), losses.tolist(), strict=True)):
        words = [WORDS[word] for word in row]
        turns = (Message("user", " ".join(words[:40])), Message("assistant", " ".join(words[40:])))
        scores = {"loss_template": template, "loss_plain": plain, "alignment_response": template / plain}
        record = Record("instructions", messages=turns).to_json()
        samples.append(ScoredSample(f"s{number}", record, 160, 100, scores))
    info = {"id": "bench", "source": "bench", "kind": "instructions", "run": None, "model": "smollm2-135m"}
    ScoreTable(info | {"template": None, "created": now()}, samples).save(workspace)
    return "bench"


def chain(workspace: Workspace) -> dict[str, str]:
    """What to ask of the pages of stage two: a draft after the second run of a chain, the page of its last, and a
    conversation with all of them."""
    runs = made_chain(workspace, experiment="chain")
    _, sft, dpo = runs
    draft = begin(workspace, stage_after(workspace, sft), sft)
    talk = f"run={dpo.id}&talk={converse(workspace, runs)}"
    return {"align": f"draft={draft.id}", "runs (the last of a chain)": f"run={dpo.id}", "talk (4 answers)": talk}


def converse(workspace: Workspace, runs: Sequence[Run]) -> str:
    """A question that the base and these runs have answered at length; returns the id of the exchange."""
    for run in runs:
        run.adapter.mkdir(exist_ok=True)
        for name in ("adapter_model.safetensors", "adapter_config.json"):  # looked for, not loaded
            (run.adapter / name).touch()
    random, models = np.random.default_rng(2), len(runs) + 1
    voices = [Voice(), *(Voice(run=run.id) for run in runs)]
    answers = []
    for voice in voices:
        ids = random.integers(len(WORDS), size=ANSWER).tolist()
        pieces = [f" {WORDS[id]}" for id in ids]
        nats = random.gamma(2.0, size=(models, ANSWER)).tolist()
        stage = voice.run.partition("-")[0] if voice.run else "base"
        one = Answer(
            voice.run, 1.0, voice.run or "base", stage, ids, pieces, "".join(pieces), "length", 20.0, nats=nats
        )
        answers.append(one)
    messages = [Message("user", "Which river flows through the valley?")]
    plain = [asdict(message) for message in messages]
    asked = validate(Question, {"voices": voices, "messages": plain, "sampling": Sampling()}, "the benchmark")
    exchange = begin_exchange(asked, answers, [plain] * models)
    exchange.state, exchange.base = "done", "smollm2-135m"
    Exchanges(workspace).save(exchange)
    return exchange.id


def start_training(workspace: Workspace) -> None:
    """A long run of the real built-in model; the server's own supervisor takes it from the queue."""
    stage = override(default_stage(), {"mixture.budget_tokens": 2_000_000, "evaluation.tasks": []})
    run = Runs(workspace).create(stage, experiment="bench", arm="training")
    Jobs(workspace).submit("train", {}, run=run.id)


class Client:
    """One browser session, without the browser."""

    def __init__(self, socket: ClientConnection):
        self.socket = socket
        self.pages: dict[str, str] = {}

    async def visit(self, page: str, query: str) -> float:
        """Milliseconds from the question to the end of the page's script."""
        message = BackMsg()
        message.rerun_script.query_string = query
        message.rerun_script.page_script_hash = self.pages.get(page, "")
        message.rerun_script.page_name = "" if self.pages else page
        start = time.perf_counter()
        await self.socket.send(message.SerializeToString())
        while True:
            answer = ForwardMsg()
            answer.ParseFromString(bytes(await self.socket.recv()))  # type: ignore[arg-type]
            kind = answer.WhichOneof("type")
            if kind == "navigation":
                self.pages = {one.url_pathname or "home": one.page_script_hash for one in answer.navigation.app_pages}
            if kind == "delta" and answer.delta.new_element.WhichOneof("type") == "exception":
                raise SystemExit(f"{page}: {answer.delta.new_element.exception.message}")
            if kind == "script_finished":
                return 1000 * (time.perf_counter() - start)


async def measure(port: int, queries: dict[str, str], visits: int) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {page: [] for page in queries}
    async with connect(f"ws://localhost:{port}/_stcore/stream", subprotocols=["streamlit"], max_size=None) as socket:  # type: ignore[list-item]
        client = Client(socket)
        await client.visit("home", "")
        for page, query in queries.items():  # the first visit fills the caches, as a person's first visit does
            print(f"first visit of {page}: {await client.visit(page.partition(' ')[0], query):.0f} ms", file=sys.stderr)
        for _, (page, query) in itertools.product(range(visits), queries.items()):
            taken[page].append(await client.visit(page.partition(" ")[0], query))
            await asyncio.sleep(0.05)
    return taken


def serve(workspace: Workspace) -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "streamlit", "run", "app/main.py", "--server.port", str(port)]
    environment = {**os.environ, "MIXCPT_HOME": str(workspace.root)}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=1)
            return server, port
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


def wait_for_training(workspace: Workspace) -> None:
    run = next(run for run in Runs(workspace).all() if run.info.experiment == "bench")
    while not run.losses():
        time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--visits", type=int, default=30)
    parser.add_argument("--idle", action="store_true", help="no training beside")
    parser.add_argument("--models", type=Path, help="a workspace's models folder to take the built-in model from")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        workspace = Workspace(root)
        if options.models:
            (workspace.models / "smollm2-135m").symlink_to(options.models.absolute() / "smollm2-135m")
        draft, run = fill(workspace, options.runs, options.documents)
        if not options.idle:
            start_training(workspace)
        server, port = serve(workspace)
        try:
            asyncio.run(measure(port, {"home": ""}, 0))  # the first session starts the supervisor
            if not options.idle:
                wait_for_training(workspace)
            queries = {page: f"draft={draft}" if page in ("mixture", "launch") else "" for page in PAGES}
            queries |= {f"selection ({SAMPLES:,} samples)": f"scores={score_samples(workspace)}&choice=choice-bench"}
            queries |= chain(workspace)
            queries |= {"corpora (the large one)": "corpus=large", "runs (one run)": f"run={run}"}
            queries |= {"compare (8 runs)": "runs=" + ",".join(one.id for one in Runs(workspace).all()[:8])}
            queries |= {"notebook (25 runs)": "experiment=experiment-0"}
            taken = asyncio.run(measure(port, queries, options.visits))
        finally:
            for job in Jobs(workspace).all():
                Jobs(workspace).request_cancel(job)
            server.terminate()
            server.wait()
    print("| page | median ms | 95th percentile ms |\n| --- | ---: | ---: |")
    for page, values in taken.items():
        print(f"| {page} | {statistics.median(values):.0f} | {np.percentile(values, 95):.0f} |")


if __name__ == "__main__":
    main()
