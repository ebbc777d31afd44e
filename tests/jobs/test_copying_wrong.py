"""Exports that are not whole, targets that are not theirs, and runs that end in the middle."""

import dataclasses
import json
import resource
import signal
import subprocess
import sys
import textwrap

import pytest
from stored import SPACE, random_units, row
from test_copying import filled, fingerprint, many, stored  # noqa: F401 - a fixture

from t2i_pipelines import export_collection, import_collection
from t2i_pipelines.collection import close, open_collection
from t2i_pipelines.errors import CollectionNotFoundError, ConfigError, CopyError, ModelMismatchError
from t2i_pipelines.jobs.backup import parquet, run


@pytest.fixture
def out(tmp_path, filled, monkeypatch):  # noqa: F811
    """An export of 20 rows in 3 files; its collection is at ``source.db``."""
    monkeypatch.setattr(parquet, "MOST", 4)
    monkeypatch.setattr(run, "PART_ROWS", 8)
    filled("source", many(20))
    export_collection(tmp_path / "out", uri=tmp_path / "source.db")
    return tmp_path / "out"


def rewrite(out, **changes):
    file = out / "_manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_folder_without_manifest_is_an_export_that_was_cut_short(out, tmp_path):
    (out / "_manifest.json").unlink()
    with pytest.raises(CopyError, match=rf"{out} has no _manifest\.json: that export was cut short; export"):
        import_collection(out, uri=tmp_path / "back.db")
    assert not (tmp_path / "back.db").exists()
    again = export_collection(out, uri=tmp_path / "source.db")
    assert import_collection(out, uri=tmp_path / "back.db").digest == again.digest


def test_a_folder_without_export_says_so(tmp_path):
    for place in (tmp_path, tmp_path / "none", "memory://nowhere"):
        with pytest.raises(CopyError, match=r"holds no export of a collection: there is no _manifest\.json"):
            import_collection(place, uri=tmp_path / "back.db")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CopyError, match="file is a file; an export is a folder"):
        import_collection(tmp_path / "file", uri=tmp_path / "back.db")
    with pytest.raises(CopyError, match=r"'nope://x' as a folder.*no protocol 'nope' is known"):
        import_collection("nope://x", uri=tmp_path / "back.db")


def test_a_missing_or_truncated_file_is_named_before_anything_is_stored(out, tmp_path):
    file = out / "t2i-00001.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    wanted = rf"{file} has {len(content) - 1:,} bytes and had {len(content):,} when it was written; copy it"
    with pytest.raises(CopyError, match=wanted):
        import_collection(out, uri=tmp_path / "back.db")
    file.unlink()
    with pytest.raises(CopyError, match=rf"{file} is missing; bring it back, or export the collection again"):
        import_collection(out, uri=tmp_path / "back.db")
    assert not (tmp_path / "back.db").exists()


def test_a_changed_byte_is_noticed_before_a_row_of_that_file_is_stored(out, tmp_path):
    file = out / "t2i-00001.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CopyError, match=rf"{file} is not what was written, its digest is another; copy it"):
        import_collection(out, uri=tmp_path / "back.db")
    assert sorted(stored(open_collection(tmp_path / "back.db"))) == [f"{i:05}" for i in range(8)]
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert import_collection(out, uri=tmp_path / "back.db").rows == 20


def test_a_manifest_that_is_damaged_or_newer_says_so(out, tmp_path):
    told = json.loads((out / "_manifest.json").read_text())
    rewrite(out, version=2)
    with pytest.raises(CopyError, match=r"_manifest\.json has format 2, and .* knows 1; install"):
        import_collection(out, uri=tmp_path / "back.db")
    escaping = [{**one, "name": "../" + one["name"]} for one in told["files"]]
    for change in ({"rows": 21}, {"format": "x"}, {"files": 3}, {"files": escaping}, {"space": {}}):
        rewrite(out, **told | change)
        with pytest.raises(CopyError, match=r"_manifest\.json is damaged, or no manifest of t2i-pipelines"):
            import_collection(out, uri=tmp_path / "back.db")
    (out / "_manifest.json").write_text('{"half')
    with pytest.raises(CopyError, match=r"_manifest\.json is damaged"):
        import_collection(out, uri=tmp_path / "back.db")
    assert not (tmp_path / "back.db").exists()


def test_rows_that_do_not_add_up_to_the_digest_are_noticed_in_the_end(out, tmp_path):
    rewrite(out, digest="0" * 64)
    with pytest.raises(CopyError, match="20 rows of .*out went into collection .*, and some have changed"):
        import_collection(out, uri=tmp_path / "back.db")


def test_another_models_collection_is_refused_whatever_is_asked_for(out, tmp_path):
    other = open_collection(tmp_path / "other.db")
    other.prepare(dataclasses.replace(SPACE, model_name="other", weights="b2" * 32))
    for how in ("fail", "merge", "replace"):
        with pytest.raises(ModelMismatchError, match=r"cannot import .*out: .* of 'other'.*'fake'"):
            import_collection(out, uri=tmp_path / "other.db", if_exists=how)
    assert other.count() == 0


def test_a_collection_with_rows_is_added_to_or_replaced_only_if_told(out, tmp_path, filled):  # noqa: F811
    wanted = stored(open_collection(tmp_path / "source.db"))
    vectors = random_units(3, seed=7)
    rows = [row(id, v, old=True) for id, v in zip(["00003", "a", "z"], vectors, strict=True)]
    other = filled("other", rows)
    before = stored(other)
    with pytest.raises(ConfigError, match=r"has 3 rows already; .*if_exists='merge' \(--if-exists merge\)"):
        import_collection(out, uri=tmp_path / "other.db")
    with pytest.raises(ConfigError, match="must be one of 'fail', 'replace', 'merge', got 'upsert'"):
        import_collection(out, uri=tmp_path / "other.db", if_exists="upsert")
    assert stored(other) == before
    done = import_collection(out, uri=tmp_path / "other.db", if_exists="merge")
    assert (done.rows, done.others, done.deleted) == (20, 2, 0)
    assert stored(other) == {**wanted, "a": before["a"], "z": before["z"]}
    done = import_collection(out, uri=tmp_path / "other.db", if_exists="replace")
    assert (done.rows, done.others, done.deleted) == (20, 0, 2)
    assert stored(other) == wanted


def test_rows_that_somebody_else_writes_meanwhile_are_noticed(out, tmp_path):
    def meddle(done, total):
        if done == total:
            open_collection(tmp_path / "back.db").upsert(meant)

    meant = [row("other", random_units(1)[0])]
    with pytest.raises(CopyError, match="all 20 rows of .* are in .*, but it has 21: another writer added"):
        import_collection(out, uri=tmp_path / "back.db", progress=meddle)
    meant = [row("00003", random_units(1)[0])]
    with pytest.raises(CopyError, match="20 rows of .* and some have changed; import it again"):
        import_collection(out, uri=tmp_path / "back.db", if_exists="merge", progress=meddle)
    meant = []
    assert import_collection(out, uri=tmp_path / "back.db", if_exists="merge").others == 1


def test_rows_that_cannot_all_be_read_make_no_export(out, tmp_path, monkeypatch):
    source = open_collection(tmp_path / "source.db")
    read = source.read

    def forgetful(method, **arguments):
        found = read(method, **arguments)
        return found[1:] if arguments.get("limit") and "00007" in arguments["filter"] else found

    monkeypatch.setattr(source, "read", forgetful)
    with pytest.raises(CopyError, match="11 rows were read of collection .*, which has 20; export it again"):
        export_collection(tmp_path / "new", uri=tmp_path / "source.db")
    assert not (tmp_path / "new" / "_manifest.json").exists()


def test_only_an_empty_folder_or_a_cut_short_export_is_written_to(out, tmp_path):
    with pytest.raises(CopyError, match=rf"{out} holds an export already; choose another folder, or"):
        export_collection(out, uri=tmp_path / "source.db")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "part-0.parquet").write_text("mine")
    with pytest.raises(CopyError, match=r"full is not empty, it holds 'part-0\.parquet' for one; choose"):
        export_collection(tmp_path / "full", uri=tmp_path / "source.db")
    assert (tmp_path / "full" / "part-0.parquet").read_text() == "mine"
    stale = [tmp_path / "half" / name for name in ("t2i-00007.parquet", "_manifest.json.tmp")]
    (tmp_path / "half").mkdir()
    for file in stale:
        file.write_text("half")
    made = export_collection(tmp_path / "half", uri=tmp_path / "source.db")
    assert sorted(one.name for one in (tmp_path / "half").iterdir()) == [
        "_manifest.json",
        *(one.name for one in made.files),
    ]


def test_a_collection_that_is_not_there_is_not_exported(out, tmp_path):
    place = {"uri": tmp_path / "source.db", "collection_name": "other"}
    with pytest.raises(CollectionNotFoundError, match="no collection 'other' at .*; its collections: "):
        export_collection(tmp_path / "other", **place)
    assert not (tmp_path / "other").exists()
    with pytest.raises(CollectionNotFoundError, match=r"no database .*no\.db; insert images first"):
        export_collection(tmp_path / "other", uri=tmp_path / "no.db")
    assert not (tmp_path / "other").exists()


def test_a_destination_that_cannot_be_written_is_named(out, tmp_path):
    with pytest.raises(CopyError, match=r"cannot (write|list) .*_manifest\.json/deep: Not a directory"):
        export_collection(out / "_manifest.json" / "deep", uri=tmp_path / "source.db")


def test_a_full_disk_is_said_and_what_is_there_is_no_export(out, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(CopyError, match=r"cannot write .*t2i-00000\.parquet: File too large; make room"):
            export_collection(tmp_path / "new", uri=tmp_path / "source.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    with pytest.raises(CopyError, match="that export was cut short"):
        import_collection(tmp_path / "new", uri=tmp_path / "back.db")
    assert export_collection(tmp_path / "new", uri=tmp_path / "source.db").rows == 20


SLOW = """
    import sys, time
    from t2i_pipelines import export_collection, import_collection
    from t2i_pipelines.jobs.backup import run, parquet
    parquet.MOST, run.PART_ROWS, parquet.AT_ONCE = 4, 8, 4

    def tell(done, total):
        print(done, flush=True)
        time.sleep(0.3)

    {"export": export_collection, "import": import_collection}[sys.argv[1]](
        sys.argv[2], uri=sys.argv[3], progress=tell
    )
"""


def killed(doing, folder, uri, at):
    """Run one in a process of its own, and kill it as soon as it tells of so many rows."""
    close()
    command = [sys.executable, "-c", textwrap.dedent(SLOW), doing, str(folder), str(uri)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process:
        for line in process.stdout:
            if int(line) >= at:
                break
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_export_is_none_and_the_next_run_makes_one(out, tmp_path):
    killed("export", tmp_path / "new", tmp_path / "source.db", 12)
    assert (tmp_path / "new" / "t2i-00000.parquet").exists()
    with pytest.raises(CopyError, match="that export was cut short"):
        import_collection(tmp_path / "new", uri=tmp_path / "back.db")
    made = export_collection(tmp_path / "new", uri=tmp_path / "source.db")
    assert made.digest == fingerprint(many(20))


@pytest.mark.slow
def test_a_killed_import_goes_on_when_it_is_run_again(out, tmp_path):
    killed("import", out, tmp_path / "back.db", 8)
    assert 8 <= open_collection(tmp_path / "back.db").count() < 20
    done = import_collection(out, uri=tmp_path / "back.db")
    assert (done.rows, done.digest) == (20, fingerprint(many(20)))
    assert stored(open_collection(tmp_path / "back.db")) == stored(open_collection(tmp_path / "source.db"))
    with pytest.raises(ConfigError, match="has 20 rows already"):
        import_collection(out, uri=tmp_path / "back.db")
