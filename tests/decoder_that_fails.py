"""A decoding process that crashes, hangs, ends or prints where the file says so; run by the tests."""

import ctypes
import os
import signal
import sys
import time

from t2i_pipelines.images import isolate

real = isolate.decode


def decode(content, *rest):
    if b"CRASH" in content:
        os.kill(os.getpid(), signal.SIGSEGV)
    if b"HANG" in content:
        time.sleep(600)
    if b"STUCK" in content:  # as native code is that keeps the interpreter's lock
        ctypes.PyDLL(None).sleep(600)
    if b"EXIT" in content:
        os._exit(3)
    if b"PRINT" in content:
        sys.stdout.write("a library's words\n")
        sys.stdout.flush()
        os.write(1, b"a C library's words\n")
    return real(content, *rest)


if __name__ == "__main__":
    isolate.decode = decode
    isolate.serve()
