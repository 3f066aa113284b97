"""A further corpus after a run: the adapter goes on, is held against the base or the run before, and the chain says so.

The teacher's reference is another model: the parent's adapter loaded from disk into a second copy of the base.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from made import made_chain, made_run, stage_of
from test_training import At, adapter_digest, losses, quiet, stage

from mixcpt import charts, facts, models
from mixcpt.align_drafts import named, usual_for
from mixcpt.chains import links, start_of
from mixcpt.compare import compare
from mixcpt.corpus import ingest_records
from mixcpt.drafts import Draft, Drafts
from mixcpt.errors import BadConfig, BadInput, Interrupted
from mixcpt.further import begin, further_stage, rebased, with_field
from mixcpt.jobs import Jobs
from mixcpt.journal import journal
from mixcpt.launching import launch_draft
from mixcpt.lineage import continuing
from mixcpt.records import Record
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.stages import follow
from mixcpt.teacher import final_hidden, teacher_mode
from mixcpt.teaching import RunTeacher
from mixcpt.tokens import TextTokenizer
from mixcpt.training import train
from mixcpt.workspace import Workspace

OTHER = "Under the quay of {0} lie the ropes of the ferry, tarred and wound in three coils; nobody rows on a Friday."


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: TextTokenizer) -> Workspace:
    from conftest import PROSE

    workspace = Workspace(tmp_path_factory.mktemp("further") / "home")
    for name, text, places in (
        ("field", PROSE, range(40)),
        ("world", PROSE, range(100, 140)),
        ("sea", OTHER, range(40)),
    ):
        records = [Record(kind="documents", text=text.format(f"place {place}"), file="test") for place in places]
        ingest_records(workspace, name, records, files=[], tokenizer=tiny_tokenizer)
    return workspace


@pytest.fixture(scope="module")
def first(home: Workspace, tiny_model_folder: Path) -> Run:
    """A knowledge run on `field` that moved far enough from the base to be told from it."""
    config = stage(tiny_model_folder, mixture__budget_tokens=1500, training__learning_rate=2e-2)
    run = Runs(home).create(config, experiment="chain", name="inland")
    train(home, run, say=quiet)
    return run


def continued(home: Workspace, parent: Run, **changes: Any) -> Run:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    made = further_stage(parent, "sea", {"mixture.budget_tokens": 1500} | dotted)
    return Runs(home).create(made, experiment="chain", parent=parent.id)


def adapter_of(run: Run) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run.adapter / "adapter_model.safetensors")


# Training


def test_the_adapter_goes_on_where_the_run_before_ended(home: Workspace, first: Run) -> None:
    second = continued(home, first, training__learning_rate=1e-9)
    train(home, second, say=quiet)
    before, after = adapter_of(first), adapter_of(second)
    assert before.keys() == after.keys()  # the same rank, and no second adapter
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    base, start = second.curve()[:2]
    assert base["under"] == "base" and base["measure"]["prompt_kl"] == pytest.approx(0, abs=1e-9)
    ended = first.curve()[-1]["measure"]
    for name in ("general_bits_per_byte", "prompt_kl"):  # its field is another one
        assert start["measure"][name] == ended[name]
    assert base["measure"]["general_bits_per_byte"] == first.curve()[0]["measure"]["general_bits_per_byte"]


def test_it_learns_the_new_field(home: Workspace, first: Run) -> None:
    second = continued(home, first)
    results = train(home, second, say=quiet)
    start = start_of(second.curve())
    assert start and results["final"]["domain_bits_per_byte"] < start["domain_bits_per_byte"] - 0.1
    row = compare([second])[0]
    assert row["parent_stage"] == "cpt" and row["tokens_before"] == first.results()["training"]["tokens"]
    assert row["domain_gain_start"] == pytest.approx(
        results["base"]["domain_bits_per_byte"] - start["domain_bits_per_byte"]
    )
    # the tokens of `field` are none of this run's field
    share = sum(s["realised_share"] for s in results["mixture"]["sources"] if s["source"] == "sea")
    assert row["domain_tokens"] == round(results["tokens"] * share)


def test_another_adapter_under_the_same_name_is_noticed(home: Workspace, first: Run, tmp_path: Path) -> None:
    copy = Runs(home).create(first.config, experiment="chain")
    shutil.copytree(first.adapter, copy.adapter)
    second = continued(home, copy, training__checkpoint_steps=1)

    def stop() -> None:
        if second.losses():
            raise Interrupted("enough")

    with pytest.raises(Interrupted):
        train(home, second, say=quiet, check=stop)
    other = {name: tensor + 1 for name, tensor in adapter_of(first).items()}
    from safetensors.torch import save_file

    save_file(other, copy.adapter / "adapter_model.safetensors")
    with pytest.raises(BadInput, match="The parent changed since"):
        train(home, second, say=quiet)


def test_a_parent_without_an_adapter_is_told(home: Workspace, first: Run) -> None:
    parent = Runs(home).create(first.config, experiment="chain")
    with pytest.raises(BadInput, match="has no finished adapter"):
        train(home, continued(home, parent), say=quiet)


def test_a_chat_template_of_the_chain_is_kept(home: Workspace, first: Run) -> None:
    parent = Runs(home).create(follow(first.config, "sft"), experiment="chain", parent=first.id)
    shutil.copytree(first.adapter, parent.adapter)
    (parent.adapter / "chat_template.jinja").write_text("{{ messages }}")
    second = continued(home, parent)
    train(home, second, say=quiet)
    assert (second.adapter / "chat_template.jinja").read_text() == "{{ messages }}"


# Held against the run before


def batch(vocabulary: int = 257) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, vocabulary, (2, 24), generator=torch.Generator().manual_seed(1))
    return ids, torch.arange(24).expand(2, 24), ids


def test_the_run_before_teaches_whatever_the_student_has_become(first: Run, tiny_model_folder: Path) -> None:
    student = models.load_adapter(models.load_base(tiny_model_folder, "cpu", "fp32"), first.adapter)
    frozen = models.load_adapter(models.load_base(tiny_model_folder, "cpu", "fp32"), first.adapter, trainable=False)
    teacher = RunTeacher(student)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3)
    moved = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    student.train()
    ids, positions, labels = batch()
    states = teacher.states(student, ids, positions, labels)
    with torch.no_grad():
        expected = final_hidden(frozen.eval(), ids, positions).flatten(0, 1)
        own = final_hidden(student.eval(), ids, positions).flatten(0, 1)
    assert torch.equal(states, expected) and not torch.allclose(states, own, atol=1e-2)
    assert not states.requires_grad
    for name, parameter in student.named_parameters():
        assert torch.equal(parameter, moved[name])
    with teacher_mode(student):
        base = final_hidden(student, ids, positions).flatten(0, 1)
    assert not torch.allclose(states, base, atol=1e-2)


def test_no_cast_of_the_teachers_weights_is_left_for_the_student(first: Run, tiny_model_folder: Path) -> None:
    """Under autocast a weight's cast is kept for the step: PEFT's own layers would then compute with the teacher's."""
    student = models.load_adapter(models.load_base(tiny_model_folder, "cpu", "bf16"), first.adapter)
    teacher = RunTeacher(student)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3)
    ids, positions, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        alone = final_hidden(student, ids, positions)
    with torch.autocast("cpu", torch.bfloat16):
        teacher.states(student, ids, positions, labels)
        after = final_hidden(student, ids, positions)
    assert torch.equal(alone, after) and after.requires_grad


def test_held_only_against_the_run_before_nothing_moves_at_first(home: Workspace, first: Run) -> None:
    """Plain KL without cross-entropy is 0 where student and teacher are the same, and far from 0 against the base."""
    only = {"objective__retention": "kl", "objective__ce_weight": 0.0}
    against_run = continued(home, first, **only, objective__against="parent")
    train(home, against_run, say=quiet)
    assert against_run.losses()[0]["retention"] == pytest.approx(0, abs=1e-6)
    assert not (against_run.folder / "teacher.json").exists()  # nothing of it is cached
    against_base = continued(home, first, **only)
    train(home, against_base, say=quiet)
    assert against_base.losses()[0]["retention"] > 0.05
    assert against_base.curve()[-1]["measure"]["prompt_kl"] < against_base.curve()[1]["measure"]["prompt_kl"]


def test_a_stopped_run_is_held_against_the_same(home: Workspace, first: Run) -> None:
    changes = {"objective__against": "parent", "training__checkpoint_steps": 2, "objective__retention_weight": 3.0}
    whole, stopped = (continued(home, first, **changes) for _ in range(2))
    train(home, whole, say=quiet)
    asked: list[int] = []

    def check() -> None:
        if asked:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        train(home, stopped, say=quiet, check=check, callbacks=(At(3, lambda **_: asked.append(1)),))
    asked.clear()
    train(home, stopped, say=quiet)
    assert losses(stopped) == losses(whole) and adapter_digest(stopped) == adapter_digest(whole)


def test_the_base_alone_cannot_be_the_run_before(home: Workspace, first: Run) -> None:
    with pytest.raises(BadInput, match="continues none: set it to 'base'"):
        Runs(home).create(override(first.config, {"objective.against": "parent"}), experiment="chain")


def test_trained_embeddings_are_held_by_what_comes_after(home: Workspace, tiny_model_folder: Path) -> None:
    config = stage(tiny_model_folder, mixture__budget_tokens=600, adapter__vocabulary=True)
    parent = Runs(home).create(config, experiment="chain")
    train(home, parent, say=quiet)
    second = continued(home, parent, mixture__budget_tokens=600, objective__against="parent")
    train(home, second, say=quiet)
    before, after = adapter_of(parent), adapter_of(second)
    whole = [name for name in before if "embed_tokens" in name]
    assert whole and all(torch.equal(before[name], after[name]) for name in whole)
    moved = [name for name in before if "lora_B" in name and not torch.equal(before[name], after[name])]
    assert moved


# Drafts and words


def test_what_a_further_stage_takes_over(workspace: Workspace) -> None:
    given = {"training__learning_rate": 3e-4, "mixture__domain_documents": 5, "adapter__rank": 8}
    _, _, dpo = made_chain(workspace, stage=stage_of(**given))
    made = further_stage(dpo, "wells", {"objective.against": "parent"})
    assert made.training.learning_rate == 3e-4 and made.adapter.rank == 8 and made.objective.against == "parent"
    assert [(s.source, s.share, s.domain) for s in made.mixture.sources] == [
        ("wells", 60, True),
        ("builtin/replay", 20, False),
        ("builtin/instructions", 12, False),
        ("builtin/preferences", 8, False),
    ]
    assert made.mixture.domain_documents is None and made.evaluation.tasks == ["general"]
    assert further_stage(dpo).mixture.domain_sources() == ["builtin/atlas"]
    with pytest.raises(BadConfig, match=f"adapter.rank cannot be set, for it is that of {dpo.id}"):
        further_stage(dpo, "wells", {"adapter.rank": 4})


def test_a_field_takes_the_share_of_the_one_before() -> None:
    both = stage_of(mixture__sources=[
        {"source": "a", "share": 30, "domain": True}, {"source": "b", "share": 20, "domain": True},
        {"source": "c", "share": 50},
    ])  # fmt: skip
    assert [(s.source, s.share) for s in with_field(both, "c").mixture.sources] == [("c", 50)]
    assert [(s.source, s.share) for s in with_field(both, "d").mixture.sources] == [("d", 50), ("c", 50)]
    none = stage_of(mixture__sources=[{"source": "c", "share": 40}])
    assert [(s.source, s.share) for s in with_field(none, "d").mixture.sources] == [("d", 60), ("c", 40)]


def test_a_stage_that_does_not_fit_its_parent_is_refused(workspace: Workspace) -> None:
    parent = made_run(workspace)
    for changes, sentence in (
        ({"adapter.rank": 4}, "adapter.rank is 4, but"),
        ({"model.name": "gemma-3-270m"}, "model.name is 'gemma-3-270m', but"),
        ({"adapter.vocabulary": True}, "adapter.vocabulary is True, but"),
    ):
        with pytest.raises(BadInput, match=sentence):
            continuing(override(further_stage(parent, "wells"), changes), parent)


def test_a_draft_that_continues_a_run_waits_for_it_in_the_queue(workspace: Workspace, small_corpora: Workspace) -> None:
    parent = made_run(workspace, state="running", name="inland")
    draft = named(workspace, begin(workspace, parent, "field"))
    assert draft.name == "inland + field" and isinstance(Drafts(workspace).get(draft.id), Draft)
    run = launch_draft(workspace, draft)
    assert run.info.parent == parent.id and run.info.experiment == "trial" and run.info.stage == "cpt"
    jobs = Jobs(workspace).all()
    training = next(job for job in jobs if job.run == parent.id and job.kind == "train")
    assert next(job for job in jobs if job.run == run.id and job.kind == "train").after == [training.id]
    assert usual_for(run).mixture.domain_sources() == ["builtin/atlas"]  # what it has special is its corpus


def test_another_run_is_continued_instead(workspace: Workspace) -> None:
    one, other = made_run(workspace), made_run(workspace, experiment="else", stage=stage_of(adapter__rank=4))
    draft = begin(workspace, one, "wells")
    moved = rebased(draft, one, other)
    assert (moved.parent, moved.experiment, moved.stage.adapter.rank) == (other.id, "else", 4)
    kept = rebased(moved.model_copy(update={"experiment": "mine"}), other, one)
    assert (kept.experiment, kept.stage.adapter.rank) == ("mine", 32)
    held = draft.model_copy(update={"stage": override(draft.stage, {"objective.against": "parent"})})
    alone = rebased(held, one, None)
    assert alone.parent is None and alone.stage.objective.against == "base"


def chain_of_fields(workspace: Workspace) -> tuple[Run, Run]:
    """Two corpora in a row; the second run's curve begins with the base and the first one's end."""
    first = made_run(workspace, name="inland")
    made = further_stage(first, "wells")
    second = Runs(workspace).create(made, experiment="trial", name="at sea", parent=first.id)
    base = {"domain_bits_per_byte": 2.0, "general_bits_per_byte": 1.25, "prompt_kl": 0.0}
    start = first.curve()[-1]["measure"] | {"domain_bits_per_byte": 1.9}
    end = start | {"domain_bits_per_byte": 1.5}
    second.append({"step": 0, "tokens": 0, "measure": base, "under": "base"})
    second.append({"step": 0, "tokens": 0, "measure": start})
    loss = {"loss": 1.0, "learning_rate": 1e-3, "seconds": 1.0, "memory_bytes": 1}
    second.append({"step": 1, "tokens": 512, **loss})
    second.append({"step": 1, "tokens": 512, "measure": end})
    training = {"finished": "2026-01-01T00:00:00Z", "tokens": 512, "steps": 1, "seconds": 1.0, "tokens_per_second": 5,
                "base": base, "final": end, "device": "cpu", "precision": "fp32"}  # fmt: skip
    second.write_results("training", training)
    return first, second


def test_every_field_of_a_chain_has_its_line_and_its_base(workspace: Workspace) -> None:
    _, second = chain_of_fields(workspace)
    assert [link.field for link in links(second)] == [("builtin/atlas",), ("wells",)]
    figure = charts.draw(workspace, "chain", [second.id])
    field = [trace for trace in figure.data if trace.uid.startswith("domain")]
    assert [trace.name.partition(":")[0] for trace in field] == ["builtin/atlas", "wells"]
    assert field[1].name == "wells: 2.000 → 1.500" and list(field[1].x) == [10240, 10752]
    assert list(field[1].customdata) == pytest.approx([-0.1, -0.5]) and field[0].line.color != field[1].line.color
    assert all(trace.showlegend for trace in field)
    general = [trace for trace in figure.data if trace.uid.startswith("general")]
    assert len(general) == 2 and general[0].y[-1] == general[1].y[0]


def test_gains_in_two_fields_are_not_joined_on_the_plane(workspace: Workspace) -> None:
    rows = compare(chain_of_fields(workspace))
    assert [row["field"] for row in rows] == ["builtin/atlas", "wells"]
    assert not [trace for trace in charts.plane(rows).data if trace.mode == "lines"]


def test_journal_card_and_commands_tell_what_is_continued(workspace: Workspace) -> None:
    first, second = chain_of_fields(workspace)
    (told,) = [entry for entry in journal(workspace, "trial") if entry.kind == "launch" and entry.run == second.id]
    assert (
        dict(told.facts)["Continues"] == f"knowledge run inland ({first.id})" and dict(told.facts)["Field"] == "wells"
    )
    result = next(entry for entry in journal(workspace, "trial") if entry.id == f"result:{second.id}")
    assert dict(result.facts)["Field"] == "2.000 → 1.500 bits per byte: gain +0.500, +0.400 of it by this stage"
    trained = dict(facts.training(workspace, second))
    assert trained["Continues"] == f"the adapter of knowledge run inland ({first.id})" and trained["Field"] == "wells"
    assert (facts.measured(second) or [""])[0] == "Knowledge: wells" and (facts.measured(first) or [""])[
        0
    ] == "Knowledge"
    assert facts.sources([first, second])[:2] == ["builtin/atlas", "builtin/replay"]
    assert "wells" in facts.sources([first, second])
