"""What of an insert on Ray can be seen without Ray: parts of a source, accounts of outcomes, refusals."""

import pickle
import subprocess
import sys
import tarfile

import pyarrow as pa
import pytest
from conftest import paint

from t2i_pipelines.errors import ClusterError, ConfigError, MissingExtraError, SourceError, StoreError
from t2i_pipelines.jobs.ray import insert_distributed, work
from t2i_pipelines.jobs.ray.flow import Arrivals, Flow
from t2i_pipelines.jobs.ray.run import connected
from t2i_pipelines.jobs.ray.work import (
    PARTS_AT_ONCE,
    RECORDS_A_PART,
    Part,
    Shipment,
    packed,
    rounds,
    unpacked,
)
from t2i_pipelines.pipelines.build import checked, insert_arguments
from t2i_pipelines.pipelines.report import InsertReport
from t2i_pipelines.types import Batch, Record, Stopwatch

pytest_plugins = ["milvus_backends"]

SERVER = {"uri": "http://127.0.0.1:19530", "model_name": "colour"}


def flow(**settings) -> Flow:
    import ray

    return Flow.of(insert_arguments(*checked({**SERVER, **settings})), ray)


def read(part: Part, **settings) -> list[Shipment]:
    """What a task that reads gives for a part."""

    table = pa.table({work.PART: [pickle.dumps(part)]})
    return [unpacked(one) for one in work.read(table, flow(**settings).read)]


def ended(part: int, start: int, *records: Record) -> Shipment:
    return Shipment(part, start, Batch(records))


def done(path: str, status: str = "unchanged") -> Record:
    record = Record(path, path, status=status)
    if status == "failed":
        record.status = None
        record.fail(f"{path} is no good")
    return record


def arrivals() -> tuple[Arrivals, InsertReport, list[str]]:
    report, told = InsertReport(keep_rows=True), []
    return Arrivals(report, Stopwatch(), lambda one: told.append(one.path)), report, told


def test_a_folder_is_one_part_with_an_absolute_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(rounds("photos")) == [[Part(0, str(tmp_path / "photos"))]]
    assert list(rounds("s3://bucket/photos")) == [[Part(0, "s3://bucket/photos")]]


@pytest.mark.parametrize("pattern", ["{0..2}.tar", "*.tar"])
def test_each_of_many_tars_is_a_part(tmp_path, pattern):
    for number in range(3):
        tarfile.open(tmp_path / f"{number}.tar", "w").close()
    (parts,) = rounds(tmp_path / pattern)
    assert parts == [Part(number, [str(tmp_path / f"{number}.tar")]) for number in range(3)]


def test_a_tar_that_braces_name_and_that_is_missing_is_an_error_at_once(tmp_path):
    tarfile.open(tmp_path / "0.tar", "w").close()
    with pytest.raises(SourceError, match=r"1 of 2 files are missing, the first is '.*/1\.tar'"):
        list(rounds(tmp_path / "{0..1}.tar"))


@pytest.mark.slow
def test_a_list_is_cut_into_parts_that_are_made_when_they_are_needed(tmp_path):
    made = []

    def items():
        for number in range(RECORDS_A_PART * (PARTS_AT_ONCE + 1) + 1):
            made.append(number)
            yield f"https://example.org/{number}.jpg"

    each = rounds(items())
    first = next(each)
    assert [part.number for part in first] == list(range(PARTS_AT_ONCE))
    assert len(made) == RECORDS_A_PART * PARTS_AT_ONCE, "the rest of the items was read ahead"
    (last,) = each
    assert [len(part.source) for part in last] == [RECORDS_A_PART, 1]
    assert last[-1].source[0].path.endswith(f"/{len(made) - 1}.jpg")
    assert [part.number for part in last] == [PARTS_AT_ONCE, PARTS_AT_ONCE + 1]


def test_a_table_in_a_list_is_a_part_of_its_own_and_paths_start_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "a.png", "red")
    (parts,) = rounds(["a.png", "more.csv", {"path": "a.png", "id": "x"}])
    assert parts[0].source[0].path == str(tmp_path / "a.png")
    assert parts[1].source == [str(tmp_path / "more.csv")]
    assert parts[2].source[0].id == "x"


@pytest.mark.parametrize("source", [7, b"photos"])
def test_what_is_no_source_is_refused_by_its_type(source):
    with pytest.raises(SourceError, match=f"got {type(source).__name__}"):
        list(rounds(source))


def test_a_part_is_read_in_batches_and_counted_at_its_end(tmp_path):
    for number in range(5):
        paint(tmp_path / f"{number}.png", "red")
    *batches, end = read(Part(3, str(tmp_path)), batch_size=2)
    assert [(one.part, one.start, len(one.batch)) for one in batches] == [(3, 0, 2), (3, 2, 2), (3, 4, 1)]
    assert not any(one.batch.last for one in batches), "a writer would flush at the end of each part"
    assert (end.total, len(end.batch), end.error) == (5, 0, None)


def test_a_part_that_is_empty_is_no_error_and_a_source_that_is_is(tmp_path):
    (tmp_path / "empty.csv").write_text("path\n")
    (end,) = read(Part(0, [str(tmp_path / "empty.csv")]))
    assert (end.total, end.error) == (0, None)
    (end,) = read(Part(0, str(tmp_path / "empty.csv")))
    assert isinstance(end.error, SourceError)


def test_an_error_of_ours_travels_as_a_value(tmp_path):
    (end,) = read(Part(0, [Record("x", status="failed", reason="x is no good")]), on_error="raise")
    assert (type(end.error), str(end.error)) == (SourceError, "x is no good")
    table = work.prepare(packed(end), flow().prepare)
    assert str(unpacked(table).error) == "x is no good"


def test_a_batch_that_carries_an_error_is_worked_on_no_further():
    failed = Shipment(0, 0, Batch([Record("/none.png", "x")]), error=SourceError("the folder is gone"))
    shipment = unpacked(work.Encoder(flow().embed)(packed(failed)))
    assert (str(shipment.error), shipment.batch[0].status) == ("the folder is gone", None)


def test_records_that_have_ended_leave_behind_what_nobody_needs():
    batch = Batch([done("a"), done("b", "failed")])
    batch[0].metadata = batch[1].metadata = {"year": 2020}
    shipment = unpacked(work.Encoder(flow().embed)(packed(Shipment(0, 0, batch))))
    assert [record.metadata for record in shipment.batch] == [{}, {"year": 2020}]
    assert [record.vector for record in shipment.batch] == [None, None]


def test_tasks_that_do_not_embed_never_ask_for_a_gpu():
    operators = dict([*flow(device="cuda", precision="bf16").prepare.operators, *flow().write.operators])
    targets = [
        operators["skip_unchanged"]["target"],
        operators["image_decode"]["model"],
        operators["milvus_insert"]["target"],
    ]
    assert {(one.device, one.precision) for one in targets} == {("cpu", "auto")}
    assert dict(flow(device="cuda").embed.operators)["clip"]["model"].device == "cuda"


def test_outcomes_are_counted_once_whatever_comes_twice_or_out_of_turn():
    taking, report, told = arrivals()
    late = ended(0, 0, done("a", "failed"), done("b"))
    taking.take(ended(0, 2, done("c", "failed")))
    taking.take(Shipment(0, 3, total=3))
    taking.take(late)
    taking.take(ended(0, 2, done("c", "failed")))
    taking.take(ended(0, 0, done("a", "failed"), done("b")))
    assert taking.check(1) == 3
    assert told == ["c", "a", "b"]
    assert (report.counts["failed"], report.counts["unchanged"]) == (2, 1)


def test_what_the_report_keeps_comes_in_the_order_of_the_source():
    taking, report, _ = arrivals()
    report.add(done("before", "failed").outcome)
    taking = Arrivals(report, Stopwatch(), lambda one: None)
    for part, start, *paths in [(1, 0, "d"), (0, 2, "c"), (0, 0, "a", "b")]:
        taking.take(ended(part, start, *(done(path, "failed") for path in paths)))
    taking.sort()
    assert [one.path for one in report.failed] == ["before", "a", "b", "c", "d"]
    assert [one.path for one in report.rows] == ["before", "a", "b", "c", "d"]


def test_a_batch_that_never_comes_is_noticed():
    taking, _, _ = arrivals()
    taking.take(ended(0, 0, done("a")))
    taking.take(ended(0, 2, done("c")))
    taking.take(Shipment(0, 3, total=3))
    with pytest.raises(ClusterError, match=r"gave 2 outcomes for 3 inputs.*run it again"):
        taking.check(1)


def test_a_part_whose_end_never_comes_is_noticed():
    taking, _, _ = arrivals()
    taking.take(ended(0, 0, done("a")))
    with pytest.raises(ClusterError, match="some are not accounted for"):
        taking.check(1)


def test_an_error_that_came_as_a_value_is_raised():
    taking, _, _ = arrivals()
    with pytest.raises(StoreError, match="the disk is full"):
        taking.take(Shipment(0, 0, error=StoreError("the disk is full")))


def test_a_local_file_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ConfigError) as refused:
        insert_distributed(tmp_path, uri=tmp_path / "x.db", model_name="colour")
    assert f"milvus-lite server --data-dir {tmp_path}/x.db --host 127.0.0.1 --port 19530" in str(
        refused.value
    )
    assert "one process can open" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"encoders": 0}, "encoders must be"),
        ({"encoders": (3, 2)}, r"\(at least, at most\), got \(3, 2\)"),
        ({"writers": 0}, "writers must be"),
        ({"readers": "four"}, "readers must be"),
        ({"batch_size": 0}, "batch_size must be"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(given, said):
    with pytest.raises(ConfigError, match=said):
        insert_distributed("photos", **SERVER, **given)


def test_without_ray_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        MissingExtraError, match=r"Ray Data is not installed .*pip install 't2i-pipelines\[ray\]'"
    ):
        insert_distributed("photos", **SERVER)


def test_a_cluster_that_does_not_answer_is_named(dead_port):
    place = f"127.0.0.1:{dead_port}"
    with pytest.raises(ClusterError, match=rf"at '{place}': .*refused; give the address"), connected(place):
        pytest.fail("there is nothing to be connected to")


def test_the_names_are_found_without_importing_ray():
    code = "import sys, t2i_pipelines.jobs.ray; print('ray' in sys.modules, 'pyarrow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.split() == ["False", "False"]
