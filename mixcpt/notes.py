"""Notes are Markdown, and nothing but: paragraphs, headings, lists, quotes, tables, code, emphasis and links.

A note is read by a Markdown parser and written anew, with every character that could mean anything to any reader
escaped. So HTML, formulas, colours and emoji codes are shown as they were typed, a picture becomes a link to it, and a
link leads to http, https or mailto or is no link. What this gives up: anchors, footnotes and formulas.
"""

import re
from collections.abc import Callable, Iterable

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_PARSER.validateLink = lambda url: True  # type: ignore[method-assign]  # links are judged here, so that none gets lost
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKUP = re.compile(r"[\\`*_{}\[\]()<>#+\-.!|~$:&^=@]")
_ORDINARY = re.compile(
    r"(?!.*www\.)(?!\d+[.)](?:\s|$))(?![-+](?:[-+\s]|$))"
    r"(?:[^\W_]|:(?=\s|$)|[ ±,.;?'\"%()+\N{MINUS SIGN}\N{RIGHTWARDS ARROW}/-])*",
    re.IGNORECASE,
)
"""What no reader takes for anything but text, at the beginning of a line neither: files are read unrendered too."""
_UNESCAPED_BAR = re.compile(r"(?<!\\)\|")
_LANGUAGES = {"python", "py", "bash", "sh", "json", "yaml", "toml", "sql", "text", "console"}
"""Others would make more than code of a block: a diagram, a map, a formula."""
_DEEPER = 2
"""A note's headings stand below those of the page around it."""


def escape_for_files(text: str) -> str:
    """`text` as Markdown that shows it as it is, on one line, to GitHub and Jupyter too: they find formulas in escaped
    text, but never across a tag."""
    if _ORDINARY.fullmatch(text):
        return text
    return _MARKUP.sub(_spanned, _visible(text)).replace("\n", " ")


def safe(text: str) -> str:
    """A note as Markdown that does nothing but show it."""
    return _Writer(_backslashed).document(text)


def safe_for_files(text: str) -> str:
    """As `safe`, for GitHub and Jupyter too."""
    return _Writer(_spanned).document(text)


def as_html(text: str) -> str:
    """A note as HTML of the same few elements."""
    return str(_PARSER.render(safe(text))).replace("<a ", '<a rel="noopener noreferrer nofollow" ')


def _visible(text: str) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def _backslashed(character: re.Match[str]) -> str:
    return "\\" + character[0]


def _spanned(character: re.Match[str]) -> str:
    return {"$": "<span>$</span>", "\\": "<span>&#92;</span>"}.get(character[0], "\\" + character[0])


class _Writer:
    """From the tree of a note back to Markdown."""

    def __init__(self, escaped: Callable[[re.Match[str]], str]):
        self._escaped = escaped

    def document(self, text: str) -> str:
        return self._blocks(SyntaxTreeNode(_PARSER.parse(_visible(text.replace("\r\n", "\n")))).children)

    def _blocks(self, nodes: Iterable[SyntaxTreeNode], between: str = "\n\n") -> str:
        return between.join(self._block(node) for node in nodes)

    def _block(self, node: SyntaxTreeNode) -> str:
        match node.type:
            case "heading":
                return "#" * min(6, int(node.tag[1]) + _DEEPER) + " " + self._inlines(node).replace("\n", " ")
            case "blockquote":
                return _indented(self._blocks(node.children), "> ", "> ")
            case "bullet_list" | "ordered_list":
                return self._list(node)
            case "fence" | "code_block":
                return fenced(node.content, node.info.strip() if node.type == "fence" else "")
            case "hr":
                return "***"
            case "table":
                return self._table(node)
            case _:
                return self._inlines(node)

    def _list(self, node: SyntaxTreeNode) -> str:
        start = int(node.attrs.get("start", 1)) if node.type == "ordered_list" else None
        tight = any(child.hidden for item in node.children for child in item.children)
        items = []
        for number, item in enumerate(node.children):
            marker = "- " if start is None else f"{start + number}. "
            items.append(_indented(self._blocks(item.children, "\n" if tight else "\n\n"), marker, " " * len(marker)))
        return ("\n" if tight else "\n\n").join(items)

    def _table(self, node: SyntaxTreeNode) -> str:
        lines = [[self._inlines(cell) for cell in row.children] for part in node.children for row in part.children]
        return as_table(lines)

    def _inlines(self, node: SyntaxTreeNode) -> str:
        return "".join(self._inline(child) for child in node.children)

    def _inline(self, node: SyntaxTreeNode) -> str:
        match node.type:
            case "text":
                return _MARKUP.sub(self._escaped, node.content)
            case "strong":
                return f"**{self._inlines(node)}**"
            case "em":
                return f"*{self._inlines(node)}*"
            case "s":
                return f"~~{self._inlines(node)}~~"
            case "code_inline":
                return _code(node.content)
            case "softbreak":
                return "\n"
            case "hardbreak":
                return "\\\n"
            case "link":
                return self._link(self._inlines(node), str(node.attrs["href"]))
            case "image":
                return self._link(f"image\\: {self._inlines(node)}".strip(), str(node.attrs["src"]))
            case _:  # inline: the one child of a paragraph, heading or cell
                return self._inlines(node)

    def _link(self, shown: str, url: str) -> str:
        if re.match(r"(https?://|mailto:)", url, re.IGNORECASE):
            address = re.sub(r"[$\\<>]", _percent, url)
            return f"[{shown}](<{address}>)"
        return f"{shown} \\({_MARKUP.sub(self._escaped, url)}\\)"


def as_table(lines: Iterable[Iterable[str]]) -> str:
    """Cells that are Markdown already as a table, its header first."""
    header, *rest = [[_UNESCAPED_BAR.sub(r"\|", cell.replace("\n", " ")) for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rest])


def table_for_files(lines: Iterable[Iterable[str]]) -> str:
    """Cells of text as a table that shows them as they are (`escape_for_files`), its header first."""
    return as_table([escape_for_files(cell) for cell in line] for line in lines)


def _indented(text: str, first: str, others: str) -> str:
    begin, *rest = text.split("\n")
    return "\n".join([first + begin, *((others + line).rstrip() for line in rest)])


def fenced(code: str, language: str) -> str:
    """Code as Markdown, whatever it holds."""
    ticks = "`" * max(3, _longest_run(code) + 1)
    return f"{ticks}{language if language in _LANGUAGES else ''}\n{code.rstrip(chr(10))}\n{ticks}"


def _code(code: str) -> str:
    ticks = "`" * (_longest_run(code) + 1)
    space = " " if code[:1] in " `" or code[-1:] in " `" else ""
    return f"{ticks}{space}{code}{space}{ticks}"


def _longest_run(code: str) -> int:
    return max((len(run) for run in re.findall(r"`+", code)), default=0)


def _percent(character: re.Match[str]) -> str:
    return f"%{ord(character[0]):02X}"
