"""Questions asked by lm-eval, against the model's own log-likelihoods summed up here by hand."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from mixcpt import evaluation, models
from mixcpt.config import AdapterConfig, EvaluationConfig, Stage, validate
from mixcpt.errors import BadFile, Interrupted
from mixcpt.evaluation import ask, evaluate, question_sets, read_questions
from mixcpt.runs import Run, Runs
from mixcpt.statistics import share_interval
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

QUESTIONS = [
    {"question": "The capital of the north is", "choices": ["Aldermoor", "Brack", "Corwen"], "answer": 0},
    {"question": "Who keeps the blue book?", "choices": ["the miller", "the smith"], "answer": 1},
    {"question": "Größe in €:", "choices": ["fünf", "zehn", "elf", "zwölf 😀"], "answer": 0},
    {"question": "One and one is", "choices": ["2", "3"], "answer": 0},
    {"question": 'It\'s a "quoted" {{ brace }} question', "choices": ["it's", 'a "b"', "[c]"], "answer": 2},
    {"question": "Rain came", "choices": ["late", "early", "never"], "answer": 0},
]
MORE = [{"question": f"Is {n} even?", "choices": ["yes", "no"], "answer": n % 2} for n in range(8)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with two question sets beside it."""
    folder = tmp_path_factory.mktemp("evaluation")
    for name, questions in (("six", QUESTIONS), ("more", MORE)):
        write(folder / f"{name}.jsonl", questions)
    return Workspace(folder / "home")


def write(path: Path, questions: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(question, ensure_ascii=False) + "\n" for question in questions))
    return path


def new_run(home: Workspace, model: Path, seed: int, **more: Any) -> Run:
    """A run whose adapter was not trained, but drawn at random: all that questions need."""
    stage = {
        "model": {"name": str(model), "precision": "fp32", "device": "cpu"},
        "mixture": {"sources": [{"source": "builtin/atlas", "share": 1, "domain": True}]},
        "evaluation": {"tasks": [str(home.root.parent / f"{name}.jsonl") for name in ("six", "more")], "batch_size": 4},
    }
    run = Runs(home).create(validate(Stage, {**stage, **more}, "the test"), experiment="test")
    adapted = models.attach_adapter(models.load_base(model, "cpu", "fp32"), AdapterConfig(rank=4), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(str(run.adapter))
    return run


@pytest.fixture(scope="module")
def run(home: Workspace, tiny_model_folder: Path) -> Run:
    made = new_run(home, tiny_model_folder, seed=1)
    evaluate(home, made)
    return made


def answers(model: torch.nn.Module, tokenizer: TextTokenizer, questions: list[dict[str, Any]]) -> list[int]:
    """The index of the choice with the highest log-likelihood after the question and a space."""
    chosen = []
    for question in questions:
        scores = []
        for choice in question["choices"]:
            ids = torch.from_numpy(tokenizer.encode([f"{question['question']} {choice}"])[0]).long()
            start = len(question["question"].encode())
            with torch.no_grad():
                logp = model(ids[None]).logits[0].double().log_softmax(-1)
            scores.append(sum(logp[place - 1, ids[place]].item() for place in range(start, len(ids))))
        chosen.append(scores.index(max(scores)))
    return chosen


def test_lm_eval_chooses_what_the_models_own_likelihoods_choose(
    run: Run, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer
) -> None:
    results = run.results()["evaluation"]
    adapted = models.load_adapter(models.load_base(tiny_model_folder, "cpu", "fp32"), run.adapter, trainable=False)
    for task, questions in (("six", QUESTIONS), ("more", MORE)):
        right = [
            int(a == q["answer"]) for a, q in zip(answers(adapted, tiny_tokenizer, questions), questions, strict=True)
        ]
        assert results["final"][task]["correct"] == right
        with adapted.disable_adapter():
            chosen = answers(adapted, tiny_tokenizer, questions)
        right = [int(a == q["answer"]) for a, q in zip(chosen, questions, strict=True)]
        assert results["base"][task]["correct"] == right
    assert results["base"]["more"]["accuracy"] != results["final"]["more"]["accuracy"], "the test would prove nothing"
    assert 0 < results["final"]["six"]["accuracy"] < 1


def test_a_score_says_all_it_takes_to_believe_it(run: Run) -> None:
    final = run.results()["evaluation"]["final"]["six"]
    right = sum(final["correct"])
    assert final["items"] == 6 and final["accuracy"] == right / 6
    assert final["chance"] == pytest.approx((1 / 3 + 1 / 2 + 1 / 4 + 1 / 2 + 1 / 3 + 1 / 3) / 6)
    assert final["majority"] == pytest.approx(4 / 6)  # four answers are the first choice
    # Wilson: centre (p + z²/2n) / (1 + z²/n), half z·sqrt(p(1-p)/n + z²/4n²) / (1 + z²/n), with z² = 3.84146
    p, z2 = right / 6, 3.841458821
    centre, half = (p + z2 / 12) / (1 + z2 / 6), z2**0.5 * (p * (1 - p) / 6 + z2 / 144) ** 0.5 / (1 + z2 / 6)
    assert final["interval"] == pytest.approx([centre - half, centre + half])


def test_questions_about_one_fact_count_together() -> None:
    """Eight questions about two facts, all right: what is known of two facts, not of eight."""
    questions = [{"choices": ["a", "b"], "answer": 0, "meta": {"subject": n // 4}} for n in range(8)]
    samples = [{"doc_id": n, "acc": 1.0} for n in range(8)]
    assert evaluation._score("t", questions, samples).interval == share_interval(2, 2)
    alone = [{"choices": ["a", "b"], "answer": 0} for _ in range(8)]
    assert evaluation._score("t", alone, samples).interval == share_interval(8, 8)


def test_a_question_of_digits_only_is_asked_as_text(
    tiny_model_folder: Path, tiny_tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    """lm-eval would take the number for the index of a choice."""
    questions: list[dict[str, Any]] = [
        {"question": str(n), "choices": ["ab", "cd", "ef"], "answer": n % 3} for n in range(6)
    ]
    model = models.load_base(tiny_model_folder, "cpu", "fp32")
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_model_folder))
    chosen = answers(model, tiny_tokenizer, questions)
    wanted = [int(answer == question["answer"]) for answer, question in zip(chosen, questions, strict=True)]
    assert ask(model, tokenizer, {"digits": questions}, tmp_path / "tasks", 4)["digits"].correct == wanted


def test_the_base_is_asked_anew_on_another_device_and_by_another_lm_eval(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(device: str) -> Path:
        return evaluation._base_answers(workspace, "model", device, "bf16", {"six": QUESTIONS}, 8)

    cpu = kept("cpu")
    assert kept("cpu") == cpu != kept("cuda")
    monkeypatch.setattr(evaluation, "version", lambda name: f"another {name}")
    assert kept("cpu") != cpu


def test_the_gain_is_final_minus_base(run: Run) -> None:
    results = run.results()["evaluation"]
    for task in ("six", "more"):
        gain = results["gain"][task]
        assert gain["difference"] == results["final"][task]["accuracy"] - results["base"][task]["accuracy"]
        assert gain["interval"][0] <= gain["difference"] <= gain["interval"][1]
    assert results["precision"] == "fp32"


def test_the_base_is_asked_once_per_model_and_question_sets(
    run: Run, home: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def fake(model: Any, tokenizer: Any, sets: dict[str, Any], folder: Path, batch_size: int) -> Any:
        asked.append(sorted(sets))
        return {
            task: evaluation.Score(task, 0.5, (0.0, 1.0), len(questions), 0.5, 0.5, [1] * len(questions))
            for task, questions in sets.items()
        }

    monkeypatch.setattr(evaluation, "ask", fake)
    again = new_run(home, tiny_model_folder, seed=2)
    results = evaluate(home, again)
    assert asked == [["more", "six"]], "only the run itself: the base had been asked for the run before"
    assert results["base"] == run.results()["evaluation"]["base"]
    tasks = [str(home.root.parent / "six.jsonl")]
    other = new_run(home, tiny_model_folder, seed=2, evaluation={"tasks": tasks, "batch_size": 4})
    asked.clear()
    evaluate(home, other)
    assert asked == [["six"], ["six"]], "other questions: the base is asked anew"
    evaluate(home, other)
    assert asked == [["six"]] * 3


def test_a_request_to_stop_is_heard_between_the_parts(home: Workspace, tiny_model_folder: Path) -> None:
    made = new_run(home, tiny_model_folder, seed=3)

    def check() -> None:
        raise Interrupted("stop")

    with pytest.raises(Interrupted):
        evaluate(home, made, check=check)
    assert made.results() == {}


def test_batch_size_does_not_move_scores_in_fp32(home: Workspace, tiny_model_folder: Path, tmp_path: Path) -> None:
    model = models.load_base(tiny_model_folder, "cpu", "fp32")
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_model_folder))
    scores = [ask(model, tokenizer, {"six": read_questions(home.root.parent / "six.jsonl")}, tmp_path / str(size), size)
              for size in (1, 4)]  # fmt: skip
    assert scores[0] == scores[1]


def test_the_plain_lm_eval_command_gives_the_same_accuracies(run: Run, tiny_model_folder: Path, tmp_path: Path) -> None:
    """The most independent check there is, and what a reader of our numbers would do: on the saved adapter and the task
    folder that the run keeps, from another directory, offline."""
    arguments = f"pretrained={tiny_model_folder},peft={run.adapter},dtype=float32"
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", arguments, "--device", "cpu"]
    command += ["--tasks", "mixcpt_six,mixcpt_more", "--include_path", str(run.folder / "tasks")]
    command += ["--batch_size", "2", "--output_path", str(tmp_path / "out")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(written.read_text())["results"]
    ours = run.results()["evaluation"]["final"]
    for task in ("six", "more"):
        assert theirs[f"mixcpt_{task}"]["acc,none"] == pytest.approx(ours[task]["accuracy"], abs=1e-9)


def test_built_in_sets_have_their_names_and_sizes() -> None:
    sets = question_sets(EvaluationConfig(tasks=["general", "atlas"]))
    assert list(sets) == ["general", "atlas_recall", "atlas_two_step"]
    assert all(0 <= q["answer"] < len(q["choices"]) for questions in sets.values() for q in questions)
    some = question_sets(EvaluationConfig(tasks=["general"], items=10))
    assert len(some["general"]) == 10
    assert some == question_sets(EvaluationConfig(tasks=["general"], items=10)), "the same ten every time"
    places = [sets["general"].index(question) for question in some["general"]]
    assert places == sorted(places) and places != list(range(10)), "drawn from all, in their order"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question": "q", "choices": ["a", "b"]}', "'answer'"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "answer must be the index of a choice, 0 to 1"),
        ('{"question": "q", "choices": ["a", "b"], "answer": -1}', "answer must be the index"),
        ('{"question": "q", "choices": ["a", "b"], "answer": true}', "answer must be the index"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 0.5}', "answer must be the index"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "a"}', "answer must be the index"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', "two or more"),
        ('{"question": "q", "choices": "ab", "answer": 0}', "a list"),
        ('{"question": 3, "choices": ["a", "b"], "answer": 0}', "question must be text"),
        ('["q"]', "indices"),
        ("not json", "Expecting value"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, reason: str) -> None:
    good = json.dumps(QUESTIONS[0])
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{good}\n\n{good}\n{line}\n{good}\n")
    with pytest.raises(BadFile, match=r"^Line 4 of .*questions\.jsonl is no question \(.*write \{") as caught:
        read_questions(path)
    assert reason in str(caught.value)


def test_files_that_hold_no_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"no question set .*nowhere\.jsonl'.*existing JSONL file"):
        read_questions(tmp_path / "nowhere.jsonl")
    with pytest.raises(BadFile, match="no question set"):
        read_questions(tmp_path)
    path = tmp_path / "x.jsonl"
    path.write_text("\n \n")
    with pytest.raises(BadFile, match="holds no questions"):
        read_questions(path)
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(BadFile, match="not UTF-8"):
        read_questions(path)


def test_marks_and_unusual_line_ends_inside_a_question_do_no_harm(tmp_path: Path) -> None:
    """U+2028 may stand in JSON as it is, and Python's splitlines would break the line there."""
    path = tmp_path / "x.jsonl"
    line = json.dumps({"question": "a\u2028b", "choices": ["1", 2], "answer": 1}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n".encode())
    assert read_questions(path) == [{"question": "a\u2028b", "choices": ["1", "2"], "answer": 1}]


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    """Task names come from file names; the second would silently take the place of the first."""
    one = write(tmp_path / "set.jsonl", QUESTIONS)
    two = write(tmp_path / "set.v2.jsonl", MORE)
    with pytest.raises(BadFile, match="would be called 'set', which is taken: rename"):
        question_sets(EvaluationConfig(tasks=[str(one), str(two)]))
    for name in ("general", "atlas_recall", "domain"):
        path = write(tmp_path / f"{name}.jsonl", MORE)
        with pytest.raises(BadFile, match=f"would be called '{name}'"):
            question_sets(EvaluationConfig(tasks=[str(path)]))
