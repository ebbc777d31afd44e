"""Each way to embed images is one module with ``start(inputs, uri, **options) -> Started``.

``prepare(inputs, **options)``, if there is one, is called once before the first round, in a process of its
own and outside every measurement.
"""

from benchmarks.peers.plan import Contender

_OPENAI = ("torch", "torchvision", "clip")

# 43 MB an image, see there
MILVUS_TUTORIAL = Contender(
    "Milvus tutorial", "milvus_tutorial", packages=_OPENAI, modes=("insert",), most=96
)

PEERS = (
    MILVUS_TUTORIAL,
    Contender(
        "Towhee tutorial",
        "towhee_tutorial",
        packages=("torch", "torchvision", "towhee.models", "open_clip"),
        modes=("insert",),
    ),
    Contender(
        "sentence-transformers",
        "sentence_transformers_peer",
        packages=("torch", "torchvision", "sentence_transformers"),
    ),
    Contender("open_clip", "open_clip_peer", packages=("torch", "torchvision", "open_clip")),
    Contender("fastembed", "fastembed_peer", packages=("fastembed",)),
)


def _ours(backend: str, precision: str, *packages: str) -> Contender:
    name = "auto" if backend == precision == "auto" else f"{backend} {precision}"
    options = {"backend": backend, "precision": precision}
    return Contender(f"ours, {name}", "ours", options, packages, ours=True)


OURS = (
    _ours("onnxruntime", "fp32"),
    _ours("onnxruntime", "int8"),
    _ours("openvino", "fp32", "openvino"),
    _ours("openvino", "bf16", "openvino"),
    _ours("openvino", "int8", "openvino"),
    _ours("torch", "fp32", "torch"),
    _ours("torch", "bf16", "torch"),
    _ours("auto", "auto"),
)

CONTENDERS = (*PEERS, *OURS)
