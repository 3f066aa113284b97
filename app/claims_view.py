"""Claims on a page: what is said of one arm against another, the differences seed by seed, and each claim card with all
that it takes to check it, to be copied or added to a notebook."""

from collections.abc import Sequence

import plotly.graph_objects as go
import streamlit as st

from app import show, state
from app.pins import pin_button
from app.words import plain, printable
from mixcpt import charts, claim_cards
from mixcpt.claim_table import FEW, figures, glance, word
from mixcpt.claims import Claim, Pair, claims, pairs_against
from mixcpt.compare import Row
from mixcpt.curves import title_of
from mixcpt.notebook import Notebook, experiments
from mixcpt.notes import as_table
from mixcpt.plotting import body

_HELP = (
    "Arms are compared by the paired t-test over the seeds that both have: seed 0 with seed 0 and so on, so that what "
    "a seed does to both falls out. Where several are held against one, p is corrected for that (Holm). With one seed "
    "in common no test over seeds is possible: the interval is then over the documents or questions that both runs "
    "were given (a paired bootstrap), where both were measured again or asked the same. It tells of these two runs."
)
_MEASURE = (
    "One seed and no interval: measure these runs again (*Measured again*, below), and what can be said of other "
    "documents is told here."
)
_COLOURS = {"better": "green", "worse": "red", "same": "gray", "hint": "orange"}
_MARKS = {"better": "trending_up", "worse": "trending_down", "same": "drag_handle", "hint": "help"}


def arm_against_arm(rows: Sequence[Row], arms: Sequence[Row], domain_tokens: int | None) -> None:
    """The section of the Compare page: the others against the arm that is chosen here, at first the first."""
    if len(arms) < 2:
        return
    with st.container(border=True, gap="small"):
        st.subheader("Arm against arm", anchor=False, help=_HELP)
        titles = [title_of(arm) for arm in arms]
        chosen = st.selectbox(
            "Hold the others against", titles, key="claims_against", format_func=printable, width=420,
            help="The arm that the others are compared with: mostly the simplest one.",
        )  # fmt: skip
        chosen = chosen if chosen in titles else titles[0]
        pairs = pairs_against(arms, chosen)
        told = claim_list(pairs, domain_tokens, key="claims")
        if not domain_tokens and any(claim.lacks_documents for own in told for claim in own):
            st.caption(_MEASURE)
        first = [row for row in rows if title_of(row) == chosen]
        if any(len(arm["seeds"]) > 1 for arm in arms):
            seed_chart([*first, *(row for row in rows if row not in first)], key="claims_seeds")


def claim_list(pairs: Sequence[Pair], domain_tokens: int | None, *, key: str, command: str = "") -> list[list[Claim]]:
    """What is claimed of each pair, with the way to its card, and returned; of more than a few pairs first a table of
    all claims. `command` is that on the card, where it is not `mixcpt compare`."""
    told = claims(pairs, None if domain_tokens else state.workspace())
    command = command or claim_cards.compare_command(pairs, domain_tokens)
    many = len(pairs) > FEW
    if many:
        _glance(told)
    with st.expander("In sentences, with a card for each pair", key=f"{key}_told") if many else st.container():
        for number, (pair, own) in enumerate(zip(pairs, told, strict=True)):
            _pair(number, pair, own, domain_tokens, key, command)
    return told


def _glance(told: Sequence[Sequence[Claim]]) -> None:
    table = glance(told, lambda claim: f":{_COLOURS[word(claim)]}[{word(claim)}] {figures(claim)}")
    st.markdown(as_table([list(map(plain, table.columns)), *([plain(row[0]), *row[1:]] for row in table.rows)]))
    st.caption(table.note)


def _pair(number: int, pair: Pair, own: Sequence[Claim], domain_tokens: int | None, key: str, command: str) -> None:
    told, button = st.columns([9, 1], vertical_alignment="top")
    told.markdown("  \n".join(map(_said, own)) or "These two have no measure in common.")
    with button:
        if st.button(
            "Card", key=f"{key}_card_{number}", icon=":material/id_card:", type="tertiary", disabled=not own,
            help="All that it takes to check this claim: data hashes, model, settings, command. To copy, or for the "
            "notebook.",
        ):  # fmt: skip
            _card(pair, own, domain_tokens, command)


def _said(claim: Claim) -> str:
    statement, evidence = (plain(words) for words in claim.words())
    return f"{mark(claim)} **{statement}** ({evidence})."


def mark(claim: Claim) -> str:
    """Whether the first arm is the better one, at a glance."""
    return f":{_COLOURS[word(claim)]}[:material/{_MARKS[word(claim)]}:]"


@st.dialog("Claim card", width="large", icon=":material/id_card:")
def _card(pair: Pair, own: Sequence[Claim], domain_tokens: int | None, command: str) -> None:
    card = claim_cards.card(state.workspace(), pair, own, domain_tokens, command)
    st.markdown(f"#### {plain(card.title)}")
    st.markdown("\n".join(f"- {mark(claim)} **{plain(claim.sentence())}.**" for claim in card.claims))
    st.caption(plain(" ".join(card.cautions)))
    facts = {"Fact": [name for name, _ in card.facts], "Value": [value for _, value in card.facts]}
    st.dataframe({name: [printable(cell) for cell in cells] for name, cells in facts.items()}, hide_index=True)
    if card.settings:
        columns = zip(*card.settings, strict=True)
        heads = ("Setting that differs", card.one, f"{card.other} ")  # two arms may be called the same
        table = {
            printable(head): [printable(cell) for cell in cells] for head, cells in zip(heads, columns, strict=True)
        }
        st.dataframe(table, hide_index=True)
    st.code(card.command, language="bash", wrap_lines=True)
    _take_along(pair, card)


def _take_along(pair: Pair, card: claim_cards.Card) -> None:
    markdown, html = claim_cards.as_markdown(card), body(claim_cards.as_parts(card))
    with st.expander("Copy to slides", icon=":material/content_copy:"):
        as_markdown, as_html = st.tabs(["Markdown", "HTML"])
        as_markdown.code(markdown, language="markdown", wrap_lines=True, height=220)
        as_html.code(html, language="html", wrap_lines=True, height=220)
    names = list(dict.fromkeys([pair[0]["experiment"], pair[1]["experiment"]]))
    known = [name for name in names if name] or [one.name for one in experiments(state.workspace())]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        where = known[0] if len(known) == 1 else st.selectbox("Notebook of", known, key="claims_notebook", width=260)
        st.button(
            "Add to notebook", key="claims_note", icon=":material/menu_book:", help=f"That of {plain(where)}.",
            on_click=_add, args=(where, markdown),
        )  # fmt: skip


@show.told
def _add(experiment: str, markdown: str) -> None:
    notebook = Notebook(state.workspace(), experiment)
    if any(note.text == markdown for note in notebook.read().notes):
        st.toast("It is in the notebook already.", icon=":material/check:")
        return
    notebook.save(notebook.begin(), markdown)
    st.toast(f"Added to the notebook of {plain(experiment)}.", icon=":material/check:")


def seed_chart(rows: Sequence[Row], pairs: Sequence[tuple[str, str]] = (), *, key: str, pin: bool = True) -> None:
    """The differences of pairs of arms, or to the arm that comes first, with all points; `pin`: with the button that
    pins it."""
    wanted = {row["experiment"] for row in rows}
    references = {other for _, other in pairs} or {title_of(rows[0])}
    caption = f"Differences{f' to {references.pop()}' if len(references) == 1 else ''}, seed by seed"
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.caption(f"{plain(caption)}. Every point is a seed; the bar is the 95 % interval of the mean.")
        if pin:
            pin_button(
                next(iter(wanted)) if len(wanted) == 1 else "", "seeds", [row["run"] for row in rows], key=f"{key}_pin",
                caption=caption,
            )  # fmt: skip
    what = tuple((row["run"], row["title"], row["tokens"], len(row)) for row in rows)
    show.chart(_figure(what, tuple(pairs), rows), key=key)


@st.cache_resource(show_spinner=False, max_entries=16)
def _figure(what: tuple[object, ...], pairs: tuple[tuple[str, str], ...], _rows: Sequence[Row]) -> go.Figure:
    return charts.seeds(_rows, pairs)
