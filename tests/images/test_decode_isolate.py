"""A file that crashes or hangs its decoder fails alone, where decoding has processes of its own."""

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from pictures import RED, animation, encoded, noise, photo_like, turned, two_halves
from PIL import Image

import t2i_pipelines.testing  # noqa: F401 - registers the model "colour"
from t2i_pipelines import build_insert_pipeline
from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import decode, decode_isolated, isolate

GOOD = encoded(two_halves(), "PNG")
BRIEF = Decoding(isolate=True, decode_timeout=1.0)


@pytest.fixture
def idle(monkeypatch):
    """Workers of the test's own, gone with it."""
    workers = []
    monkeypatch.setattr(isolate, "_idle", workers)
    yield workers
    for worker in workers:
        worker.close()


@pytest.fixture
def failing(monkeypatch, idle):
    """Processes that crash, hang, end or print on demand."""
    script = Path(__file__).parents[1] / "decoder_that_fails.py"
    monkeypatch.setattr(isolate, "COMMAND", (sys.executable, str(script)))
    return idle


@pytest.mark.slow
def test_pictures_are_the_same_as_from_a_thread(idle):
    exif = turned(Image.fromarray(noise((31, 17))), 6, "PNG")
    large = encoded(Image.fromarray(photo_like(two_halves(), (900, 1001))), "JPEG")
    transparent = encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 100)), "PNG")
    for content, decoding, side in [
        (GOOD, Decoding(), None),
        (exif, Decoding(), None),
        (large, Decoding(), lambda: 96),
        (large, Decoding(reduce="never"), lambda: 96),
        (transparent, Decoding(background="red"), None),
        (animation([RED, (0, 0, 0)], "GIF"), Decoding(frames="mean"), None),
    ]:
        apart = decode_isolated(content, "x", decoding, side)
        assert (apart.dtype, apart.flags.writeable) == (np.uint8, True)
        assert np.array_equal(apart, decode(content, "x", decoding, side))
    assert len(idle) == 1, "one process did it all"


@pytest.mark.slow
def test_what_cannot_be_read_says_the_same_as_in_a_thread(idle):
    for content in (b"words", GOOD[:60], b""):
        with pytest.raises(ImageDecodeError) as apart:
            decode_isolated(content, "x\udcff.png")
        with pytest.raises(ImageDecodeError) as here:
            decode(content, "x\udcff.png")
        assert str(apart.value) == str(here.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (b"CRASH", r"cannot read image bad\.png: the decoder crashed \(signal 11, SIGSEGV\)$"),
        (b"HANG", r"cannot read image bad\.png: the decoder took longer than 1 s \(decode_timeout\)$"),
        (b"STUCK", r"cannot read image bad\.png: the decoder took longer than 1 s \(decode_timeout\)$"),
        (b"EXIT", r"cannot read image bad\.png: the decoder ended by itself \(exit code 3\)$"),
    ],
)
def test_a_decoder_that_fails_is_that_files_failure_and_the_next_file_has_a_new_one(failing, mark, message):
    decode_isolated(GOOD, "a.png", BRIEF)
    (first,) = (worker._process.pid for worker in failing)
    with pytest.raises(ImageDecodeError, match=message):
        decode_isolated(GOOD + mark, "bad.png", BRIEF)
    assert not psutil.pid_exists(first)
    assert decode_isolated(GOOD, "b.png", BRIEF).shape == (20, 40, 3)


@pytest.mark.slow
def test_what_a_library_prints_does_not_get_between_the_pixels(failing, capfd):
    assert np.array_equal(decode_isolated(GOOD + b"PRINT", "a.png", BRIEF), decode(GOOD))
    assert np.array_equal(decode_isolated(GOOD, "b.png", BRIEF), decode(GOOD))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_worker_that_died_while_idle_is_nobodys_failure(idle):
    decode_isolated(GOOD)
    idle[0]._process.kill()
    idle[0]._process.wait()
    assert decode_isolated(GOOD).shape == (20, 40, 3)


def test_the_time_limit_is_that_of_one_file(idle):
    decode_isolated(GOOD, "a.png", Decoding(decode_timeout=0.5))
    time.sleep(0.7)
    assert idle[0].alive


def test_a_process_that_does_not_start_says_so(monkeypatch, idle):
    monkeypatch.setattr(isolate, "COMMAND", (sys.executable, "-c", "raise SystemExit(7)"))
    with pytest.raises(ImageDecodeError, match=r"did not start: it ended by itself \(exit code 7\)"):
        decode_isolated(GOOD, "a.png")


READY = r"b'\0' * 7 + b'\2' + b'\0' * 8 + b'{}'"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("b'z' * 999", "did not start: it gave a reply that cannot be read"),
        (
            READY + r" + b'\0' * 7 + b'\4' + b'\0' * 8 + b'{]{]'",
            "the decoder gave a reply that cannot be read",
        ),
        (READY + r" + b'\0' * 7 + b'\2' + b'\0' * 8 + b'{}'", "the decoder gave no image"),
        (READY + r" + b'\xff' * 16", "decoder gave a reply that cannot be read"),
    ],
    ids=["letters", "no JSON", "no image", "more bytes than there are"],
)
def test_a_reply_that_makes_no_sense_is_a_failure(monkeypatch, idle, reply, message):
    babble = f"import sys; sys.stdout.buffer.write({reply}); sys.stdout.flush(); sys.stdin.buffer.read()"
    monkeypatch.setattr(isolate, "COMMAND", (sys.executable, "-c", babble))
    with pytest.raises(ImageDecodeError, match=rf"cannot read image a\.png: .*{message}"):
        decode_isolated(GOOD, "a.png")


@pytest.mark.slow
def test_workers_are_as_many_as_files_are_decoded_at_the_same_time(idle):
    barrier = threading.Barrier(3)

    def one(_):
        barrier.wait()
        return decode_isolated(GOOD).shape

    with ThreadPoolExecutor(3) as threads:
        assert set(threads.map(one, range(9))) == {(20, 40, 3)}
    assert 1 <= len(idle) <= 3


@pytest.mark.slow
def test_a_run_outlives_files_that_crash_and_hang_and_all_others_are_inserted(tmp_path, settings, failing):
    bad = {3: b"CRASH", 7: b"HANG", 8: b"STUCK", 11: b"EXIT", 12: b"CRASH"}
    for n in range(20):
        content = encoded(Image.new("RGB", (8, 8), (10 * n + 10, 5, 5)), "PNG")
        (tmp_path / f"{n:02}.png").write_bytes(content + bad.get(n, b""))
    run = build_insert_pipeline(**settings, isolate=True, decode_timeout=2.0, batch_size=4)
    rows = run(tmp_path).to_list()
    assert {int(Path(path).stem) for path, _, status, _ in rows if status == "failed"} == set(bad)
    assert {status for _, _, status, _ in rows} == {"failed", "inserted"}
    reasons = {int(Path(path).stem): reason for path, _, _, reason in rows}
    assert "the decoder crashed (signal 11, SIGSEGV)" in reasons[3]
    assert "the decoder took longer than 2 s" in reasons[7]
    assert "the decoder took longer than 2 s" in reasons[8]
    assert "exit code 3" in reasons[11]
    assert "the decoder crashed (signal 11, SIGSEGV)" in reasons[12]


@pytest.mark.slow
def test_hundreds_of_crashes_are_each_told_from_the_rest(failing):
    """Where a pool of processes is asked which task a dead worker had, it may not know yet."""

    def one(n):
        try:
            return decode_isolated(GOOD + (b"CRASH" if n % 3 == 0 else b""), "x", Decoding()).shape
        except ImageDecodeError as err:
            return str(err)

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(one, range(200)))
    crashed = "cannot read image x: the decoder crashed (signal 11, SIGSEGV)"
    assert results == [crashed if n % 3 == 0 else (20, 40, 3) for n in range(200)]


PARENT = """
import sys
from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.images import decode_isolated, isolate
isolate.COMMAND = (sys.executable, sys.argv[1])
good = bytes.fromhex(sys.argv[2])
decode_isolated(good)
print(isolate._idle[0]._process.pid, flush=True)
if len(sys.argv) > 3:
    decode_isolated(good + sys.argv[3].encode(), "x", Decoding(decode_timeout=1.5))
"""


def parent(*mark: str) -> subprocess.Popen:
    script = str(Path(__file__).parents[1] / "decoder_that_fails.py")
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PARENT, script, GOOD.hex(), *mark],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def gone(pid: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
def test_a_program_that_ends_leaves_no_process_and_no_word_behind():
    process = parent()
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert gone(int(out), 5)


@pytest.mark.slow
@pytest.mark.parametrize("mark", ["HANG", "STUCK"])
def test_a_program_that_is_killed_leaves_no_hanging_process_behind(mark):
    process = parent(mark)
    worker = int(process.stdout.readline())
    time.sleep(0.5)  # the worker hangs by now
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert gone(worker, 10)


FORK = """
import os, sys
from t2i_pipelines.images import decode_isolated, isolate
decode_isolated(bytes.fromhex(sys.argv[1]))
child = os.fork()
if child == 0:
    os._exit(len(isolate._idle))
print(os.waitpid(child, 0)[1], len(isolate._idle))
"""


@pytest.mark.slow
def test_a_fork_does_not_share_its_parents_workers():
    done = subprocess.run(
        [sys.executable, "-c", FORK, GOOD.hex()], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["0", "1"]
