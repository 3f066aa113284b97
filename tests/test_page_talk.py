"""The Talk page: who can be asked, a conversation, and everything that can come between a question and its answer."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapted import adapted_run, end_process
from made import made_chain, made_run, open_page, texts
from streamlit.testing.v1 import AppTest

from app import answer as answer_module
from app import strip, talk_answers, talk_asking
from app.words import plain
from mixcpt.errors import Busy, MixcptError, NotFound, Unavailable
from mixcpt.exchanges import BROKEN_OFF, Answer, Exchange, Question, begin
from mixcpt.runs import Run
from mixcpt.settings import override, to_yaml
from mixcpt.workspace import Workspace

NASTY = "<script>alert(1)</script> **x** $y$ :red[z]\nsecond line"
TRAINING = "Training wells has the machine; Talk goes on when it is done."


class Process:
    """Stands in for the inference process: what it was asked, and what it says next."""

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.exchanges: dict[str, Exchange] = {}
        self.stopped: list[str] = []
        self.unloaded = 0
        self.busy: str | None = None
        self.problem: MixcptError | None = None
        self.base: str | None = None

    def __call__(self, workspace: Workspace) -> "Process":
        return self

    def status(self) -> dict[str, Any]:
        return {"running": True, "busy": self.busy, "base": self.base}

    def put(self, question: Question) -> str:
        if self.problem:
            raise self.problem
        self.questions.append(question)
        exchange = begin(question, [_blank(voice.run, voice.strength) for voice in question.voices], [])
        self.exchanges[exchange.id] = exchange
        return exchange.id

    def exchange(self, id: str) -> Exchange:
        if id not in self.exchanges:
            raise NotFound(f"There is no exchange {id}: ask again.")
        return self.exchanges[id]

    def stop(self, id: str) -> None:
        self.stopped.append(id)
        self.exchanges[id].end("stopped", "Stopped; what was written until then is kept.")

    def unload(self) -> None:
        self.unloaded += 1

    @property
    def last(self) -> Exchange:
        return self.exchanges[max(self.exchanges)]

    def write(self, *texts: str, state: str = "writing") -> None:
        """Let the answers of the latest exchange be these texts, a token a letter; the first differs from the rest."""
        for number, (one, text) in enumerate(zip(self.last.answers, texts, strict=True)):
            one.text, one.pieces, one.ids, one.seconds = text, list(text), [ord(letter) for letter in text], 2.0
            if number:
                one.differs = {"token": 0, "start": 0, "stop": 1}
            if state == "done":
                one.ended = "length"
                one.nats = [[float(1 + abs(number - other))] * len(text) for other in range(len(texts))]
        self.last.state = state


def _blank(run: str | None, strength: float) -> Answer:
    return Answer(run, strength, run or "base", run.partition("-")[0] if run else "base")


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    made = Process()
    monkeypatch.setattr(talk_asking, "Client", made)
    return made


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, Any]]]:
    """What the components were given, by key; AppTest does not show it."""
    found: dict[str, dict[str, Any]] = {}

    def component(*, key: str, data: dict[str, Any], **rest: object) -> dict[str, Any]:
        found[key] = data
        return {}

    monkeypatch.setattr(answer_module, "_COMPONENT", component)
    monkeypatch.setattr(strip, "_COMPONENT", component)
    yield found


@pytest.fixture
def chain(studio: Workspace) -> tuple[Run, Run, Run]:
    runs = made_chain(studio)
    for run in runs:
        with_adapter(run)
    return runs


def with_adapter(run: Run) -> Run:
    run.adapter.mkdir(exist_ok=True)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (run.adapter / name).write_bytes(b"{}")
    return run


def ask(app: AppTest, text: str = "Why?") -> AppTest:
    return app.chat_input[0].set_value(text).run()


def plain_texts(app: AppTest) -> str:
    """What the page says, escapes taken away."""
    return texts(app).replace("\\", "")


def test_without_a_finished_run_it_says_what_to_do(studio: Workspace, process: Process) -> None:
    made_run(studio)  # as a recorded one: without a whole adapter
    app = open_page("talk")
    assert "Nobody to talk to yet" in texts(app) and "recorded runs ship without" in texts(app)
    assert not app.exception and not app.chat_input


def test_the_whole_chain_answers_by_default(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = ask(open_page("talk", run=chain[2].id))
    assert not app.exception
    (question,) = process.questions
    assert [voice.run for voice in question.voices] == [None, *(run.id for run in chain)]
    assert question.sampling.temperature == 0 and question.template is None and question.after is None
    assert app.query_params["talk"] == process.last.id


def test_the_newest_run_is_chosen_and_another_can_be(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = open_page("talk")
    assert app.selectbox(key="talk_run").value == chain[2].id
    app.selectbox(key="talk_run").set_value(chain[0].id).run()
    assert app.query_params["run"] == chain[0].id
    ask(app)
    assert [voice.run for voice in process.questions[0].voices] == [None, chain[0].id]


def test_a_run_that_cannot_be_asked_is_told(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = open_page("talk", run="cpt-<b>gone")
    assert "has no finished adapter to talk to" in texts(app) and "<b>" not in texts(app).replace("\\<", "")
    assert app.selectbox(key="talk_run").value == chain[2].id


def test_strength_settings_and_models_go_into_the_question(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = open_page("talk", run=chain[1].id)
    app.slider(key="talk_strength").set_value(0.5).run()
    app.number_input(key="talk_temperature").set_value(0.7).run()
    app.number_input(key="talk_seed").set_value(9).run()
    app.number_input(key="talk_max_new_tokens").set_value(20).run()
    app.selectbox(key="talk_template").set_value("none").run()
    app.button_group(key=f"talk_models_{chain[1].id}").set_value(["base", chain[1].id]).run()
    ask(app, "How?")
    (question,) = process.questions
    assert [(voice.run, voice.strength) for voice in question.voices] == [(None, 1.0), (chain[1].id, 0.5)]
    sampling = question.sampling
    assert (sampling.temperature, sampling.seed, sampling.max_new_tokens, question.template) == (0.7, 9, 20, "none")
    assert question.messages[0].content == "How?"


def test_runs_with_trained_embeddings_answer_whole(chain: tuple[Run, Run, Run], process: Process) -> None:
    for run in chain:
        (run.folder / "config.yaml").write_text(to_yaml(override(run.config, {"adapter.vocabulary": True})))
    app = open_page("talk", run=chain[1].id)
    assert not app.slider and "These answer as they were trained" in plain_texts(app)
    ask(app)
    assert {voice.strength for voice in process.questions[0].voices} == {1.0} and not app.exception


def test_a_setting_that_does_not_fit_is_told_and_nothing_can_be_asked(
    chain: tuple[Run, Run, Run], process: Process
) -> None:
    app = open_page("talk", run=chain[0].id)
    app.number_input(key="talk_top_p").set_value(1.5).run()
    assert "Top p is 1.5, but" in plain_texts(app) and app.chat_input[0].proto.disabled
    app.number_input(key="talk_top_p").set_value(0.9).run()
    assert not app.error and not app.chat_input[0].proto.disabled


def test_without_a_model_it_asks_for_one(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = open_page("talk", run=chain[0].id)
    app.button_group(key=f"talk_models_{chain[0].id}").set_value([]).run()
    assert "Choose at least one model" in texts(app) and not app.chat_input


def test_examples_are_one_click_and_one_is_about_the_atlas(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = open_page("talk")
    assert "Which river flows through" in app.button(key="talk_example_0").label
    app.button(key="talk_example_0").click().run()
    assert process.questions[0].messages[0].content.startswith("Which river flows through")
    assert "talk_example_0" not in [button.key for button in app.button]


def test_answers_are_shown_as_they_grow_and_can_be_stopped(
    chain: tuple[Run, Run, Run], process: Process, drawn: dict[str, dict[str, Any]]
) -> None:
    app = ask(open_page("talk", run=chain[0].id), NASTY)
    assert "Waiting for its turn" in texts(app) and app.chat_input[0].proto.disabled
    process.write("The Aller", "A river")
    app.run()
    first, second = (drawn[f"talk_answer_{process.last.id}_{number}"] for number in (0, 1))
    assert (first["before"], first["mark"], first["writing"]) == ("The Aller", None, True)
    assert (second["before"], second["mark"], second["after"]) == ("", "A", " river")
    assert "here 'A', there 'T'" in second["note"]
    assert drawn[f"talk_question_{process.last.id}"]["before"] == NASTY
    assert "7 tokens · 3\\.5 tokens/s" in texts(app) or "7 tokens · 3.5 tokens/s" in texts(app)
    app.button(key="talk_stop").click().run()
    assert process.stopped == [process.last.id]
    assert "what was written until then is kept" in texts(app) and not app.chat_input[0].proto.disabled
    assert not app.exception


def test_a_finished_exchange_says_how_likely_each_answer_is(
    chain: tuple[Run, Run, Run], process: Process, drawn: dict[str, dict[str, Any]]
) -> None:
    app = ask(open_page("talk", run=chain[0].id))
    process.write("abc", "xy", state="done")
    app.run()
    table = app.dataframe[0].value
    assert table["0"].tolist() == [-1.0, -2.0] and table["1"].tolist() == [-2.0, -1.0]
    assert table["Likeliest for"].tolist() == ["Base", "Knowledge"]
    assert "cut at the longest answer" in texts(app) and "same seed (0)" in plain_texts(app)
    app.button_group(key="talk_unit").set_value("whole answer").run()
    assert app.dataframe[0].value["0"].tolist() == [-3.0, -4.0]
    app.button_group(key="talk_view").set_value("Tokens").run()
    chips = drawn[f"talk_strip_{process.last.id}_1"]["tokens"]
    assert [chip["text"] for chip in chips] == ["x", "y"] and [chip["group"] for chip in chips] == [1, 0]
    assert "Base: 13.5 %" in chips[1]["detail"] and chips[1]["value"] == pytest.approx(1 / 6)
    assert not app.exception


def test_a_conversation_goes_on_and_a_new_one_begins(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = ask(open_page("talk", run=chain[0].id), "First?")
    process.write("a", "b", state="done")
    first = process.last.id
    ask(app.run(), "Second?")
    assert process.questions[1].after == first and len(app.chat_message) == 2
    process.write("c", "d", state="done")
    app.run().button(key="talk_again").click().run()
    assert process.questions[2].after == first and process.questions[2].messages[0].content == "Second?"
    process.write("e", "f", state="done")
    app.run().button(key="talk_new").click().run()
    assert "talk" not in app.query_params and not app.chat_message
    ask(app, "Third?")
    assert process.questions[3].after is None


def test_each_set_of_models_keeps_its_conversation(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = ask(open_page("talk", run=chain[0].id), "Both?")
    process.write("a", "b", state="done")
    pills = app.run().button_group(key=f"talk_models_{chain[0].id}")
    app = pills.set_value([chain[0].id]).run()
    assert not app.chat_message
    app = app.button_group(key=f"talk_models_{chain[0].id}").set_value(["base", chain[0].id]).run()
    assert len(app.chat_message) == 1


def test_a_reload_goes_on_with_the_conversation(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = open_page("talk", run=chain[2].id)
    app.button_group(key=f"talk_models_{chain[2].id}").set_value(["base", chain[2].id]).run()
    ask(app)
    again = open_page("talk", talk=process.last.id)
    assert again.selectbox(key="talk_run").value == chain[2].id and len(again.chat_message) == 1
    assert again.button_group(key=f"talk_models_{chain[2].id}").value == ["base", chain[2].id]
    assert "Waiting for its turn" in texts(again)


def test_an_address_of_no_exchange_is_told(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = open_page("talk", talk="talk-0")
    assert "There is no exchange talk" in plain_texts(app) and "talk" not in app.query_params
    assert not app.exception and app.chat_input


def test_while_a_job_has_the_machine_a_question_waits_and_is_then_asked(
    chain: tuple[Run, Run, Run], process: Process
) -> None:
    process.busy, process.problem = TRAINING, Busy(TRAINING)
    app = ask(open_page("talk", run=chain[0].id), "Patience?")
    assert TRAINING in plain_texts(app) and "Your question is asked then: Patience" in plain_texts(app)
    assert app.chat_input[0].proto.disabled and not process.questions
    process.busy = process.problem = None
    app.run()
    assert process.questions[0].messages[0].content == "Patience?" and "Waiting for its turn" in texts(app)


def test_a_question_that_waits_can_be_dropped(chain: tuple[Run, Run, Run], process: Process) -> None:
    process.busy, process.problem = TRAINING, Busy(TRAINING)
    app = ask(open_page("talk", run=chain[0].id))
    app.button(key="talk_drop").click().run()
    assert TRAINING not in plain_texts(app) and not app.chat_input[0].proto.disabled


def test_a_refusal_right_after_the_machine_was_free_does_not_ask_in_circles(
    chain: tuple[Run, Run, Run], process: Process
) -> None:
    process.problem = Busy("16 questions wait already: wait for their answers.")
    app = ask(open_page("talk", run=chain[0].id))
    assert "16 questions wait already" in texts(app) and not app.exception


def test_an_interrupted_exchange_is_asked_again_by_itself(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = ask(open_page("talk", run=chain[0].id), "Again?")
    process.write("half", "ha")
    process.last.end("interrupted", TRAINING)
    process.busy = TRAINING
    app.run()
    assert TRAINING in plain_texts(app) and len(process.questions) == 1
    process.busy = None
    app.run()
    assert [question.messages[0].content for question in process.questions] == ["Again?", "Again?"]
    assert len(app.chat_message) == 1 and not app.exception


def test_an_interrupted_exchange_that_was_given_up_stays_so(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = ask(open_page("talk", run=chain[0].id))
    process.last.end("interrupted", TRAINING)
    process.busy = TRAINING
    app.run().button(key="talk_drop").click().run()
    process.busy = None
    app.run()
    assert len(process.questions) == 1 and TRAINING in plain_texts(app) and not app.chat_input[0].proto.disabled


def test_a_process_that_was_killed_is_one_sentence_and_a_way_on(
    chain: tuple[Run, Run, Run], process: Process, drawn: dict[str, dict[str, Any]]
) -> None:
    app = ask(open_page("talk", run=chain[0].id), "Killed?")
    process.write("half", "ha")
    process.last.end("failed", BROKEN_OFF)
    app.run()
    assert "perhaps killed for want of memory" in app.error[0].value
    assert drawn[f"talk_answer_{process.last.id}_0"]["before"] == "half"
    app.button(key="talk_again").click().run()
    assert len(process.questions) == 2 and not app.error


def test_a_question_that_is_refused_is_kept(chain: tuple[Run, Run, Run], process: Process) -> None:
    process.problem = NotFound("The model m is not here (any more): `mixcpt model add m` fetches it.")
    app = ask(open_page("talk", run=chain[0].id), "Kept?")
    assert "is not here (any more)" in plain_texts(app) and "Not asked yet: Kept" in plain_texts(app)
    process.problem = None
    app.button(key="talk_retry").click().run()
    assert process.questions[0].messages[0].content == "Kept?" and not app.error


def test_a_process_that_does_not_answer_is_told_and_the_page_goes_on(
    chain: tuple[Run, Run, Run], process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = ask(open_page("talk", run=chain[0].id))

    def hang(id: str) -> Exchange:
        raise Unavailable("The inference process did not answer within 5 seconds: try again.")

    monkeypatch.setattr(process, "exchange", hang)
    app.run()
    assert "did not answer within 5 seconds" in plain_texts(app) and not app.exception


def test_what_is_in_memory_can_be_freed(chain: tuple[Run, Run, Run], process: Process) -> None:
    process.base = "smollm2-135m (bf16 on cpu)"
    app = open_page("talk")
    app.session_state["talk_how"] = True
    app.run()
    assert "In memory: smollm2-135m" in plain_texts(app)
    app.button(key="talk_unload").click().run()
    assert process.unloaded == 1


def test_a_run_that_can_be_asked_has_a_way_to_here(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = open_page("runs", run=chain[1].id)
    app.button(key="runs_talk").click().run()
    assert app.title[0].value == "Talk" and app.query_params["run"] == chain[1].id


def test_names_and_answers_are_shown_as_they_were_typed(studio: Workspace, process: Process) -> None:
    name = NASTY.replace("\n", " ")
    run = with_adapter(made_run(studio, name=name))
    app = ask(open_page("talk", run=run.id), NASTY)
    process.write("a", "b", state="done")
    process.last.answers[1].title = name
    app.run()
    said = "\n".join(str(element.value) for element in [*app.markdown, *app.caption, *app.error, *app.info])
    assert "**x**" not in said and "<script>" not in said and plain(name) in said and not app.exception


def test_answers_without_a_word_say_so(chain: tuple[Run, Run, Run], process: Process) -> None:
    app = ask(open_page("talk", run=chain[0].id))
    process.write("", "", state="done")
    process.last.answers[0].ids, process.last.answers[0].pieces = [0], ["<end>"]
    app.run()
    assert "Its first token ended" in texts(app) or "its first token ended" in texts(app)
    assert "It did not come to a word" in texts(app) and not app.exception


def test_short_names_tell_apart() -> None:
    base, first, second = (
        Answer(None, 1.0, "base", "base"),
        Answer("sft-1", 1.0, "a", "sft"),
        Answer("sft-2", 0.5, "b", "sft"),
    )
    assert talk_answers.short_names([base, first]) == ["Base", "SFT"]
    assert talk_answers.short_names([base, first, second]) == ["Base", "SFT · a", "SFT · b at 0.5"]


def test_with_the_real_process(studio: Workspace, tiny_model_folder: Path, drawn: dict[str, dict[str, Any]]) -> None:
    """From the box to the table, by a run of two layers."""
    run = adapted_run(studio, tiny_model_folder)
    try:
        app = open_page("talk", run=run.id)
        app.number_input(key="talk_max_new_tokens").set_value(4).run()
        ask(app, "Which river?")
        deadline = time.monotonic() + 90
        while not app.dataframe:
            assert time.monotonic() < deadline and not app.exception and not app.error
            time.sleep(0.3)
            app.run()
        assert app.dataframe[0].value.shape == (2, 4) and "plain text without a chat template" in texts(app)
        assert "In memory" not in texts(app)  # that is told where it can be freed
    finally:
        end_process(studio)
