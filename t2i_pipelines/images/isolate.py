"""Decoding in processes of their own: a file that crashes or hangs its decoder fails alone.

A worker is a Python process that decodes one file at a time. It is given bytes and gives pixels, over its
standard input and output, and the parent never unpickles what a worker wrote. A thread that decodes holds
one worker meanwhile, so there are as many as there are files decoded at the same time; they are kept.

``concurrent.futures.ProcessPoolExecutor`` breaks as a whole when a worker dies. Pebble's pool survives, yet
5.2.3 reported one of 200 crashes, in a run of 600 tasks, as a timeout.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from threading import Event, Timer
from typing import IO, Any, TypeAlias

import cv2
import numpy as np

from t2i_pipelines._towhee.locks import in_forked_child
from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images.decode import decode
from t2i_pipelines.images.shrink import Side
from t2i_pipelines.types import Image

Message: TypeAlias = tuple[dict[str, Any], bytearray]
"""A header as JSON, and an image's bytes or pixels."""

START = 60.0
"""Seconds that a worker may take to start; its imports take less than one."""

COMMAND = (
    *(sys.executable, "-c"),
    "import sys; sys.path[:] = sys.argv[1:]; from t2i_pipelines.images.isolate import serve; serve()",
)


def decode_isolated(
    content: bytes, name: str = "<bytes>", decoding: Decoding | None = None, side: Side | None = None
) -> Image:
    """Decode as :func:`~t2i_pipelines.images.decode.decode` does, in another process.

    :raises ImageDecodeError: As there; and where the decoder crashes, or takes longer than
        ``decoding.decode_timeout``.
    """
    decoding = decoding or Decoding()
    worker = _take()
    request = {"name": name, "side": side and side(), "decoding": asdict(decoding)}
    try:
        reply, pixels = worker.ask(request, content, decoding.decode_timeout)
    except ImageDecodeError as err:
        raise ImageDecodeError(f"cannot read image {name}: {err}") from None
    if worker.alive:
        _idle.append(worker)
    if "error" in reply:
        raise ImageDecodeError(str(reply["error"]))
    try:
        return np.frombuffer(pixels, np.uint8).reshape(reply["shape"])
    except (KeyError, TypeError, ValueError) as err:
        raise ImageDecodeError(f"cannot read image {name}: the decoder gave no image") from err


class Worker:
    """A process that decodes one file after the other, and the pipes to and from it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        self._ready = False

    @property
    def alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], content: bytes, timeout: float) -> Message:
        """Send a request and wait for the reply.

        :param timeout: seconds, without those that the process takes to start.
        :raises ImageDecodeError: If there is none; the process has ended then.
        """
        if not self._ready:
            self._receive("the process that decodes did not start: it", START)
            self._ready = True
        return self._receive("the decoder", timeout, request, content)

    def close(self) -> int:
        """End it at once; gives its exit code, as ``subprocess`` does."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        code = self._process.wait()
        self._log.close()
        return code

    def _last_line(self) -> str:
        """Return the last line that the process wrote to stderr: what killed it, perhaps."""
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 2000))
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]:.200}" if lines else ""

    def _receive(self, who: str, timeout: float, *message: Any) -> Message:
        late = Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = Timer(timeout, end)
        timer.daemon = True
        timer.start()
        try:
            with suppress(OSError):  # it died; reading tells
                if message:
                    _write(self._process.stdin, *message)
            return _read(self._process.stdout)
        except (EOFError, OSError):
            pass
        except (ValueError, OverflowError, MemoryError) as err:
            self.close()
            raise ImageDecodeError(f"{who} gave a reply that cannot be read") from err
        finally:
            timer.cancel()
            timer.join()
        said = self._last_line()
        code = self.close()
        if late.is_set():
            raise ImageDecodeError(f"{who} took longer than {timeout:g} s (decode_timeout)")
        if code < 0:
            raise ImageDecodeError(f"{who} crashed (signal {-code}, {signal.Signals(-code).name}){said}")
        raise ImageDecodeError(f"{who} ended by itself (exit code {code}){said}")


def serve() -> None:
    """Run a worker: decode the messages on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    cv2.setNumThreads(1)  # there is a worker a core
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no reply
    with open(os.devnull, "w") as nowhere, suppress(EOFError, BrokenPipeError):
        _write(replies, {}, b"")
        while True:
            request, content = _read(requests)
            decoding = Decoding(**request["decoding"])
            # the parent ends a worker in time; should it have died, the worker ends itself
            faulthandler.dump_traceback_later(2 * decoding.decode_timeout, exit=True, file=nowhere)
            try:
                side = partial(request.get, "side")
                image = decode(bytes(content), request["name"], decoding, side)
            except ImageDecodeError as err:
                _write(replies, {"error": str(err)}, b"")
            else:
                _write(replies, {"shape": image.shape}, np.ascontiguousarray(image).data)
            faulthandler.cancel_dump_traceback_later()


_LENGTHS = struct.Struct(">QQ")


def _write(pipe: IO[bytes] | None, about: dict[str, Any], content: bytes | memoryview) -> None:
    assert pipe is not None
    head = json.dumps(about).encode()
    pipe.write(_LENGTHS.pack(len(head), memoryview(content).nbytes) + head)
    pipe.write(content)
    pipe.flush()


def _read(pipe: IO[bytes] | None) -> Message:
    head, content = _LENGTHS.unpack(_exactly(pipe, _LENGTHS.size))
    return json.loads(_exactly(pipe, head)), _exactly(pipe, content)


def _exactly(pipe: Any, length: int) -> bytearray:
    content = bytearray(length)
    if pipe.readinto(content) < length:
        raise EOFError
    return content


_idle: list[Worker] = []
"""They end with the program, as their standard input does."""


def _take() -> Worker:
    while _idle:
        with suppress(IndexError):  # another thread was faster
            worker = _idle.pop()
            if worker.alive:
                return worker
            worker.close()
    return Worker((*COMMAND, *sys.path))


in_forked_child(_idle.clear)  # two processes cannot share a worker
