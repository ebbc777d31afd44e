"""Where a run's time went: the sums, by a clock that is told the time, and the words."""

import copy
import logging
import pickle
import threading

import numpy as np
import pytest
from conftest import paint

from t2i_pipelines import InsertReport, build_insert_pipeline, sync
from t2i_pipelines.images import records
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.types import Batch, Outcome, Reason, Stopwatch, budget


class Time:
    def __init__(self):
        self.is_now = 100.0

    def __call__(self):
        return self.is_now

    def spend(self, watch, stage, seconds, of_a_thread=False):
        with watch.thread(stage) if of_a_thread else watch.busy(stage):
            self.is_now += seconds


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def watch(time):
    return Stopwatch(time)


def test_stages_add_up_and_the_run_lasts_from_first_to_last(time, watch):
    for _ in range(2):
        time.spend(watch, "insert", 1)
        time.is_now += 10
        time.spend(watch, "encode", 2)
    time.is_now += 1000
    assert watch.stages == {"encode": 4, "insert": 2}
    assert list(watch.stages) == ["encode", "insert"], "in the order of a run"
    assert watch.seconds == 26


def test_a_block_that_raises_is_counted_too(time, watch):
    def fail():
        with watch.busy("decode"):
            time.is_now += 3
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert watch.stages == {"decode": 3}


def test_reading_and_decoding_divide_their_step_as_its_threads_did(time, watch):
    time.spend(watch, "read", 1)  # the source
    time.spend(watch, "decode", 8)
    for _ in range(4):  # threads
        time.spend(watch, "read", 3, of_a_thread=True)
        time.spend(watch, "decode", 1, of_a_thread=True)
    assert watch.stages == {"read": 1 + 6, "decode": 2}


def test_a_copy_begins_anew(time, watch):
    time.spend(watch, "decode", 1)
    reason = Reason("no", "decode")
    reason.clock = watch
    for same in (copy.deepcopy(reason), pickle.loads(pickle.dumps(reason))):
        assert (same, same.stage) == ("no", "decode")


def test_the_line_tells_shares_of_the_sum_and_how_idle_the_encoder_was():
    stages = {"read": 0.1, "decode": 71, "encode": 22, "insert": 7}
    said = budget(10_000, 84, stages, {"decode": "decode_workers=8", "encode": "batch_size=32"})
    assert said == (
        "10,000 images in 84 s (119/s): decode 71 %, encode 22 %, insert 7 %, encoder idle 74 %; "
        "decode_workers=8 would help"
    )


@pytest.mark.parametrize(("images", "seconds", "stages", "line"), [
    (0, 0.0, {}, "0 images in 0.0 s"),
    (7, 2.0, {"scan": 1.0, "compare": 3.0}, "7 images in 2.0 s (3.5/s): scan 25 %, compare 75 %"),
    (5000, 1250.0, {"encode": 1250.5}, "5,000 images in 1,250 s (4.0/s): encode 100 %, encoder idle 0 %"),
])  # fmt: skip
def test_the_line_of_runs_that_are_empty_unchanged_or_long(images, seconds, stages, line):
    assert budget(images, seconds, stages) == line


def test_a_hint_is_only_for_a_stage_that_has_more_than_half():
    hints = {"encode": "batch_size=32"}
    assert "help" not in budget(9, 9, {"decode": 3, "encode": 4, "insert": 3}, hints)
    assert "help" not in budget(9, 9, {"decode": 7, "encode": 2}, hints)
    assert budget(9, 9, {"decode": 2, "encode": 7}, hints).endswith("; batch_size=32 would help")


def test_a_report_sums_the_clocks_that_came_with_its_outcomes(time, watch):
    time.spend(watch, "decode", 1)
    time.spend(watch, "encode", 3)
    later = Stopwatch(time)
    time.spend(later, "encode", 6)
    report = InsertReport()
    for clock in (watch, later, watch):
        reason = Reason("", "insert")
        reason.clock = clock
        report.add(Outcome("/a.png", "a", "inserted", reason))
    assert (report.seconds, report.stages) == (10, {"decode": 1, "encode": 9})
    assert str(report).splitlines()[-1] == (
        "3 images in 10 s (0.3/s): decode 10 %, encode 90 %, encoder idle 10 %"
    )
    assert report.as_dict()["stages"] == {"decode": 1, "encode": 9}


def test_a_report_without_a_clock_has_no_budget():
    report = InsertReport.collect([("/a.png", "a", "inserted", "")])
    assert (report.seconds, report.stages, report.budget()) == (0, {}, "")
    assert str(report) == report.summary()


def test_an_insert_tells_its_stages_even_if_everything_fails(pictures, settings):
    report = InsertReport.collect(build_insert_pipeline(**settings)(pictures))
    assert {"read", "look up", "decode", "encode", "insert"} <= set(report.stages)
    assert len(report.clocks) == 1
    assert str(report).splitlines()[-1].startswith("7 images in ")
    report = InsertReport.collect(build_insert_pipeline(**settings)(["/no/such.png"]))
    assert (report.counts["failed"], len(report.clocks)) == (1, 1)
    assert report.to_pandas()["stage"].tolist() == ["read"]


def test_each_run_of_a_pipeline_has_a_clock_of_its_own(pictures, settings):
    insert = build_insert_pipeline(**settings)
    clocks = [InsertReport.collect(insert(pictures), keep_rows=True) for _ in range(2)]
    assert clocks[0].clocks[0] is not clocks[1].clocks[0]
    assert "encode" in clocks[0].stages
    assert set(clocks[1].to_pandas()["stage"]) == {""}, "only failures have a stage"


def test_small_batches_are_what_a_hint_is_about(pictures, settings):
    for size, hinted in ((2, True), (32, False)):
        report = InsertReport.collect(
            build_insert_pipeline(**settings, batch_size=size, refresh=True)(pictures)
        )
        assert (report.clocks[0].hints.get("encode") == "batch_size=32") is hinted


def test_sync_adds_what_it_does_around_the_insert(pictures, settings):
    report = sync(pictures, **settings)
    assert {"scan", "compare", "decode", "encode", "insert"} <= set(report.stages)
    plan = sync(pictures, dry_run=True, **settings)
    assert "encode" not in plan.stages
    assert "encoder idle" not in str(plan)


def test_a_run_is_logged_with_fields(pictures, settings, caplog):
    (pictures / "bad.png").write_bytes(b"no picture")
    paint(pictures / "new.png", "red")
    with caplog.at_level(logging.DEBUG, "t2i_pipelines.ingest"):
        InsertReport.collect(build_insert_pipeline(**settings)(pictures))
    infos = [one for one in caplog.records if one.levelno == logging.INFO]
    assert [one.getMessage().split(":")[0].split(" in ")[0] for one in infos] == [
        f"inserting {pictures}", "9 images",
    ]  # fmt: skip
    assert infos[1].counts == {"inserted": 8, "failed": 1}
    assert infos[1].stages.keys() >= {"decode", "encode"}
    (failed,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert (failed.path, failed.stage) == (str(pictures / "bad.png"), "decode")
    debugs = [one for one in caplog.records if one.levelno == logging.DEBUG]
    assert {"decode", "encode", "insert"} <= {one.stage for one in debugs}
    assert {one.records for one in debugs if one.stage == "decode"} == {9}


def test_nothing_is_said_unasked(pictures, settings, capfd):
    (pictures / "bad.png").write_bytes(b"no picture")
    sync(pictures, **settings)
    assert capfd.readouterr().err == ""


def test_fewer_workers_than_cores_are_what_a_hint_is_about(pictures, settings, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    for workers, hint in ((2, "decode_workers=8"), (8, None), (None, None)):
        insert = build_insert_pipeline(**settings, decode_workers=workers, refresh=True)
        assert InsertReport.collect(insert(pictures)).clocks[0].hints.get("decode") == hint


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_pictures_are_decoded_at_a_time_than_there_are_workers(pictures, monkeypatch, workers):
    at_work, peak, lock = [], [], threading.Lock()
    met = threading.Barrier(workers)

    def slowly(*args):
        with lock:
            at_work.append(args)
            peak.append(len(at_work))
        met.wait(timeout=30)  # as many as there are workers do come together
        with lock:
            at_work.pop()
        return np.zeros((2, 2, 3), np.uint8)

    monkeypatch.setattr("t2i_pipelines.operators.image_decode.decode", slowly)
    batch = Batch(records(sorted(pictures.iterdir())[:6]))
    ImageDecode(decode_workers=workers)(batch)
    assert max(peak) == workers
    assert all(record.image is not None for record in batch)
