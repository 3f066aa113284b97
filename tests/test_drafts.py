import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mixcpt.drafts import AnyDraft, Draft, Drafts, Guess, default_stage
from mixcpt.errors import BadConfig, BadInput, NotFound
from mixcpt.settings import override
from mixcpt.workspace import Workspace


def test_what_is_saved_is_found_again(workspace: Workspace) -> None:
    drafts = Drafts(workspace)
    draft = drafts.create()
    changed = draft.model_copy(
        update={
            "name": "<b>my run</b>",
            "guess": Guess(domain_gain=20, forgetting=3),
            "stage": override(draft.stage, {"training.learning_rate": 3e-4}),
        }
    )
    drafts.save(changed)
    assert Drafts(workspace).get(draft.id) == changed != draft


def test_two_people_have_a_draft_each(workspace: Workspace) -> None:
    first, second = Drafts(workspace).create(), Drafts(workspace).create()
    Drafts(workspace).save(first.model_copy(update={"name": "mine"}))
    assert Drafts(workspace).get(second.id).name == ""


@pytest.mark.parametrize("id", ["../runs/x", "/etc/passwd", "", "A"])
def test_an_address_cannot_leave_the_drafts(workspace: Workspace, id: str) -> None:
    with pytest.raises(BadInput):
        Drafts(workspace).get(id)


def test_a_draft_that_is_gone_is_told(workspace: Workspace) -> None:
    draft = Drafts(workspace).create()
    Drafts(workspace).delete(draft.id)
    with pytest.raises(NotFound, match="begin a new one"):
        Drafts(workspace).get(draft.id)


def test_a_draft_of_another_version_is_told(workspace: Workspace) -> None:
    draft = Drafts(workspace).create()
    path = workspace.root / "drafts" / f"{draft.id}.json"
    path.write_text(path.read_text().replace('"experiment"', '"experimant"'))
    with pytest.raises(BadConfig, match="experimant"):
        Drafts(workspace).get(draft.id)


def test_the_first_draft_can_be_launched_as_it_is() -> None:
    stage = default_stage()
    assert stage.mixture.domain_sources() == ["builtin/atlas"]
    assert stage == Draft(id="draft-x", stage=stage).stage


def test_changes_at_the_same_moment_all_count(workspace: Workspace) -> None:
    drafts = Drafts(workspace)
    id = drafts.create().id

    def tag(number: int) -> None:
        def how(draft: AnyDraft) -> AnyDraft:
            time.sleep(0.005)  # as long as it takes somebody else to read the same draft
            return draft.model_copy(update={"tags": (*draft.tags, str(number))})

        drafts.change(id, how)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tag, range(16)))
    assert sorted(map(int, drafts.get(id).tags)) == list(range(16))


def test_a_change_that_is_refused_changes_nothing(workspace: Workspace) -> None:
    drafts = Drafts(workspace)
    draft = drafts.create()

    def refuse(draft: AnyDraft) -> AnyDraft:
        raise BadInput("no")

    with pytest.raises(BadInput):
        drafts.change(draft.id, refuse)
    assert drafts.get(draft.id) == draft
    with pytest.raises(NotFound):
        drafts.change("draft-0", lambda draft: draft)
