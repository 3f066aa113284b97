"""Runs that are asked by lm-eval, against the model's own log-likelihoods and greedy words worked out here by hand."""

import json
import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from asked import MORE, QUESTIONS, new_run, plain_lm_eval, write
from transformers import AutoTokenizer

from mixcpt import answers, evaluation, grading, models, official
from mixcpt.config import EvaluationConfig
from mixcpt.errors import BadFile, BadInput, Interrupted, Unavailable
from mixcpt.evaluation import batch_size, evaluate
from mixcpt.grading import ask
from mixcpt.matching import contains, is_exact
from mixcpt.questions import question_sets
from mixcpt.runs import Run
from mixcpt.statistics import share_interval
from mixcpt.tasks import export_tasks
from mixcpt.tokens import TextTokenizer
from mixcpt.transcript import scores_in_short
from mixcpt.workspace import Workspace

PROMPTS = ["Who?", "What colour is it?", "The north?", "Where", "When is it late?", "2 + 2", "Rain", "A name"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Workspace:
    """A workspace with two sets with choices and an open one beside it, of which the tiny base gets some right."""
    folder = tmp_path_factory.mktemp("evaluation")
    write(folder / "six.jsonl", QUESTIONS)
    write(folder / "more.jsonl", MORE)
    model = models.load_base(tiny_model_folder, "cpu", "fp32")
    tokenizer = TextTokenizer.from_folder(tiny_model_folder)
    said = [greedy(model, tokenizer, prompt) for prompt in PROMPTS]
    accepted = [
        [text] if place % 3 else ["nothing", text.split()[-1] if text.split() else "x"]
        for place, text in enumerate(said)
    ]
    usable = [[answer for answer in texts if any(c.isalnum() for c in answer)] or ["none"] for texts in accepted]
    write(folder / "open.jsonl", [{"question": q, "answers": a} for q, a in zip(PROMPTS, usable, strict=True)])
    return Workspace(folder / "home")


def asks(home: Workspace, *names: str, **more: Any) -> dict[str, Any]:
    return {"tasks": [str(home.root.parent / f"{name}.jsonl") for name in names], "batch_size": 4, **more}


@pytest.fixture(scope="module")
def run(home: Workspace, tiny_model_folder: Path) -> Run:
    made = new_run(home, tiny_model_folder, 1, asks(home, "six", "more", "open"))
    evaluate(home, made)
    return made


def chosen(model: torch.nn.Module, tokenizer: TextTokenizer, questions: list[dict[str, Any]]) -> list[int]:
    """The index of the choice with the highest log-likelihood after the question and a space."""
    found = []
    for question in questions:
        scores = []
        for choice in question["choices"]:
            ids = torch.from_numpy(tokenizer.encode([f"{question['question']} {choice}"])[0]).long()
            start = len(question["question"].encode())
            with torch.no_grad():
                logp = model(ids[None]).logits[0].double().log_softmax(-1)
            scores.append(sum(logp[place - 1, ids[place]].item() for place in range(start, len(ids))))
        found.append(scores.index(max(scores)))
    return found


@torch.no_grad()
def greedy(model: torch.nn.Module, tokenizer: TextTokenizer, question: str) -> str:
    """32 bytes at most, one at a time without a cache, up to a line's end or the end token (256)."""
    ids = list(tokenizer.encode([f"Question: {question}\nAnswer:"])[0])
    written: list[int] = []
    while len(written) < 32:
        token = int(model(torch.tensor([[*ids, *written]])).logits[0, -1].argmax())
        if token == 256:
            break
        written.append(token)
        if "\n" in tokenizer.decode(written):
            break
    return tokenizer.decode(written).split("\n")[0].strip()


def sides(run: Run, model_folder: Path, look: Callable[[torch.nn.Module], Any]) -> dict[str, Any]:
    """What `look` sees of the base and of the run."""
    adapted = models.load_adapter(models.load_base(model_folder, "cpu", "fp32"), run.adapter, trainable=False)
    with adapted.disable_adapter():
        base = look(adapted)
    return {"base": base, "final": look(adapted)}


def test_lm_eval_chooses_what_the_models_own_likelihoods_choose(
    run: Run, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer
) -> None:
    results = run.results()["evaluation"]
    for task, questions in (("six", QUESTIONS), ("more", MORE)):
        picks = sides(run, tiny_model_folder, partial(chosen, tokenizer=tiny_tokenizer, questions=questions))
        for side, wanted in picks.items():
            right = [int(a == q["answer"]) for a, q in zip(wanted, questions, strict=True)]
            assert results[side][task]["correct"] == right
            kept = [getattr(one, side) for one in answers.read(run, task)]
            assert kept == [q["choices"][a] for a, q in zip(wanted, questions, strict=True)]
    assert results["base"]["more"]["accuracy"] != results["final"]["more"]["accuracy"], "the test would prove nothing"
    assert 0 < results["final"]["six"]["accuracy"] < 1


def test_lm_eval_writes_what_the_model_writes_greedily(
    run: Run, home: Workspace, tiny_model_folder: Path, tiny_tokenizer: TextTokenizer
) -> None:
    results = run.results()["evaluation"]
    accepted = [json.loads(line)["answers"] for line in (home.root.parent / "open.jsonl").read_text().splitlines()]
    said = sides(run, tiny_model_folder, lambda model: [greedy(model, tiny_tokenizer, prompt) for prompt in PROMPTS])
    for side, texts in said.items():
        score = results[side]["open"]
        assert [getattr(one, side) for one in answers.read(run, "open")] == texts
        assert score["correct"] == [float(contains(*pair)) for pair in zip(texts, accepted, strict=True)]
        assert score["measure"] == "contains" and score["accuracy"] == sum(score["correct"]) / 8
        exact = sum(is_exact(*pair) for pair in zip(texts, accepted, strict=True))
        assert score["exact"]["accuracy"] == exact / 8
        assert score["exact"]["interval"] == pytest.approx(share_interval(exact, 8))
    base = results["base"]["open"]
    assert 0 < base["exact"]["accuracy"] < base["accuracy"], "the test would prove nothing"


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
    assert run.results()["evaluation"]["final"]["open"]["chance"] == 0


def test_how_each_set_was_asked_is_kept(run: Run) -> None:
    results = run.results()["evaluation"]
    assert {task: how["kind"] for task, how in results["asked"].items()} == {
        "six": "choice", "more": "choice", "open": "open",
    }  # fmt: skip
    how = results["asked"]["six"]
    assert (how["precision"], how["device"], how["batch_size"]) == ("fp32", "cpu", 4)
    assert how["finished"] == results["finished"] and results["unavailable"] == {}
    in_short = scores_in_short(results, run.config.evaluation, [])
    assert [text.split(" ")[0] for text in in_short] == ["six", "more", "open"]


def test_questions_about_one_fact_count_together() -> None:
    """Eight questions about two facts, all right: what is known of two facts, not of eight."""
    questions = [{"choices": ["a", "b"], "answer": 0, "meta": {"subject": n // 4}} for n in range(8)]
    samples = [{"doc_id": n, "acc": 1.0, "filtered_resps": [(-1.0, True), (-2.0, False)]} for n in range(8)]

    def interval(questions: list[dict[str, Any]]) -> Any:
        return grading._scored(grading.Asked("t", None, questions), samples)[0].interval

    assert interval(questions) == share_interval(2, 2)
    assert interval([{"choices": ["a", "b"], "answer": 0} for _ in range(8)]) == share_interval(8, 8)


def test_a_question_of_digits_only_is_asked_as_text(
    tiny_model_folder: Path, tiny_tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    """lm-eval would take the number for the index of a choice."""
    questions: list[dict[str, Any]] = [
        {"question": str(n), "choices": ["ab", "cd", "ef"], "answer": n % 3} for n in range(6)
    ]
    model = models.load_base(tiny_model_folder, "cpu", "fp32")
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_model_folder))
    found = chosen(model, tiny_tokenizer, questions)
    wanted = [int(answer == question["answer"]) for answer, question in zip(found, questions, strict=True)]
    assert ask(model, tokenizer, {"digits": questions}, tmp_path / "tasks", 4)["digits"].correct == wanted


def test_the_gain_is_final_minus_base(run: Run) -> None:
    results = run.results()["evaluation"]
    for task in ("six", "more", "open"):
        gain = results["gain"][task]
        wanted = results["final"][task]["accuracy"] - results["base"][task]["accuracy"]
        assert gain["difference"] == pytest.approx(wanted)
        assert gain["interval"][0] <= gain["difference"] <= gain["interval"][1]
    exact = [results[side]["open"]["exact"] for side in ("base", "final")]
    assert results["gain"]["open"]["exact"]["difference"] == pytest.approx(exact[1]["accuracy"] - exact[0]["accuracy"])
    assert results["precision"] == "fp32"


def test_batch_size_moves_no_answer_in_fp32(run: Run, home: Workspace, tiny_model_folder: Path, tmp_path: Path) -> None:
    """Accuracies and the answer to every question, with choices and open; under the adapter, which is less sure."""
    adapted = models.load_adapter(models.load_base(tiny_model_folder, "cpu", "fp32"), run.adapter, trainable=False)
    tokenizer = AutoTokenizer.from_pretrained(str(tiny_model_folder))
    sets = grading_sets(home)
    one, four, sixteen = (ask(adapted, tokenizer, sets, tmp_path / str(size), size) for size in (1, 4, 16))
    assert one == four == sixteen
    assert len(one["open"].given) == 8 and len(set(one["open"].given)) > 1


def grading_sets(home: Workspace) -> dict[str, Any]:
    return question_sets(EvaluationConfig(**asks(home, "six", "more", "open")))


@pytest.mark.parametrize(("precision", "at_once"), [("fp32", 4), ("bf16", 1), ("nf4", 1)])
def test_questions_are_asked_one_at_a_time_in_few_bits(precision: str, at_once: int) -> None:
    assert batch_size(EvaluationConfig(batch_size=4), precision) == at_once


def options_of(command: str) -> list[str]:
    words = shlex.split(command)
    assert words[0] == "lm_eval"
    return words[1:]


def test_the_plain_lm_eval_command_gives_the_same_numbers(
    home: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The most independent check there is, and what a reader of our numbers would do: the command that the results
    name, word for word, from another directory, offline. In bf16, where the least difference in how it is asked shows.
    """
    run = new_run(home, tiny_model_folder, 5, asks(home, "six", "more", "open"), precision="bf16")
    ours = evaluate(home, run)
    (command,) = run.results()["evaluation"]["commands"]
    same_numbers(plain_lm_eval(options_of(command), tmp_path), ours["final"])


def test_exported_tasks_give_the_same_numbers_after_the_run_is_gone(
    run: Run, home: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """In fp32, at another batch size, from a folder that was moved."""
    folder = export_tasks(home, run, tmp_path / "first")
    shutil.copytree(run.adapter, tmp_path / "adapter")
    shutil.move(folder, tmp_path / "moved")
    arguments = f"pretrained={tiny_model_folder},peft={tmp_path / 'adapter'},dtype=float32"
    options = ["--model", "hf", "--model_args", arguments, "--device", "cpu", "--include_path", str(tmp_path / "moved")]
    options += ["--tasks", "mixcpt_six,mixcpt_more,mixcpt_open", "--batch_size", "2"]
    same_numbers(plain_lm_eval(options, tmp_path), run.results()["evaluation"]["final"])


def same_numbers(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    for task in ("six", "more"):
        assert theirs[f"mixcpt_{task}"]["acc,none"] == ours[task]["accuracy"]
    assert theirs["mixcpt_open"]["contains,none"] == ours["open"]["accuracy"]
    assert theirs["mixcpt_open"]["exact,none"] == ours["open"]["exact"]["accuracy"]


def test_the_base_is_asked_once_per_model_and_set(
    run: Run, home: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = grading.answered

    def counting(model: Any, tokenizer: Any, one: grading.Asked, *more: Any) -> Any:
        asked.append(one.name)
        return real(model, tokenizer, one, *more)

    monkeypatch.setattr(evaluation, "answered", counting)
    again = new_run(home, tiny_model_folder, 2, asks(home, "more", "six"))
    results = evaluate(home, again)
    assert asked == ["more", "six"], "only the run itself: the base had been asked for the run before"
    assert results["base"]["six"] == run.results()["evaluation"]["base"]["six"]
    asked.clear()
    evaluate(home, again, EvaluationConfig(**asks(home, "six", items=3, batch_size=1)))
    assert asked == ["six", "six"], "other questions: the base is asked anew"
    evaluate(home, again, EvaluationConfig(**asks(home, "six", items=3, batch_size=16)))
    assert asked == ["six"] * 3, "the batch size makes no other questions"
    monkeypatch.setattr(evaluation, "version", lambda name: f"another {name}")
    evaluate(home, again, EvaluationConfig(**asks(home, "six", items=3)))
    assert asked == ["six"] * 5, "another lm-eval may answer otherwise"


def test_asking_again_replaces_that_set_only(run: Run, home: Workspace, tiny_model_folder: Path) -> None:
    made = new_run(home, tiny_model_folder, 1, asks(home, "six", "more"))
    first = evaluate(home, made)
    second = evaluate(home, made, EvaluationConfig(**asks(home, "six", items=2, batch_size=1)))
    assert second["final"]["six"]["items"] == 2 and len(answers.read(made, "six")) == 2
    assert second["asked"]["six"]["batch_size"] == 1
    for part in ("base", "final", "gain", "asked"):
        assert second[part]["more"] == first[part]["more"] and list(second[part]) == ["six", "more"]
    assert len(answers.read(made, "more")) == 8
    assert len((made.folder / "tasks" / "six.jsonl").read_text().splitlines()) == 2
    assert made.results()["evaluation"] == json.loads(json.dumps(second))


def test_a_request_to_stop_is_heard_in_the_middle_and_loses_nothing(home: Workspace, tiny_model_folder: Path) -> None:
    made = new_run(home, tiny_model_folder, 3, asks(home, "six", batch_size=1))
    before = evaluate(home, made)
    heard: list[str] = []

    def check() -> None:
        heard.append("")
        if len(heard) == 4:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        evaluate(home, made, EvaluationConfig(**asks(home, "six", items=5, batch_size=1)), check=check)
    assert made.results()["evaluation"] == json.loads(json.dumps(before)) and len(answers.read(made, "six")) == 6
    assert len((made.folder / "tasks" / "six.jsonl").read_text().splitlines()) == 6
    assert not list(home.root.glob(".asking-*")), "nothing is left lying about"


def test_nothing_to_ask_and_nothing_to_be_asked(home: Workspace, tiny_model_folder: Path) -> None:
    made = new_run(home, tiny_model_folder, 3, {"tasks": []})
    with pytest.raises(BadInput, match=f"nothing to ask run {made.id}: name a question set, for example general"):
        evaluate(home, made)
    shutil.rmtree(made.adapter)
    with pytest.raises(BadFile, match="holds no adapter"):
        evaluate(home, made, EvaluationConfig(**asks(home, "six")))


# ---- lm-eval's own tasks ---------------------------------------------------------------------------------------------


class Official:
    """What evaluation uses of one of lm-eval's tasks, its questions as if the hub had given them."""

    def __init__(self, folder: Path, questions: list[dict[str, Any]], name: str = "arc_easy"):
        from lm_eval.tasks import TaskManager

        from mixcpt.tasks import write_tasks

        write_tasks({name: questions}, folder)
        task = TaskManager(include_path=str(folder), include_defaults=False).load([f"mixcpt_{name}"])["tasks"]
        self.task = task[f"mixcpt_{name}"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that has arc_easy and nothing else."""

    def load(name: str, shots: int | None = None) -> Any:
        if name != "arc_easy":
            raise Unavailable(f"lm-eval:{name} could not be asked, because its data set could not be had.")
        return Official(tmp_path / "hub", MORE).task

    monkeypatch.setattr(official, "load", load)


def test_an_official_task_is_asked_beside_ours(hub: None, run: Run, home: Workspace, tiny_model_folder: Path) -> None:
    config: dict[str, Any] = asks(home, "more")
    config["tasks"] += ["lm-eval:arc_easy", "lm-eval:hellaswag"]
    made = new_run(home, tiny_model_folder, 1, config)
    results = evaluate(home, made)
    assert results["final"]["arc_easy"] == {**results["final"]["more"], "task": "arc_easy"}
    assert results["asked"]["arc_easy"]["kind"] == "official"
    assert results["unavailable"] == {
        "hellaswag": "lm-eval:hellaswag could not be asked, because its data set could not be had."
    }
    words = ["yes", "no"]
    assert [one.right for one in answers.read(made, "arc_easy")] == [[f" {words[n % 2]}"] for n in range(8)]
    assert "mixcpt_more,arc_easy" in results["commands"][0]
    again = evaluate(home, made, EvaluationConfig(tasks=["lm-eval:arc_easy"], items=5, batch_size=4))
    assert again["final"]["arc_easy"]["items"] == 5 and list(again["unavailable"]) == ["hellaswag"]
    chosen = json.loads((made.folder / "tasks" / "samples.json").read_text())
    assert len(chosen["arc_easy"]) == 5 and "--samples" in again["commands"][0]
    right = [results["final"]["arc_easy"]["correct"][index] for index in chosen["arc_easy"]]
    assert again["final"]["arc_easy"]["correct"] == right


def test_an_official_task_that_fails_inside_lm_eval_stops_no_other(
    hub: None, home: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mixcpt import asking

    real = asking.samples_of

    def failing(model: Any, tokenizer: Any, task: Any, *more: Any) -> Any:
        if "arc_easy" in task.task_name:
            raise ZeroDivisionError("division by zero")
        return real(model, tokenizer, task, *more)

    monkeypatch.setattr(asking, "samples_of", failing)
    config = asks(home, "six")
    config["tasks"].append("lm-eval:arc_easy")
    results = evaluate(home, new_run(home, tiny_model_folder, 1, config))
    assert list(results["final"]) == ["six"]
    assert "failed inside lm-eval (ZeroDivisionError: division by zero)" in results["unavailable"]["arc_easy"]


def test_an_official_task_without_right_answers_is_refused() -> None:
    samples: list[dict[str, Any]] = [
        {"metrics": ["word_perplexity"], "word_perplexity": (-12.0, 4), "arguments": [("a",)], "target": ""}
    ]
    one = grading.Asked("wikitext", None, [], [0])
    with pytest.raises(Unavailable, match=r"lm-eval:wikitext counts no right answers .it has word_perplexity.: choose"):
        grading._scored(one, samples)


def test_an_official_question_stands_without_its_examples() -> None:
    """Or whatever drew an example that is in the training text would count as seen."""
    shown = "Q: One?\nA: 1\n\nQ: Two?\nA:"
    task = SimpleNamespace(doc_to_text=lambda doc: f"Q: {doc['asked']}\nA:")
    sample = {"arguments": [(shown, " 2"), (shown, " 3")], "target": 0, "doc": {"asked": "Two?"}}
    assert grading._as_question(sample, task)["question"] == "Q: Two?\nA:"
    unlike = SimpleNamespace(doc_to_text=lambda doc: 3)
    assert grading._as_question(sample, unlike)["question"] == shown, "where the task says otherwise, all of it"


def test_a_text_that_is_only_compared_is_given_where_it_would_be_written() -> None:
    """As in lambada: one request a question, its log-likelihood and whether it is what greedy decoding writes."""

    def given(is_greedy: bool) -> Any:
        return grading._given({"filtered_resps": [(-1.5, is_greedy)], "arguments": [("She opened the", " door")]})

    assert (given(True), given(False)) == ("door", "")
