"""What a run tells of its inputs: counts, failures with their stage, and another try."""

import copy
import json
import pickle

import pytest
from conftest import paint

from t2i_pipelines import InsertReport, build_insert_pipeline, retry, sync
from t2i_pipelines.collection import open_collection
from t2i_pipelines.types import Outcome, Reason


@pytest.fixture
def broken(pictures):
    """The images, and one that fails at each stage but the last."""
    (pictures / "bad.png").write_bytes(b"no picture")
    (pictures / "void.png").write_bytes(b"")
    paint(pictures / "gap.png", (0, 0, 0))
    return pictures


def test_an_insert_is_counted_and_its_failures_are_kept(broken, settings):
    report = InsertReport.collect(build_insert_pipeline(**settings)(broken))
    assert (report.total, report.counts["inserted"], report.counts["failed"]) == (10, 7, 3)
    assert [(one.path.rpartition("/")[2], one.reason.stage) for one in report.failed] == [
        ("bad.png", "decode"), ("gap.png", "encode"), ("void.png", "read"),
    ]  # fmt: skip
    assert report.rows == []


def test_rows_stay_four_columns_and_a_reason_stays_a_text(broken, settings):
    rows = build_insert_pipeline(**settings)(broken).to_list()
    assert {len(row) for row in rows} == {4}
    reasons = {status: reason for _, _, status, reason in rows}
    assert reasons["inserted"] == ""
    assert isinstance(reasons["failed"], str)
    assert json.dumps(reasons["failed"]).startswith('"cannot ')


def test_a_row_that_milvus_cannot_hold_fails_at_insert(pictures, settings):
    rows = [{"path": pictures / "red.png", "odd": object()}]
    (failed,) = InsertReport.collect(build_insert_pipeline(**settings)(rows)).failed
    assert (failed.reason.stage, failed.reason.metadata["odd"]) == ("insert", rows[0]["odd"])


def test_collecting_takes_any_rows_and_keeps_only_what_it_must():
    def rows():
        for n in range(100_000):
            yield f"/{n}.png", str(n), "failed" if n % 50_000 == 7 else "inserted", ""

    report = InsertReport.collect(rows())
    assert (report.total, len(report.failed), report.rows) == (100_000, 2, [])
    assert report.summary() == "100,000 images: 99,998 inserted, 0 unchanged, 2 failed"


def test_the_summary_names_what_came_up_and_the_report_its_first_ten_failures():
    report = InsertReport()
    for status in ("updated", "reused", "reused", "deleted", "unchanged"):
        report.add(Outcome("/a.png", "a", status, ""))
    assert str(report) == "4 images: 0 inserted, 1 updated, 2 reused, 1 unchanged, 1 deleted, 0 failed"
    assert repr(report) == f"<InsertReport: {report}>"
    for n in range(12):
        report.add(Outcome(f"/{n}.png", str(n), "failed", Reason(f"cannot read {n}", "read")))
    lines = str(report).splitlines()
    assert lines[1:3] == ["  read: cannot read 0", "  read: cannot read 1"]
    assert lines[-1] == "  ... and 2 more"
    assert len(lines) == 12


def test_a_table_has_the_failures_or_every_row_and_always_the_counts(broken, settings):
    frame = sync(broken, **settings).to_pandas()
    assert list(frame.columns) == ["path", "id", "status", "stage", "reason"]
    assert sorted(frame["stage"]) == ["decode", "encode", "read"]
    assert {type(reason) for reason in frame["reason"]} == {str}
    assert frame.attrs["counts"]["inserted"] == 7
    report = sync(broken, report=InsertReport(keep_rows=True), **settings)
    assert report.to_pandas()["status"].value_counts().to_dict() == {"unchanged": 7, "failed": 3}
    assert list(InsertReport().to_pandas().columns) == list(frame.columns)


def test_a_report_is_json_too(broken, settings):
    found = json.loads(json.dumps(sync(broken, **settings).as_dict()))
    assert found["counts"]["failed"] == len(found["failed"]) == 3
    assert (found["dry_run"], found["note"]) == (False, "")
    assert {one["stage"] for one in found["failed"]} == {"read", "decode", "encode"}
    assert set(found["failed"][0]) == {"path", "id", "stage", "reason"}


def test_a_reason_survives_copies_and_pickles():
    reason = Reason("no", "decode", {"year": 2015})
    for same in (copy.deepcopy(reason), pickle.loads(pickle.dumps(reason))):
        assert (same, same.stage, same.metadata) == ("no", "decode", {"year": 2015})


def test_what_failed_is_tried_again_with_its_id_and_metadata(pictures, settings):
    rows = [
        {"path": pictures / "bad.png", "id": "k", "year": 2015},
        {"path": pictures / "late.png", "year": 2016},
        {"path": pictures / "red.png", "year": 2017},
    ]
    (pictures / "bad.png").write_bytes(b"no picture")
    report = sync(rows, **settings)
    assert report.counts["failed"] == 2
    paint(pictures / "bad.png", "blue")
    again = retry(report.failed, **settings)
    assert (again.counts["inserted"], [one.path for one in again.failed]) == (1, [str(pictures / "late.png")])
    paint(pictures / "late.png", "red")
    assert retry(again.failed, **settings).counts["inserted"] == 1
    stored = open_collection(uri=settings["uri"]).rows(["k"], ["year", "path"])
    assert stored["k"]["year"] == 2015
    assert sync(rows, **settings).counts["unchanged"] == 3, "a retry stores what the run would have stored"


def test_nothing_to_try_again_is_no_error(on_disk):
    report = retry([], **on_disk)
    assert (report.total, str(report)) == (0, "0 images: 0 inserted, 0 unchanged, 0 failed")
    assert not on_disk["uri"].exists()
