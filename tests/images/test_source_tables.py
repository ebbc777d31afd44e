"""CSV, TSV, JSON lines and Parquet: where the images are, and what becomes of the other columns."""

import datetime
import decimal
import gzip
import json
import tracemalloc
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import memory_uri, paint
from web import serving

from t2i_pipelines import InsertReport, Searcher, build_insert_pipeline, sync
from t2i_pipelines.errors import SourceError
from t2i_pipelines.images import count, records
from t2i_pipelines.images.tables import typed

ROWS = [
    {"path": "a.png", "year": 2015, "price": 1.5, "tag": "x"},
    {"path": "sub/b.png", "year": 1999, "price": -3.0, "tag": "y"},
]


def write_csv(path: Path, separator: str = ",") -> Path:
    lines = [separator.join(ROWS[0]), *(separator.join(map(str, row.values())) for row in ROWS)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_json(path: Path) -> Path:
    path.write_text("\n\n".join(map(json.dumps, ROWS)) + "\n")
    return path


def write_parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def packed(path: Path) -> Path:
    into = path.with_name(path.name + ".gz")
    into.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return into


WRITERS = {
    "csv": lambda folder: write_csv(folder / "Rows.CSV"),
    "csv.gz": lambda folder: packed(write_csv(folder / "rows.csv")),
    "tsv": lambda folder: write_csv(folder / "rows.tsv", "\t"),
    "jsonl": lambda folder: write_json(folder / "rows.jsonl"),
    "ndjson": lambda folder: write_json(folder / "rows.ndjson"),
    "jsonl.gz": lambda folder: packed(write_json(folder / "rows.jsonl")),
    "parquet": lambda folder: write_parquet(folder / "rows.parquet"),
}


@pytest.fixture
def folder(tmp_path):
    paint(tmp_path / "a.png", "red")
    paint(tmp_path / "sub" / "b.png", "blue")
    return tmp_path


@pytest.mark.parametrize("kind", WRITERS)
def test_a_table_gives_paths_beside_it_and_columns_with_types(folder, kind, monkeypatch):
    table = WRITERS[kind](folder)
    monkeypatch.chdir(folder.parent)
    first, second = records(table.relative_to(folder.parent))
    assert (first.path, second.path) == (str(folder / "a.png"), str(folder / "sub" / "b.png"))
    assert first.metadata == {"year": 2015, "price": 1.5, "tag": "x"}
    assert [type(value) for value in second.metadata.values()] == [int, float, str]
    assert (first.status, first.size) == (None, (folder / "a.png").stat().st_size)
    assert count(table) == 2


def test_a_column_url_will_do_and_beside_a_path_it_is_metadata(folder):
    (folder / "u.csv").write_text("url,year\nhttps://example.org/a.png?x=1,2015\na.png,2016\n")
    web, local = records(folder / "u.csv")
    assert (web.path, web.metadata, web.status) == ("https://example.org/a.png?x=1", {"year": 2015}, None)
    assert (web.size, web.mtime) == (-1, -1)
    assert local.path == str(folder / "a.png")
    (folder / "both.csv").write_text(
        "path,url\na.png,https://example.org/a.png\n,https://example.org/b.png\n"
    )
    first, second = records(folder / "both.csv")
    assert (first.path, first.metadata) == (str(folder / "a.png"), {"url": "https://example.org/a.png"})
    assert (second.path, second.metadata) == ("https://example.org/b.png", {})


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("0", 0), ("2015", 2015), ("-3", -3), ("9223372036854775807", 2**63 - 1), ("1.50", 1.5),
        ("-0.25", -0.25), ("1e-05", 1e-5), ("2.5e+20", 2.5e20),
    ],
)  # fmt: skip
def test_a_cell_that_reads_as_a_number_is_one(cell, value):
    assert (typed(cell), type(typed(cell))) == (value, type(value))


@pytest.mark.parametrize(
    "cell",
    [
        "007", "-0", "+1", "1_000", " 1", "1.", ".5", "00.5", "1,5", "nan", "inf", "1e5", "1E-05", "e", "-e1",
        "0x10", "9223372036854775808", "1" * 5000, "0.1234567890123456", "٣", "true", "2015-01-01", "",
    ],
)  # fmt: skip
def test_a_cell_that_would_lose_something_as_a_number_stays_text(cell):
    assert typed(cell) == cell
    assert isinstance(typed(cell), str)


def test_an_id_stays_text_and_empty_cells_are_left_out(folder):
    (folder / "rows.csv").write_text("path,id,year,tag\na.png,1.50,,x\nsub/b.png,018,2015,\n")
    first, second = records(folder / "rows.csv")
    assert (first.id, first.metadata) == ("1.50", {"tag": "x"})
    assert (second.id, second.metadata) == ("018", {"year": 2015})


def test_values_keep_their_types_or_become_what_json_can_hold(folder):
    rich = {
        "path": "a.png",
        "day": datetime.date(2015, 1, 2),
        "at": datetime.datetime(2015, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
        "hour": datetime.time(3, 4),
        "took": datetime.timedelta(minutes=1.5),
        "price": decimal.Decimal("1.25"),
        "key": uuid.UUID(int=5),
        "tags": ["x", None],
        "box": {"w": 3, "at": datetime.date(2015, 1, 2)},
        "nothing": None,
        "nan": float("nan"),
        "yes": True,
    }
    (record,) = records([{**rich, "path": folder / "a.png"}])
    plain = {
        "day": "2015-01-02", "at": "2015-01-02T03:04:05+00:00", "hour": "03:04:00", "took": 90.0,
        "price": 1.25, "key": "00000000-0000-0000-0000-000000000005", "tags": ["x", None],
        "box": {"w": 3, "at": "2015-01-02"}, "yes": True,
    }  # fmt: skip
    assert record.metadata == plain
    del rich["key"]
    pq.write_table(pa.Table.from_pylist([rich]), folder / "rich.parquet")
    (record,) = records(folder / "rich.parquet")
    assert record.metadata == {name: value for name, value in plain.items() if name != "key"}


def test_missing_values_of_pandas_are_left_out(folder):
    import pandas as pd

    frame = pd.DataFrame({"path": [str(folder / "a.png")] * 2, "when": [pd.Timestamp("2015-01-02"), pd.NaT]})
    frame["year"] = pd.array([2015, None], dtype="Int64")
    first, second = records(frame.to_dict("records"))
    assert first.metadata == {"when": "2015-01-02T00:00:00", "year": 2015}
    assert second.metadata == {}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"[1, 2]\n", r"a\.jsonl' is not JSON lines in UTF-8: a list"),
        ("a.jsonl", b"path,year\n", r"a\.jsonl' is not JSON lines in UTF-8: Expecting value"),
        ("a.jsonl", b'{"file": 1}\n', r"a\.jsonl' has no column `path` or `url`; its columns are file"),
        ("a.jsonl", b"\n\n", "the source is empty"),
        ("a.parquet", b"no parquet", r"a\.parquet' is not Parquet: "),
        ("a.csv.gz", b"no gzip", r"a\.csv\.gz' is not a table in UTF-8: Not a gzipped file"),
        ("a.jsonl.gz", b"no gzip", r"a\.jsonl\.gz' is not JSON lines in UTF-8: Not a gzipped file"),
        ("a.tsv", b"file;year\n", r"a\.tsv' has no column `path` or `url`; its columns are file;year"),
    ],
)
def test_a_table_that_cannot_be_read_is_an_error_before_any_work(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        records(tmp_path / name)


def test_a_parquet_file_without_places_or_with_bytes_is_refused(tmp_path):
    pq.write_table(pa.table({"file": ["a.png"], "year": [1]}), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="has no column `path` or `url`; its columns are file, year"):
        records(tmp_path / "a.parquet")
    pq.write_table(pa.table({"path": ["a.png"], "thumb": [b"\xff"]}), tmp_path / "b.parquet")
    with pytest.raises(SourceError, match="column thumb holds bytes that are not text in UTF-8"):
        records(tmp_path / "b.parquet")
    pq.write_table(pa.table({"path": pa.array([], pa.string())}), tmp_path / "c.parquet")
    assert count(tmp_path / "c.parquet") == 0
    with pytest.raises(SourceError, match="the source is empty"):
        records(tmp_path / "c.parquet")


def test_a_bad_line_is_that_lines_outcome(folder):
    (folder / "rows.jsonl").write_bytes(b'{"path": "a.png"}\n{"path": \n[]\n{"year": 1}\n{"path": "a.png"}\n')
    good, cut, array, nowhere, last = records(folder / "rows.jsonl")
    assert [good.status, last.status] == [None, None]
    assert cut.reason.startswith(f"line 2 of {folder / 'rows.jsonl'} is no JSON object: Expecting value")
    assert array.reason.startswith(f"line 3 of {folder / 'rows.jsonl'} is no JSON object: a list: b'[]")
    assert nowhere.reason == "row without a `path` or `url`: {'year': 1}"


def test_a_bad_line_of_a_csv_is_that_lines_outcome(folder):
    long = b"x" * 200_000
    lines = [b"path,tag", b"a.png,\xff", b"a.png," + long, b"a.png,2,3", b"a.png", b"a.png,good"]
    (folder / "rows.csv").write_bytes(b"\n".join(lines))
    latin, wide, surplus, short, good = records(folder / "rows.csv")
    assert latin.reason.startswith(f"line 2 of {folder / 'rows.csv'} is not in UTF-8: ")
    assert wide.reason == (
        f"line 3 of {folder / 'rows.csv'} cannot be read: field larger than field limit (131072)"
    )
    assert surplus.reason.startswith(f"line 4 of {folder / 'rows.csv'} has more cells than its header: ")
    assert (short.status, short.metadata) == (None, {})
    assert (good.status, good.metadata) == (None, {"tag": "good"})
    assert count(folder / "rows.csv") == 5


@pytest.mark.parametrize("name", ["rows.csv.gz", "rows.jsonl.gz"])
def test_a_table_that_breaks_off_says_so_in_its_last_row(folder, name):
    line = "a.png,%d" if "csv" in name else '{"path": "a.png", "year": %d}'
    lines = (
        ["path,year", *(line % n for n in range(50_000))]
        if "csv" in name
        else [line % n for n in range(50_000)]
    )
    content = gzip.compress("\n".join(lines).encode())
    (folder / name).write_bytes(content[: len(content) // 2])
    *good, last = records(folder / name)
    assert len(good) > 1000
    assert {record.status for record in good} == {None}
    assert last.status == "failed"
    assert f"{folder / name} breaks off" in last.reason
    assert count(folder / name) == len(good) + 1


def test_a_missing_permission_is_an_error_of_ours(folder, monkeypatch):
    table = write_csv(folder / "rows.csv")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("t2i_pipelines.images.files.open", refuse, raising=False)
    with pytest.raises(SourceError, match=r"cannot read '.*rows\.csv': Permission denied"):
        records(table)


def test_tables_and_their_relative_paths_may_be_on_the_web(folder):
    with serving() as web:
        for kind in ("csv", "jsonl", "parquet"):
            table = WRITERS[kind](folder)
            web.pages[f"/in/{table.name}"] = table.read_bytes()
            first, second = records(f"{web.url}/in/{table.name}?version=1")
            assert (first.path, second.path) == (f"{web.url}/in/a.png", f"{web.url}/in/sub/b.png")
            assert first.metadata == {"year": 2015, "price": 1.5, "tag": "x"}
            assert count(f"{web.url}/in/{table.name}") is None
        with pytest.raises(SourceError, match=r"cannot read 'http://.*/gone\.csv': status 404 Not Found"):
            records(f"{web.url}/gone.csv")


def test_globs_braces_and_lists_may_name_tables(folder):
    for n in range(3):
        (folder / f"part-{n}.csv").write_text(f"path,part\na.png,{n}\n")
    for source in (f"{folder}/part-*.csv", f"{folder}/part-{{0..2}}.csv", sorted(folder.glob("*.csv"))):
        assert [record.metadata for record in records(source)] == [{"part": 0}, {"part": 1}, {"part": 2}]
    assert count(f"{folder}/part-*.csv") is None
    (folder / "part-1.csv").write_text("file\n")
    first, bad, last = records(f"{folder}/part-*.csv")
    assert (first.status, last.status, bad.status) == (None, None, "failed")
    assert "part-1.csv' has no column `path` or `url`" in bad.reason
    with pytest.raises(SourceError, match=r"2 of 5 files are missing, the first is '.*part-3\.csv'"):
        records(f"{folder}/part-{{0..4}}.csv")
    with pytest.raises(SourceError, match="the braces in .* are not balanced"):
        records(f"{folder}/part-{{0..4.csv")


def test_a_file_whose_name_has_braces_is_that_file(folder):
    (folder / "odd{1,2}.csv").write_text("path\na.png\n")
    assert [record.path for record in records(folder / "odd{1,2}.csv")] == [str(folder / "a.png")]


def peak_of(source, rows: int) -> float:
    """Most megabytes that reading took, beside what was there."""
    tracemalloc.start()
    assert sum(1 for _ in records(source)) == rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_is_never_held_in_memory(tmp_path, kind):
    rows = [{"url": f"https://example.org/{n}.png", "tag": "x" * 100} for n in range(20_000)]  # 3 MB of text
    table = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), table, row_group_size=1000)
        assert pq.ParquetFile(table).metadata.num_row_groups == 20
    elif kind == "csv":
        table.write_text("url,tag\n" + "".join(f"{row['url']},{row['tag']}\n" for row in rows))
    else:
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    next(records(table))  # imports
    assert peak_of(table, 20_000) < 1.5


def table(folder, text, name="rows.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def found(source) -> list[tuple[str, dict[str, object]]]:
    return [(Path(one.path).name if one.id else one.reason, one.metadata) for one in records(source)]


@pytest.mark.parametrize(
    ("text", "name", "encoding"),
    [
        ("path;tag\r\na.png;x,y\r\n", "rows.csv", "utf-8-sig"),
        ("path\ttag\r\na.png\tx,y\r\n", "rows.csv", "utf-16"),
        ('sep=;\r\npath;tag\r\na.png;"x,y"\r\n', "rows.csv", "utf-8"),
        ("path|tag\na.png|x,y\n", "rows.tsv", "utf-8"),
        (',path,tag\n0,a.png,"x,y"\n', "rows.csv", "utf-8"),
        ('path,tag,\na.png,"x,y",\n', "rows.csv", "utf-8"),
    ],
)
def test_tables_of_spreadsheets_and_of_pandas_are_read(folder, text, name, encoding):
    assert found(table(folder, text, name, encoding)) == [("a.png", {"tag": "x,y"})]


def test_a_table_in_windows_1252_says_so_and_how_to_convert_it(folder):
    with pytest.raises(SourceError, match=r"in Windows-1252 it is 'ü': save the table as 'CSV UTF-8'"):
        records(table(folder, "path,Zürich\na.png,1\n", encoding="cp1252"))
    good, bad = records(table(folder, "path,tag\na.png,1\nb.png,Zürich\n", encoding="cp1252"))
    assert (good.status, bad.status) == (None, "failed")
    assert "in Windows-1252 it is 'ü'" in bad.reason


def test_a_column_without_a_name_that_is_not_the_first_must_be_empty(folder):
    (row,) = records(table(folder, "path,tag,\na.png,x,lost\n"))
    assert row.reason.endswith("has 'lost' in column 3, which has no name; give it one in the header")


@pytest.mark.parametrize(
    ("text", "name"),
    [("path,tag,tag\na.png,1,2\n", "rows.csv"), ("path\tpath\na.png\tb.png\n", "rows.tsv")],
)
def test_two_columns_of_one_name_are_refused(folder, text, name):
    with pytest.raises(SourceError, match=r"has more than one column named (tag|path); rename or remove"):
        records(table(folder, text, name))


def test_two_columns_or_keys_of_one_name_are_refused_in_parquet_and_json(folder):
    columns = [pa.array(["a.png"]), pa.array(["x"]), pa.array(["y"])]
    pq.write_table(pa.table(columns, names=["path", "tag", "tag"]), folder / "a.parquet")
    with pytest.raises(SourceError, match="has more than one column named tag; rename or remove all but one"):
        records(folder / "a.parquet")
    good, bad = records(table(folder, '{"path": "a.png"}\n{"path": "b.png", "x": 1, "x": 2}\n', "a.jsonl"))
    assert (good.status, bad.status) == (None, "failed")
    assert "key 'x' comes twice" in bad.reason


def test_an_open_quotation_mark_fails_its_row_and_takes_in_no_other(folder):
    text = 'path,tag\na.png,1\nb.png,"5 inch\nc.png,2\nd.png,3\n'
    rows = found(table(folder, text))
    assert [name for name, _ in rows if name.endswith(".png")] == ["a.png", "c.png", "d.png"]
    assert f"line 3 of {folder}/rows.csv cannot be read" in rows[1][0]
    closed_late = 'path,tag\na.png,"1\nb.png,2\nc.png,3"\nd.png,4\n'
    rows = found(table(folder, closed_late))
    assert "closed in line 4 only, with rows in between" in rows[0][0]
    assert [name for name, _ in rows[1:]] == ["b.png", "c.png", "d.png"]


def test_a_cell_of_several_lines_is_read_whole(folder):
    assert found(table(folder, 'path,tag\na.png,"one\ntwo, and ""three"""\nb.png,\n')) == [
        ("a.png", {"tag": 'one\ntwo, and "three"'}),
        ("b.png", {}),
    ]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.array([0, 253402300799000001], pa.timestamp("us", tz="Europe/Rome")), None),
        (pa.array([0, 400_000_000_000_000], pa.timestamp("ms")), "14645-06-30T15:06:40.000"),
        (pa.array([0, -99_999_999_999_999], pa.timestamp("ms")), "-1199-02-15T14:13:20.001"),
        (pa.array([0, 10_000_000], pa.date32()), "29349-01-26"),
        (pa.array([0, 1], pa.timestamp("us", tz="Mars/Olympus")), "1970-01-01T00:00:00.000001Z"),
    ],
)
def test_a_date_that_python_cannot_hold_is_stored_as_text(folder, values, text):
    pq.write_table(pa.table({"path": ["a.png", "b.png"], "t": values}), folder / "a.parquet")
    rows = found(folder / "a.parquet")
    assert [name for name, _ in rows] == ["a.png", "b.png"]
    assert rows[1][1]["t"] == (text or rows[1][1]["t"])
    assert isinstance(rows[1][1]["t"], str)


def test_texts_that_parquet_holds_as_bytes_are_read_and_others_fail_their_row(folder):
    tags = [b"red", None, *[b"x"] * 10, b"\xff"]
    paths = pa.array([f"{number}.png".encode() for number in range(13)])
    pq.write_table(pa.table({"path": paths, "tag": pa.array(tags)}), folder / "a.parquet")
    rows = found(folder / "a.parquet")
    assert rows[:2] == [("0.png", {"tag": "red"}), ("1.png", {})]
    assert "row 13 of " in rows[12][0]
    assert "column tag holds bytes that are not text in UTF-8" in rows[12][0]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_of_rows_that_name_one_image_the_first_counts_at_every_batch_size(tmp_path, batch_size):
    for name in ("red", "blue"):
        paint(tmp_path / f"{name}.png", name)
    rows = [f"{name}.png,{name} {number}" for number in range(3) for name in ("red", "blue")]
    (tmp_path / "rows.csv").write_text("path,tag\n" + "\n".join(rows))
    settings = {"uri": memory_uri(tmp_path), "model_name": "colour"}
    insert = build_insert_pipeline(**settings, batch_size=batch_size)
    first, again = (InsertReport.collect(insert(tmp_path / "rows.csv"), keep_rows=True) for _ in range(2))
    synced = sync(tmp_path / "rows.csv", **settings)
    assert (first.counts["inserted"], first.counts["skipped"], first.total) == (2, 4, 6)
    for report in (again, synced):
        assert (report.counts["unchanged"], report.counts["skipped"], report.total) == (2, 4, 6)
    assert [one.status for one in first.rows] == ["inserted"] * 2 + ["skipped"] * 4
    assert first.rows[2].reason.startswith("an earlier row has the same image; give each row an `id`")
    assert first.skipped.total == 4
    assert "6 images: 2 inserted, 0 unchanged, 4 skipped, 0 failed" in first.summary()
    search = Searcher(**settings, output_fields=["tag"])
    assert {hit.fields["tag"] for hit in search("a plain red background")} == {"red 0", "blue 0"}


def test_two_images_of_one_id_are_told_apart_across_batches(tmp_path):
    paths = [str(paint(tmp_path / f"{name}.png", name)) for name in ("red", "blue")]
    insert = build_insert_pipeline(uri=memory_uri(tmp_path), model_name="colour", batch_size=1)
    good, bad = insert([{"path": path, "id": "same"} for path in paths]).to_list()
    assert (good[2], bad[2]) == ("inserted", "failed")
    assert (
        bad[3] == f"id 'same' of {paths[1]} is already that of another row of the source; ids must be unique"
    )
