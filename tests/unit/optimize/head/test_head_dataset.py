"""Reading labelled text: what is taken, and every refusal with its line and no text in it."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tremplin.errors import TrainingRefused
from tremplin.optimize.head import dataset, rows
from tremplin.optimize.head.dataset import read_labelled

SECRET = "zebra77"  # stands for a user's text: no message may hold it


def csv_rows(n_each=5, delimiter=","):
    lines = [f"text{delimiter}label"]
    lines += [f"{SECRET} {label} {i}{delimiter}{label}" for label in ("a", "b") for i in range(n_each)]
    return lines


@pytest.fixture
def write(tmp_path):
    def write(content, name="data.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refusal(path, **options):
    with pytest.raises(TrainingRefused) as caught:
        read_labelled(path, **options)
    message = str(caught.value)
    assert SECRET not in message
    assert message.startswith(path.name)
    return message


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_in_each_dialect(write, delimiter, start, end):
    payload = (start + end.join(csv_rows(delimiter=delimiter)) + end).encode()
    data = read_labelled(write(payload))
    assert data.label_names == ("a", "b")
    assert data.texts[0] == f"{SECRET} a 0"
    assert len(data) == 10
    assert data.targets().tolist() == [0] * 5 + [1] * 5
    assert data.sha256 == hashlib.sha256(payload).hexdigest()
    assert data.langs is None
    assert data.notes == ()


def test_the_delimiter_is_the_one_that_finds_the_columns(write):
    lines = ["id;text;label", *(f"{i};one, two, {i};{'ab'[i % 2]}" for i in range(10))]
    assert read_labelled(write("\n".join(lines))).texts[3] == "one, two, 3"


def test_quoted_texts_span_lines_and_keep_quotes(write):
    lines = [*csv_rows(), '"first line\nsecond ""line"", end",a']
    assert read_labelled(write("\n".join(lines))).texts[-1] == 'first line\nsecond "line", end'


def test_jsonl_with_languages_numbers_and_blank_lines(write):
    lines = []
    for i in range(12):
        lines += [json.dumps({"text": f"été {i}", "label": i % 2, "lang": "fr" if i else None}), ""]
    data = read_labelled(write("\n".join(lines), "data.jsonl"))
    assert data.label_names == ("0", "1")
    assert data.langs is not None
    assert data.langs[:2] == ("", "fr")


def test_columns_can_be_named(write):
    lines = ["intent,query", *(f"{'ab'[i % 2]},q{i}" for i in range(10))]
    data = read_labelled(write("\n".join(lines)), text_column="query", label_column="intent")
    assert data.labels[:2] == ("a", "b")


def test_labels_lose_spaces_and_texts_keep_them(write):
    lines = [*csv_rows(), "  padded , a "]
    data = read_labelled(write("\n".join(lines)))
    assert (data.texts[-1], data.labels[-1]) == ("  padded ", "a")


def test_a_text_that_comes_again_is_dropped_with_a_note(write):
    lines = csv_rows()
    data = read_labelled(write("\n".join([*lines, lines[1], lines[1]])))
    assert len(data) == 10
    assert data.notes == ("2 rows repeat a text with the same label; the first of each was kept.",)


def test_rows_of_some_numbers(write):
    data = read_labelled(write("\n".join(csv_rows())))
    part = data.rows([0, 7])  # type: ignore[arg-type]
    assert part.labels == ("a", "b")
    assert part.label_names == data.label_names


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")).filter(str.strip),
        min_size=10,
        max_size=20,
        unique=True,
    )
)
def test_any_text_survives_jsonl(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("jsonl") / "data.jsonl"
    lines = [
        json.dumps({"text": text, "label": "ab"[i % 2]}, ensure_ascii=i % 3 == 0) for i, text in enumerate(texts)
    ]
    path.write_bytes("\n".join(lines).encode())
    assert read_labelled(path).texts == tuple(texts)


GOOD = csv_rows()


def with_line(line):
    return "\n".join([*GOOD, line])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "the file is empty"),
        ("text,label\n", "there is no row after the header"),
        (
            f"{SECRET} how are you,greeting\n{SECRET},a",
            "no column 'text' and 'label'; the first line does not look like",
        ),
        ("query,intent\nx,a", "no column 'text' and 'label'; there are: query, intent. Rename one, or name it"),
        ("text,intent\nx,a", "line 1: there is no column 'label'; there are: text, intent"),
        ("text,label,text\nx,a,b", "the column 'text' comes twice"),
        (with_line(" ,a"), "line 12: the text in 'text' is empty"),
        (with_line(f"{SECRET}, "), "line 12: the label in 'label' is empty"),
        (
            with_line(f"{SECRET}, and more,a"),
            "line 12: the row has 3 columns, the header 2. A text that holds a comma",
        ),
        (with_line(f'"{SECRET},a'), "line 12: the row that begins here cannot be read as CSV"),
        (with_line(f'"two\nlines",a\n{SECRET}'), "line 14: the row has 1 columns"),
        (with_line(f"a,{SECRET * 20}"), "the label has 140 characters, at most 100"),
        (with_line(f"{SECRET} a 0,b"), "the same text has two labels on lines 2 and 12"),
        (with_line(f"{SECRET}\0,a"), "line 12: byte 158 of the file is NUL"),
        ("\n".join(GOOD[:6]), "all 5 rows have the same label"),
        ("\n".join(GOOD[:-1]), "1 labels have fewer than 5 different texts: 'b' (4)"),
        (
            "text,label\n" + "\n".join(f"{i},{SECRET} {i}" for i in range(9)),
            "9 different labels for 9 rows. Are the",
        ),
    ],
)
def test_csv_refusals(write, content, expected):
    assert expected in refusal(write(content))


def json_line(**value):
    return json.dumps(value)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "zebra77", "label": ', "line 11: this is not a JSON object on one line (it fails at character"),
        ('["zebra77", "a"]', "line 11: this is an array, an object was expected"),
        ('"zebra77"', "line 11: this is a value, an object was expected"),
        ("[" * 100_000, "line 11: this is not a JSON object"),
        ('{"text": "zebra77", "label": NaN}', "line 11: this is not a JSON object"),
        (json_line(text=SECRET, intent="a"), "line 11: there is no column 'label'; there are: text, intent"),
        (json_line(text=SECRET, label=None), "'label' is null, one string was expected"),
        (
            json_line(text=SECRET, label=["a", "b"]),
            "'label' is a list, one string was expected: a row has one label",
        ),
        (json_line(text=SECRET, label={"a": 1}), "'label' is an object"),
        (json_line(text=5, label="a"), "'text' is a number, a string was expected"),
        (json_line(text=SECRET, label="a", lang=3), "'lang' is a number"),
        (json_line(text=SECRET + "\0", label="a"), "line 11: the row holds a NUL character"),
        (json_line(text=SECRET + "\ud800", label="a"), "line 11: the row holds half of a surrogate pair"),
        (json_line(text="  ", label="a"), "line 11: the text in 'text' is empty"),
        (json_line(text=f"{SECRET} 0", label="b"), "the same text has two labels on lines 1 and 11"),
    ],
)
def test_jsonl_refusals(write, line, expected):
    good = [json_line(text=f"{SECRET} {i}", label="ab"[i % 2]) for i in range(10)]
    assert expected in refusal(write("\n".join([*good, line]), "data.jsonl"))


@pytest.mark.parametrize(
    ("encoding", "likely"),
    [("cp1252", "WINDOWS-1252"), ("utf-16", "UTF-16"), ("latin-1", "WINDOWS-1252")],
)
def test_another_encoding_is_named_with_the_byte(write, encoding, likely):
    payload = "\n".join([*GOOD, "déjà vu,a"]).encode(encoding)
    message = refusal(write(payload))
    assert f"looks like {likely}" in message
    offset = 0 if encoding == "utf-16" else payload.index(b"\xe9")
    assert f"byte {offset} of the file is not UTF-8" in message
    assert f"iconv -f {likely} -t UTF-8 data.csv" in message


def test_utf16_without_a_mark_is_recognised_by_its_nuls(write):
    assert "looks like UTF-16" in refusal(write("\n".join(GOOD).encode("utf-16-le")))


def test_limits(write, monkeypatch):
    path = write("\n".join(GOOD))
    monkeypatch.setattr(rows, "MAX_LINE_BYTES", 8)
    assert "line 1: the line is longer than" in refusal(path)
    monkeypatch.undo()
    monkeypatch.setattr(dataset, "MAX_CLASSES", 1)
    assert "there are 2 different labels, at most 1" in refusal(path)


def test_of_a_longer_file_rows_are_drawn_at_random_and_in_order(write, monkeypatch):
    monkeypatch.setattr(dataset, "MAX_ROWS", 100)
    path = write("text,label\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(5_000)))
    data = read_labelled(path)
    numbers = [int(text.split()[1]) for text in data.texts]
    assert len(numbers) == 100
    assert numbers == sorted(numbers)
    assert 1_800 < sum(numbers) / 100 < 3_200  # from all of the file
    assert data.notes == ("100 of 5,000 rows were drawn at random; more are not held at once.",)
    assert read_labelled(path).texts == data.texts


@pytest.mark.slow
def test_a_gigabyte_is_read_in_little_memory(tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setattr(dataset, "MAX_ROWS", 2_000)
    path = tmp_path / "large.csv"
    filler = "word " * 2_000
    with path.open("w") as file:
        file.write("text,label\n")
        for number in range(100_000):
            file.write(f"{number} {filler},{'ab'[number % 2]}\n")
    assert path.stat().st_size > 1_000_000_000
    tracemalloc.start()
    data = read_labelled(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data) == 2_000
    assert peak < 150_000_000


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "cannot be read (No such file" in refusal(tmp_path / "none.csv")
    assert "cannot be read" in refusal(tmp_path)


def test_a_test_file_may_hold_few_rows_and_one_label(write):
    assert len(read_labelled(write("text,label\nx,a\n"), min_rows_per_class=0)) == 1
