import gzip
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mixcpt import unpack
from mixcpt.errors import BadFile, MixcptError, Unavailable
from mixcpt.sources import Message, Record, Refusal, find_files, read, read_hub, select

ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
PAIR = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}


def records(path: Path, **settings: Any) -> list[Record]:
    """All of them; fails when anything was refused."""
    found = list(read(path, **settings))
    assert not [item for item in found if isinstance(item, Refusal)]
    return [item for item in found if isinstance(item, Record)]


def lines_of(path: Path, **settings: Any) -> tuple[list[int], list[int]]:
    """The lines of the records and of the refusals."""
    found = list(read(path, **settings))
    good = [item.line for item in found if isinstance(item, Record)]
    return good, [item.line for item in found if isinstance(item, Refusal)]


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def one(path: Path, row: Any, **settings: Any) -> Record:
    return records(jsonl(path / "x.jsonl", row), **settings)[0]


def why_not(path: Path, row: Any, good: Any) -> str:
    """The reason for which `row`, after a `good` one, is refused."""
    refused = [item for item in read(jsonl(path / "x.jsonl", good, row)) if isinstance(item, Refusal)]
    assert [item.line for item in refused] == [2]
    return refused[0].reason


# ---- files and folders


def test_a_folder_is_searched_in_order_and_hidden_files_and_links_out_of_it_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for name in ("b.txt", "sub/a.txt", ".hidden.txt"):
        (folder / name).write_text("x")
    (tmp_path / "outside.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    files, refusals = find_files([folder, folder / "b.txt"])  # b.txt is given twice and found once
    assert [str(file.relative_to(folder)) for file in files] == ["b.txt", "sub/a.txt"]
    assert sorted(Path(refusal.file).name for refusal in refusals) == [".hidden.txt", "link.txt"]


def test_paths_that_are_not_there_or_hold_nothing_are_errors(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"nowhere\.txt is not there"):
        find_files([tmp_path / "nowhere.txt"])
    with pytest.raises(BadFile, match="no file to read"):
        find_files([tmp_path])
    with pytest.raises(BadFile, match="is a folder, but one file is needed"):
        next(read(tmp_path))
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(BadFile, match="neither a file nor a folder"):
        find_files([tmp_path / "pipe.txt"])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.txt", b"", "empty .0 bytes."),
        ("x.txt", b"\x89PNG\r\n\x1a\n", "PNG picture"),
        ("x.jsonl", gzip.compress(b"{}", mtime=0), r"gzip data \(its name should end in \.gz\)"),
        ("x.txt", bytes(range(1, 256)) * 9, "not text .* control bytes"),
        ("x.docx", b"PK\x03\x04", "give txt, md, json, jsonl, csv, tsv or parquet"),
        ("x.parquet", b"text", "not readable parquet"),
        ("x.jsonl.gz", b'{"text": "a"}', "damaged, cut or no archive"),
        ("x.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-12], "damaged, cut or no archive"),
        ("x.zip", b"PK\x03\x04cut", "not a readable zip"),
        ("x.csv", b"text,other\n", "holds no rows"),
        ("x.json", b"[]", "holds no rows"),
        ("x.csv", b"a,b\n1,2\n", r"no text column among 'a', 'b': .* --text-column"),
        ("x.jsonl", b'{"question": "?", "choices": ["a", "b"], "answer": 0}', "bring it as probes"),
    ],
)
def test_a_file_that_is_no_good_as_a_whole(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadFile, match=message):
        list(read(tmp_path / name))


# ---- formats


def test_text_is_one_document_or_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("one\n\ntwo\n", encoding="utf-8")
    assert [record.text for record in records(tmp_path / "x.txt")] == ["one\n\ntwo\n"]
    assert [(r.text, r.line) for r in records(tmp_path / "x.txt", split_lines=True)] == [("one", 1), ("two", 3)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["x.txt", "x.jsonl"])
def test_unicode_in_any_coat(tmp_path: Path, encoding: str, name: str) -> None:
    text = "Grüße from the coast, " * 20
    (tmp_path / name).write_bytes((text if name == "x.txt" else json.dumps({"text": text})).encode(encoding))
    assert records(tmp_path / name)[0].text == text


def test_legacy_encodings_are_guessed_and_the_guess_is_told(tmp_path: Path) -> None:
    russian = "Съешь же ещё этих мягких французских булок, да выпей чаю. Все счастливые семьи похожи. " * 9
    (tmp_path / "x.txt").write_bytes(russian.encode("cp1251"))
    record = records(tmp_path / "x.txt")[0]
    assert (record.text, record.meta) == (russian, {"encoding": "read as cp1251 (guessed)"})
    (tmp_path / "x.csv").write_bytes(f'text\n"{russian}"\n'.encode("cp1251"))
    assert records(tmp_path / "x.csv")[0].meta == {"encoding": "read as cp1251 (guessed)"}


def test_a_few_stray_bytes_do_not_spoil_the_rest(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes("Ünï – ".encode() + b"Caf\xe9" + " größer".encode())
    assert records(tmp_path / "x.txt")[0].text == "Ünï – Café größer"
    (tmp_path / "x.txt").write_bytes("end ü".encode()[:-1])
    assert records(tmp_path / "x.txt")[0].text == "end "
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a"}\n{"text": "Caf\xe9"}\n{"text": "b"}\n')
    assert lines_of(tmp_path / "x.jsonl") == ([1, 3], [2])


def test_a_broken_line_is_counted_and_the_rest_kept(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n\n{"text": "cut\n{"text": "b"}\n42\nnull\n{"body": "c"}\n')
    assert lines_of(tmp_path / "x.jsonl") == ([1, 4], [3, 5, 6, 7])


@pytest.mark.parametrize(
    "text",
    [
        '[{"text": "a"}, {"text": "b"}]',
        '{"text": "a"}{"text": "b"}',
        '{\n "text": "a"\n}\n{\n "text": "b"\n}\n',
        '[\n {"text": "a"},\n {"text": "b"}\n]\n',
        '"a"\n"b"\n',
    ],
)
@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
def test_json_that_is_not_quite_lines(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert [record.text for record in records(tmp_path / name)] == ["a", "b"]


def test_a_list_inside_an_object_is_found_in_json(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"version": "1", "data": [{"text": "a"}, {"text": "b"}, 3]}')
    assert lines_of(tmp_path / "x.json") == ([1, 2], [3])
    (tmp_path / "x.json").write_text('{"text": "a", "tags": [{"name": "t"}]}')
    assert [record.text for record in records(tmp_path / "x.json")] == ["a"]


def test_hostile_json_is_refused_not_a_crash(tmp_path: Path) -> None:
    deep = '{"text": "x", "meta": ' + "[" * 100_000 + "]" * 100_000 + "}"
    huge = '{"text": "b", "n": ' + "9" * 6000 + "}"
    odd = '{"text": "c \\ud800", "score": NaN, "k\\udc00": "\\udfff"}'
    (tmp_path / "x.jsonl").write_text("\n".join(['{"text": "a"}', deep, huge, odd]))
    found = list(read(tmp_path / "x.jsonl"))
    assert [type(item) for item in found] == [Record, Refusal, Record, Record]
    last = found[3]
    assert isinstance(last, Record) and last.text == "c \ufffd"
    assert Record.from_json(last.to_json().encode("utf-8").decode()).meta == {"k\ufffd": "\ufffd"}


def test_csv_with_any_delimiter_quotes_and_huge_fields(tmp_path: Path) -> None:
    for name, delimiter in (("x.csv", ","), ("x.csv", ";"), ("x.csv", "|"), ("x.tsv", "\t")):
        text = f'id,text\r\n1,"a ""b""\n c"\r\n2,{"z " * 99_999}\r\n'
        (tmp_path / name).write_text(text.replace(",", delimiter))
        first, second = records(tmp_path / name)
        assert (first.text, first.line, first.meta) == ('a "b"\n c', 2, {"id": "1"})
        assert (len(second.text), second.line) == (199_998, 4)


def test_ragged_rows_and_an_open_quote_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('id,text\n1,a\n2\n3,b,c\n4,d\n5,"open\n')
    assert lines_of(tmp_path / "x.csv") == ([2, 5], [3, 4, 6])


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2, 3], "text": ["a", None, "c"]}), tmp_path / "x.parquet")
    assert lines_of(tmp_path / "x.parquet") == ([1, 3], [2])
    pq.write_table(pa.table({"text": pa.array([b"abc", b"\xff"])}), tmp_path / "x.parquet")
    assert lines_of(tmp_path / "x.parquet") == ([1], [2])


# ---- archives


def test_gzip_and_zip_are_read_in_place(tmp_path: Path) -> None:
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"text\na b\n"))
    assert [record.text for record in records(tmp_path / "x.csv.gz")] == ["a b"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("d/b.txt", "b")
        archive.writestr("a.jsonl", '{"text": "a"}\n')
    assert [(record.file, record.text) for record in records(tmp_path / "x.zip")] == [
        ("x.zip/d/b.txt", "b"),
        ("x.zip/a.jsonl", "a"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.csv.gz", "x.zip"]


def test_members_that_are_dangerous_or_bad_are_refused_one_by_one(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("../up.txt", "/a.txt", "C:\\x.txt", "a.zip", "a.jsonl.gz", ".hidden.txt", "x.exe", "empty.txt"):
            archive.writestr(name, "" if name == "empty.txt" else "text")
        archive.writestr(link, "/etc/passwd")
        archive.writestr("good.txt", "good")
        archive.writestr("bad.csv", "a,b\n1,2\n")
    found = list(read(tmp_path / "x.zip"))
    assert [item.text for item in found if isinstance(item, Record)] == ["good"]
    reasons = [item.reason for item in found if isinstance(item, Refusal)]
    assert len(reasons) == 10
    assert reasons[:3] == ["its name points out of the archive"] * 3


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "_FREE", 100_000)
    text = b"a" * 99_999
    (tmp_path / "fine.txt.gz").write_bytes(gzip.compress(text))
    assert len(records(tmp_path / "fine.txt.gz")[0].text) == 99_999
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(text * 3))  # about 340 bytes, so 100,000 bytes are allowed
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", text * 3)
    for name in ("bomb.txt.gz", "bomb.zip"):
        with pytest.raises(BadFile, match="unpacks to 0 MB or more, but 0 MB are allowed"):
            list(read(tmp_path / name))


# ---- columns


def test_the_text_column_is_found_by_name_then_by_being_alone_then_by_being_prose(tmp_path: Path) -> None:
    prose = "a sentence with a good many words in it, as prose has them"
    assert one(tmp_path, {"title": "a b", "Content": "x"}).text == "x"
    assert one(tmp_path, {"id": 1, "abstract": "two words"}).text == "two words"
    assert one(tmp_path, {"name": "two words", "notes": prose}).text == prose
    assert one(tmp_path, {"text": "no", "notes": "yes"}, text_column="notes").text == "yes"
    for row in ({"cut": "Ideal", "n": 1}, {"first": prose, "second": prose}, {"n": 1}):
        with pytest.raises(BadFile, match="--text-column"):
            one(tmp_path, row)
    with pytest.raises(BadFile, match="no column 'nothing'; its columns are 'text'"):
        one(tmp_path, {"text": "x"}, text_column="nothing")


QUESTION_ANSWER = (Message("user", "Q"), Message("assistant", "A"))


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (ALPACA, (Message("user", "Add.\n\n1 2"), Message("assistant", "3"))),
        ({"instruction": "Q", "context": "", "response": "A", "category": "qa"}, QUESTION_ANSWER),
        ({"prompt": "Q", "completion": "A"}, QUESTION_ANSWER),
        ({"question": "Q", "answer": "A"}, QUESTION_ANSWER),
        ({"input": "Q", "output": "A"}, QUESTION_ANSWER),
        ({"system_prompt": "S", "question": "Q", "response": "A"}, (Message("system", "S"), *QUESTION_ANSWER)),
        ({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}, QUESTION_ANSWER),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, QUESTION_ANSWER),
        ({"messages": [{"role": r, "content": [{"type": "text", "text": t}]} for r, t in
                       (("user", "Q"), ("assistant", "A"), ("user", "open"))]}, QUESTION_ANSWER),
    ],
)  # fmt: skip
def test_instructions(tmp_path: Path, row: dict[str, Any], messages: tuple[Message, ...]) -> None:
    record = one(tmp_path, row)
    assert (record.kind, record.messages) == ("instructions", messages)


def turns(*said: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(said)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        {"prompt": turns("Q"), "chosen": [{"role": "assistant", "content": "A"}],
         "rejected": [{"role": "assistant", "content": "B"}]},
        {"prompt": "Q", "chosen": turns("Q", "A"), "rejected": turns("Q", "B")},
        {"chosen": turns("Q", "A"), "rejected": turns("Q", "B")},
        {"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"},
        {"prompt": "Human: Q\n\nAssistant:", "chosen": "A", "rejected": "B"},
    ],
)  # fmt: skip
def test_preferences(tmp_path: Path, row: dict[str, Any]) -> None:
    record = one(tmp_path, row)
    assert (record.kind, record.messages) == ("preferences", (Message("user", "Q"),))
    assert (record.chosen, record.rejected) == ("A", "B")


@pytest.mark.parametrize(
    ("row", "good", "reason"),
    [
        ({"text": 7}, {"text": "a"}, "'text' is a number, not text"),
        ({"text": ["a"]}, {"text": "a"}, "'text' is a list, not text"),
        ({"text": None}, {"text": "a"}, "'text' is null, not text"),
        ({"text": " \n"}, {"text": "a"}, "'text' is empty"),
        ({"body": "b"}, {"text": "a"}, "'text' is missing; the columns here are 'body'"),
        (PAIR, ALPACA, "this row holds preferences, but the file holds instructions"),
        ({**ALPACA, "output": ""}, ALPACA, "'output' is empty"),
        ({"messages": [{"role": "robot", "content": "x"}]}, ALPACA, "has the role 'robot'"),
        ({"messages": ["x"]}, ALPACA, "message 1 is text"),
        ({"messages": turns("Q")}, ALPACA, "no question followed by an answer"),
        ({"messages": turns("Q", " ")}, ALPACA, "is empty"),
        ({**PAIR, "rejected": "Because. "}, PAIR, "are the same"),
        ({**PAIR, "chosen": ""}, PAIR, "'chosen' is empty"),
        ({"chosen": "A", "rejected": "B"}, PAIR, "prompt does not end with a question"),
        ({"chosen": turns("Q", "A", "R", "S"), "rejected": turns("Q", "B", "R", "S")}, PAIR, "not one answer each"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_a_reason(tmp_path: Path, row: Any, good: Any, reason: str) -> None:
    assert reason in why_not(tmp_path, row, good)


def test_a_kind_that_the_columns_cannot_give_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="holds no preferences; its columns are 'text', but the columns prompt, chosen"):
        one(tmp_path, {"text": "a"}, kind="preferences")


def test_a_record_survives_its_json() -> None:
    record = Record("preferences", "", (Message("user", "Ü?"),), "A", "B", {"id": "7", "n": 1.5}, "x.jsonl", 3)
    assert Record.from_json(record.to_json(), "x.jsonl", 3) == record
    assert "\n" not in record.to_json()


# ---- the hub


class _Hub:
    """Stands in for `datasets` and `huggingface_hub`: four rows, or no network."""

    def __init__(self, works: bool):
        self.works = works

    def dataset_info(self, name: str, timeout: float) -> None:
        if not self.works:
            raise ConnectionError("Name or service not known\nand more")

    def load_dataset(
        self, name: str, config: str | None, data_dir: str | None, split: str, streaming: bool
    ) -> list[dict[str, str]]:
        assert (name, config, data_dir, split, streaming) == ("some/set", "en", "python", "train", True)
        return [{"text": letter} for letter in "abcd"]

    def HfApi(self) -> "_Hub":
        return self


def test_selecting_keeps_the_first_that_match_and_every_refusal() -> None:
    rows: list[Record | Refusal] = [Record("documents", str(n), meta={"split": "ab"[n % 2]}) for n in range(6)]
    refusal = Refusal("file", 3, "broken")
    rows.insert(2, refusal)
    assert list(select(rows, {"split": "b"}, 2)) == [rows[1], refusal, rows[4]]
    assert list(select(rows)) == rows


@pytest.mark.parametrize("works", [True, False])
def test_the_hub(monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    monkeypatch.setitem(sys.modules, "datasets", _Hub(works))
    monkeypatch.setitem(sys.modules, "huggingface_hub", _Hub(works))
    if works:
        rows = read_hub("some/set", config="en", directory="python")
        found = [item for item in select(rows, limit=2) if isinstance(item, Record)]
        assert [(record.text, record.line) for record in found] == [("a", 1), ("b", 2)]
    else:
        with pytest.raises(Unavailable, match=r"'some/set' .*\(Name or service not known\): check its name"):
            next(read_hub("some/set"))


# ---- all that is nasty


def test_nothing_in_the_nasty_inputs_ends_in_a_traceback(shared_data: Path) -> None:
    files = [path for path in sorted((shared_data / "nasty_inputs").rglob("*")) if path.is_file()]
    assert len(files) > 100
    for path in files:
        if path.name.startswith("expands_"):
            continue
        try:
            found = list(read(path))
        except MixcptError as error:
            assert path.name in str(error) and "\n" not in str(error)
        else:
            assert found, f"{path} gave neither a record nor a reason"
            for item in found:
                if isinstance(item, Record):
                    item.to_json().encode("utf-8")


def test_every_upload_format_gives_the_same_documents(shared_data: Path) -> None:
    folder = shared_data / "upload_formats"
    expected = [record.text for record in records(folder / "pubmed20.jsonl")]
    assert len(expected) == 20
    for name in ("pubmed20.json", "pubmed20.jsonl.gz", "pubmed20.csv", "pubmed20.parquet"):
        assert [record.text for record in records(folder / name)] == expected
    assert sorted(r.text.strip() for r in records(folder / "pubmed20_txts.zip")) == sorted(map(str.strip, expected))
    assert len(records(folder / "pubmed20_doc_per_line.txt", split_lines=True)) == 20
    for name in ("pubmed20.docx", "pubmed20.html", "pubmed20.pdf"):
        with pytest.raises(BadFile, match="is not read: give txt"):
            records(folder / name)
