"""Models of one size whose vectors must not be compared, and searches that notice when they are.

``turned`` is ``colour`` with the channels moved on by one: compared with vectors of ``colour``, its red finds
green. ``blind`` sees no difference between images.
"""

import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from t2i_pipelines import Searcher
from t2i_pipelines.encoders import register_encoder
from t2i_pipelines.testing import ColourEncoder
from t2i_pipelines.types import Space


class Turned(ColourEncoder):
    space = Space("turned", "mean colour, turned", "none", 3)
    pause = 0.0

    def encode_images(self, images):
        time.sleep(self.pause)
        return np.roll(super().encode_images(images), 1, axis=1)

    def encode_texts(self, texts):
        return np.roll(super().encode_texts(texts), 1, axis=1)


class Blind(ColourEncoder):
    space = Space("blind", "nothing", "none", 3)

    def encode_images(self, images):
        return np.ones_like(super().encode_images(images))


register_encoder("turned", lambda *_: Turned())
register_encoder("blind", lambda *_: Blind())

COLOURS = ("red", "green", "blue")


def answer(searcher, colour):
    """``right``, or what is wrong with the answer."""
    try:
        hits = searcher(colour)
    except Exception as err:
        return f"{type(err).__name__}: {err}"
    if not hits:
        return "nothing was found"
    best = hits[0]
    return "right" if (Path(best.path).stem, round(best.score, 5)) == (colour, 1) else f"{colour}: {best}"


class Searching:
    """Threads that search all the time, from entering to leaving.

    :ivar answers: how often each was given.
    """

    def __init__(self, model_name, threads=2, **place):
        self.answers = Counter()
        self._searcher = Searcher(model_name=model_name, limit=3, **place)
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._search) for _ in range(threads)]

    def _search(self):
        while not self._stopped.is_set():
            for colour in COLOURS:
                self.answers[answer(self._searcher, colour)] += 1

    def wait(self, answers=20):
        """Until that many more answers were given."""
        ends, goal = time.monotonic() + 120, self.answers.total() + answers
        while self.answers.total() < goal:
            assert time.monotonic() < ends, f"{goal - self.answers.total()} answers are missing"
            time.sleep(0.01)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        for thread in self._threads:
            thread.join()


ELSEWHERE = """
    import sys
    import time
    sys.path.insert(0, {tests!r})
    from two_models import Searching
    from t2i_pipelines.collection import catalog
    catalog.RECHECK = {recheck!r}
    with Searching({model_name!r}, threads=1, **{place!r}) as searching:
        while not searching.answers:  # it goes by names that it has looked up
            time.sleep(0.01)
        print("searching", flush=True)
        sys.stdin.read()
    print(dict(searching.answers))
"""


class SearchingElsewhere:
    """The same in a process of its own, which is told nothing of what this one does."""

    def __init__(self, model_name, recheck, **place):
        tests = str(Path(__file__).parent)
        code = ELSEWHERE.format(tests=tests, recheck=recheck, model_name=model_name, place=place)
        self._command = [sys.executable, "-c", textwrap.dedent(code)]

    def __enter__(self):
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout.readline() == "searching\n"
        return self

    def __exit__(self, *_):
        out, _ = self._process.communicate(timeout=60)
        self.answers = Counter(eval(out))
