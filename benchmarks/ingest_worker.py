"""One measurement of ``benchmarks/ingest.py`` in a process of its own: a job in JSON in, figures out."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.inputs import Inputs
from benchmarks.peers.memory import peak_rss, rss
from benchmarks.peers.plan import BATCH, TINY, VIT_B_32, Shape
from benchmarks.peers.torchvision_beside_cpu_torch import bring_in
from t2i_pipelines import build_insert_pipeline, close
from t2i_pipelines.collection import open_collection
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.types import Encoder

MINI = Shape("t2i_mini", 256, 96, 32, (32, 5), (192, 2))
"""Its sizes, as far as the tutorials need them; it is a ResNet."""

SERVED = "end to end, served"
"""Into a Milvus Lite in a process of its own."""

SHAPES = {shape.name: shape for shape in (VIT_B_32, MINI, TINY)}


def prepare(inputs: Inputs) -> None:
    """Write a CLIP with random weights of the shape: for the tutorials, and exported for this library."""
    bring_in()
    import torch

    from benchmarks.peers import checkpoint
    from benchmarks.peers.contenders import ours

    inputs.folder.mkdir(parents=True, exist_ok=True)
    if inputs.shape == MINI:
        from tools.drawings.network import SIZES, make_clip

        torch.save(make_clip(SIZES).state_dict(), inputs.openai)
        return
    checkpoint.write_openai(inputs.openai, checkpoint.write_transformers(inputs.transformers, inputs.shape))
    ours.prepare(inputs, "auto", "auto")


def model_of(inputs: Inputs) -> str:
    """What this library's ``model_name`` is: the bundled model, or the exported one."""
    return "t2i_mini" if inputs.shape == MINI else str(inputs.of("ours") / "onnx")


def batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """As the pipeline cuts them."""
    return (items[at : at + BATCH] for at in range(0, len(items), BATCH))


def decoding(paths: list[str], model: str, reduce: Any = "auto") -> Callable[[], None]:
    """Read, decode and fit, with as many threads as the pipeline."""
    step = ImageDecode(model, reduce=reduce)
    step(paths[:BATCH])

    def work() -> None:
        for batch in batches(paths):
            step(list(batch))

    return work


def encoding(paths: list[str], encoder: Encoder, model: str) -> Callable[[], None]:
    """Embed images that are decoded and fitted."""
    fitted = ImageDecode(model)(paths[:BATCH])
    encoder.encode_images(fitted)

    def work() -> None:
        for batch in batches(paths):
            encoder.encode_images(fitted[: len(batch)])

    return work


def inserting(paths: list[str], encoder: Encoder, uri: str) -> Callable[[], None]:
    """Rows as the pipeline makes them, with ready vectors, into Milvus Lite, and flush at the end."""
    collection = open_collection(uri)
    collection.prepare(encoder.space)
    vectors = np.random.default_rng(0).normal(size=(len(paths), encoder.space.dim)).astype(np.float32)
    same = {"size": 80_000, "mtime": 1_700_000_000_000_000_000, "digest": 32 * "0" + ":"}
    rows = [
        {**same, "id": f"{number:032x}", "path": path, "vector": vector}
        for number, (path, vector) in enumerate(zip(paths, vectors, strict=True))
    ]
    warm = [{**row, "id": f"warm{row['id']}"} for row in rows[:BATCH]]
    collection.upsert(warm)

    def work() -> None:
        for batch in batches(rows):
            collection.upsert(batch)
        collection.finish()

    return work


def everything(paths: list[str], warm: list[str], model: str, uri: str) -> Callable[[], None]:
    """The pipeline, from files to rows."""
    insert = build_insert_pipeline(uri=uri, model_name=model, batch_size=BATCH)

    def work(some: list[str] = paths) -> None:
        found = {status for _, _, status, _ in insert(some).to_list()}
        assert found == {"inserted"}, found

    work(warm)
    return work


def tutorial(module: Any, paths: list[str], warm: list[str], inputs: Inputs, uri: str) -> Callable[[], None]:
    """Another one's loop over the same files."""
    started = module.start(inputs, uri)
    started.insert(warm[:4])
    return lambda: started.insert(paths)


@contextmanager
def served(database: Path) -> Iterator[str]:
    """Milvus Lite in a process of its own; gives its uri."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--data-dir", str(database), "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "milvus_lite", "server", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        while server.poll() is None and not answers(port):
            time.sleep(0.05)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def answers(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def begin(job: dict[str, Any], inputs: Inputs, uri: str) -> tuple[Callable[[], None], int]:
    """Warm up; gives what is to be timed, and how many bytes the process held with nothing but the model."""
    what, paths, warm = job["what"], job["paths"], job["warm"]
    if what == "Milvus tutorial":
        from benchmarks.peers.contenders import milvus_tutorial as module
    elif what == "Towhee tutorial":
        from benchmarks.peers.contenders import towhee_tutorial as module  # type: ignore[no-redef]
    else:
        model = model_of(inputs)
        encoder = load_encoder(model)
        encoder.encode_images(ImageDecode(model)(warm[:1]))
        base = rss()
        if what.startswith("decode"):
            return decoding(paths, model, "never" if what == "decode never" else "auto"), base
        if what == "encode":
            return encoding(paths, encoder, model), base
        if what == "insert":
            return inserting(paths, encoder, uri), base
        return everything(paths, warm, model, uri), base
    return tutorial(module, paths, warm, inputs, uri), rss()


def measure(job: dict[str, Any]) -> dict[str, float]:
    """Images a second, core-seconds an image, and bytes over those of the model alone."""
    inputs = Inputs(Path(job["folder"]), 0, SHAPES[job["shape"]])
    if job["what"] == "prepare":
        prepare(inputs)
        return {}
    with tempfile.TemporaryDirectory(dir=inputs.folder, ignore_cleanup_errors=True) as place:
        database = Path(place) / "milvus.db"
        with served(database) if job["what"] == SERVED else nullcontext(str(database)) as uri:
            figures = timed(*begin(job, inputs, uri), len(job["paths"]))
            close()
    return figures


def timed(work: Callable[[], None], base: int, images: int) -> dict[str, float]:
    """Do it; figures as of :func:`measure`."""
    begun, core = time.perf_counter(), time.process_time()
    work()
    seconds, core = time.perf_counter() - begun, time.process_time() - core
    return {"speed": images / seconds, "core": core / images, "memory": peak_rss() - base}


if __name__ == "__main__":
    found = measure(json.load(sys.stdin))
    print(json.dumps(found))
