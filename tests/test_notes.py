"""Notes: Markdown that shows itself and does nothing else."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mixcpt.notes import as_html, as_table, escape_for_files, safe, safe_for_files, table_for_files

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


@pytest.mark.parametrize(
    ("note", "kept"),
    [
        ("**a** *b* ~~c~~ `d`", "**a** *b* ~~c~~ `d`"),
        ("# One\n## Two\n##### Five", "### One\n\n#### Two\n\n###### Five"),
        ("- a\n- b\n  1. x\n  2. y", "- a\n- b\n  1. x\n  2. y"),
        ("3. a\n\n4. b", "3. a\n\n4. b"),
        ("> a\n> b", "> a\n> b"),
        ("[a](https://x.org/y)", "[a](<https://x.org/y>)"),
        ("<https://x.org>", "[https\\://x\\.org](<https://x.org>)"),
        ("`` a`b ``", "``a`b``"),
        ("```python\nx = 1\n```", "```python\nx = 1\n```"),
        ("~~~\na\n```\n~~~", "````\na\n```\n````"),
        ("    a = 1", "```\na = 1\n```"),
        ("a\n\n---\n\nb", "a\n\n***\n\nb"),
        ("a  \nb", "a\\\nb"),
        ("|a|b|\n|-|-|\n|1|`x\\|y`|", "| a | b |\n| --- | --- |\n| 1 | `x\\|y` |"),
    ],
)
def test_markdown_stays(note: str, kept: str) -> None:
    assert safe(note) == kept


@pytest.mark.parametrize(
    ("note", "shown"),
    [
        ("<script>alert(1)</script>", r"\<script\>alert\(1\)\</script\>"),
        ("costs $5 or $x^2$", r"costs \$5 or \$x\^2\$"),
        (":red[a] :smile: :material/home:", r"\:red\[a\] \:smile\: \:material/home\:"),
        ("[a](javascript:alert(1))", r"a \(javascript\:alert\(1\)\)"),
        ("[a](data:text/html,x)", r"a \(data\:text/html,x\)"),
        ("[a](/runs)", r"a \(/runs\)"),
        ("![cat](https://x.org/cat.png)", r"[image\: cat](<https://x.org/cat.png>)"),
        ("![](file:///etc/passwd)", r"image\: \(file\:///etc/passwd\)"),
        ("```math\nx\n```", "```\nx\n```"),
        ("```mermaid\nx\n```", "```\nx\n```"),
        ("a\u202eb\x00\x1b", "a\ufffdb\ufffd\ufffd"),
    ],
)
def test_the_rest_is_shown_as_typed(note: str, shown: str) -> None:
    assert safe(note) == shown


def test_a_dollar_sign_in_a_link_starts_no_formula() -> None:
    assert safe("[a](https://x.org/$a$)") == "[a](<https://x.org/%24a%24>)"


def test_files_part_formulas_by_tags() -> None:
    assert escape_for_files("$x$ \\(y\nz") == r"<span>$</span>x<span>$</span> <span>&#92;</span>\(y z"
    assert safe_for_files("$x$") == "<span>$</span>x<span>$</span>"


def test_html_has_only_the_elements_of_markdown() -> None:
    html = as_html("<img src=x onerror=alert(1)> [a](https://x.org) ![b](https://x.org/b.png)\n\n<script>x</script>")
    assert set(re.findall(r"<(\w+)", html)) == {"p", "a"}
    assert html.count('rel="noopener noreferrer nofollow"') == 2
    assert "&lt;script&gt;" in html


def test_a_table_of_cells() -> None:
    assert as_table([["a", "b"], ["1", "x\ny|z"]]) == "| a | b |\n| --- | --- |\n| 1 | x y\\|z |"


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab1*_`#->.:[]()!|~$<\\ \n&"), max_size=40))
def test_whatever_is_typed_makes_no_html(note: str) -> None:
    html = READER.render(safe(note))  # by a reader that does allow HTML
    allowed = "p h3 h4 h5 h6 em strong s code pre ul ol li blockquote hr br a table thead tbody tr th td"
    assert set(re.findall(r"<(\w+)", html)) <= set(allowed.split())


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab1*_`#->.:|~$\\ \n&"), max_size=40))
def test_no_letter_gets_lost(note: str) -> None:
    assert letters(READER.render(safe(note))) == letters(READER.render(note))


def letters(html: str) -> str:
    """What is read: without tags, and without the language of a code block, which is not shown."""
    return re.sub(r"[^ab1]", "", re.sub(r"<[^>]*>", "", html))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("+0.053 (95 %)", "+0.053 (95 %)"),
        ("-0.05, 3 seeds", "-0.05, 3 seeds"),
        ("'a': is it?", "'a': is it?"),
        (":a: b", r"\:a\: b"),
        ("1. first", r"1\. first"),
        ("- one", r"\- one"),
        ("---", r"\-\-\-"),
        ("see www.a.b", r"see www\.a\.b"),
        ("a_b", r"a\_b"),
    ],
)
def test_files_escape_only_what_could_mean_something(text: str, shown: str) -> None:
    assert escape_for_files(text) == shown


def test_a_table_of_text() -> None:
    assert table_for_files([["a_b", "c"], ["1", "x|y"]]) == "| a\\_b | c |\n| --- | --- |\n| 1 | x\\|y |"
