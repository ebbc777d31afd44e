"""The rows that a run keeps on disk, and the records that wait: nothing is lost or mixed up."""

import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t2i_pipelines.images import path_key, records, scratch
from t2i_pipelines.images.scratch import Spill
from t2i_pipelines.jobs.sync import FAILED, GONE, PENDING, UNCHANGED, Inventory, Plan, Twins, preview, stamp
from t2i_pipelines.operators.milvus import SkipUnchanged
from t2i_pipelines.types import KEPT, Record


@given(st.lists(st.text(min_size=1), unique=True, max_size=5), st.text(min_size=1))
def test_any_id_is_found_as_it_was_stored_and_no_other(ids, other):
    digest = f"{7:032x}:{9:016x}"
    inventory = Inventory([[{"id": id, "size": 1, "mtime": 2, "digest": digest} for id in ids]])
    row = (stamp(1, 2, digest), (7).to_bytes(16, "big"), GONE)
    assert inventory.of([*ids, other]) == dict.fromkeys(ids, row)
    assert sorted(id for some in inventory.gone_ids(2) for id in some) == sorted(ids)


def rows(count: int):
    for start in range(0, count, 10_000):
        yield [
            {"id": path_key(str(n)), "size": n, "mtime": n, "digest": f"{n:032x}:{n:016x}"}
            for n in range(start, min(count, start + 10_000))
        ]


def files_of_sqlite() -> list[str]:
    """Return the temporary files of SQLite that this process has open; they have no name any more."""
    found = []
    for file in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            found.append(str(file.readlink()))
    return [name for name in found if "etilqs_" in name]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_does_not_fit_into_memory_is_in_a_file_that_goes_with_it(monkeypatch):
    in_memory = Inventory(rows(50_000))
    assert files_of_sqlite() == []
    monkeypatch.setattr(scratch, "CACHE", 1 << 20)
    inventory = Inventory(rows(50_000))
    assert len(files_of_sqlite()) == 1
    assert (len(in_memory), len(inventory)) == (50_000, 50_000)
    assert len(inventory.of([path_key(str(n)) for n in range(0, 50_000, 20)])) == 2500
    del inventory
    assert files_of_sqlite() == []


def test_rows_that_no_source_names_come_out_with_their_ids():
    inventory = Inventory(rows(25))
    inventory.mark((UNCHANGED, path_key(str(n))) for n in range(20))
    assert inventory.gone() == 5
    assert {id for ids in inventory.gone_ids(2) for id in ids} == {path_key(str(n)) for n in range(20, 25)}
    assert inventory.of(["nobody"]) == {}
    assert inventory.moved([(n).to_bytes(16, "big") for n in (3, 21, 21, 24, 99)]) == 2
    assert inventory.moved([(n).to_bytes(16, "big") for n in (22,)]) == 1
    inventory.keep_all()
    assert (inventory.gone(), len(inventory), len(Inventory([]))) == (0, 25, 0)


def test_a_row_that_is_named_twice_keeps_what_was_found_first():
    inventory = Inventory([[{"id": id, "size": 1, "mtime": 1, "digest": f"{5:032x}:"} for id in ("a", "b")]])
    again = Record("/a", "a")
    again.fail("an earlier row has this id")
    broken = Record("/b", "b")
    broken.fail("cannot be read")
    plan = Plan(inventory, Spill())
    ended = list(plan.read([Record("/a", "a", size=2), again, broken]))
    assert [one.reason for one in ended] == [
        f"an earlier row has this id{KEPT}",
        f"cannot be read{KEPT}",
    ]
    assert {id: state for id, (_, _, state) in inventory.of(["a", "b"]).items()} == {
        "a": PENDING,
        "b": FAILED,
    }
    assert [record.id for record in plan.work()] == ["a"]


def test_a_twin_is_a_row_that_stays_as_it_is():
    two = [{"id": id, "size": 1, "mtime": 1, "digest": f"{5:032x}:"} for id in ("b", "a")]
    inventory = Inventory([two])
    inventory.mark([(PENDING, "a")])
    assert Twins(inventory).claim(f"{5:032x}", Record("/c", "c")).id == "b"
    inventory.mark([(PENDING, "b")])
    twins, first = Twins(inventory), Record("/c", "c", digest=f"{5:032x}:")
    assert twins.claim(f"{5:032x}", first) is None
    assert twins.claim(f"{5:032x}", Record("/d", "d")) is first
    twins.settle(first)
    assert twins.claim(f"{5:032x}", Record("/e", "e")).id == "c"
    assert Twins(inventory).claim(f"{5:032x}", Record("/e", "e")) is None, "each run of its own"


def test_what_is_foreseen_is_not_held_on_to(tmp_path):
    files = [tmp_path / f"{n}.png" for n in range(50)]
    for n, file in enumerate(files):
        file.write_bytes(bytes([n % 30]))
    twins = Twins(Inventory([]))
    look_up = SkipUnchanged(uri=str(tmp_path / "x.db"), model_name="colour")
    found = list(preview(records(files), look_up, twins))
    assert [record.status for record in found] == ["inserted"] * 30 + ["reused"] * 20
    assert twins._under_way == {}


def test_records_that_wait_come_back_as_often_as_one_likes():
    waiting = Spill()
    odd = lambda: None  # noqa: E731 - cannot be pickled
    waiting.add([Record("/a", "a", {"year": 2015}), Record("/b", "b")])
    waiting.add([Record("/c", "c", {"odd": odd})])
    waiting.add([Record("/d", "d")])
    for _ in range(2):
        found = list(waiting)
        assert [record.path for record in found] == ["/a", "/b", "/c", "/d"]
        assert found[0].metadata == {"year": 2015}
        assert found[2].metadata == {"odd": odd}
        for record in found:
            record.fail("must not be seen the next time")
    assert len(waiting) == 4
    assert all(record.status is None for record in waiting)
