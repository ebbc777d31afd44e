"""Run notebooks that were written for Towhee's hub, which is gone: ``import t2i_pipelines.hub``.

It registers operators of this library under the hub's names, with the hub's arguments and results:

* ``ops.image_decode``, ``ops.image_decode.cv2``, ``ops.image_decode.cv2_rgb``
* ``ops.image_text_embedding.clip``, with ``get_op().supported_model_names()`` and ``get_op().train()``
* ``ops.towhee.np_normalize``
* ``ops.ann_insert.milvus_client``, ``ops.ann_search.milvus_client``, and both as ``osschat_milvus``
* ``ops.ann_insert.faiss_index``, ``ops.ann_search.faiss_index``

With them, Towhee's own ``AutoPipes.pipeline()`` of ``text_image_embedding``, ``insert_milvus`` and
``search_milvus`` run, too. A name that you register yourself is yours, before the import or after it:
the import passes it by, and a later registration takes the place of an earlier one, as ever.

From the import on, ``.output()`` closes every pipeline by :func:`t2i_pipelines.harden`: the tutorials'
own pipelines are deep enough to hang once some thousand rows flow. ``towhee.triton_client.Client`` runs, with
the extra ``triton``. ``towhee.dc2``, as older notebooks call it, is ``towhee``. Once Gradio is imported, it
has ``Textbox`` and ``Image`` of its old modules ``gradio.inputs`` and ``gradio.outputs``.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from t2i_pipelines._towhee.door import known_operator, mend_triton_client, name_dc2, register
from t2i_pipelines.hub.faiss import FaissInsert, FaissSearch
from t2i_pipelines.hub.milvus import (
    MilvusClientInsert,
    MilvusClientSearch,
    OsschatMilvusInsert,
    OsschatMilvusSearch,
)
from t2i_pipelines.hub.operators import Cv2, Cv2Rgb, HubClip, NpNormalize, harden_every_output

OPERATORS = {
    "image-decode": Cv2,  # ops.image_decode()
    "towhee/image-decode": Cv2,
    "image-decode/cv2": Cv2,
    "image-decode/cv2-rgb": Cv2Rgb,
    "image-text-embedding/clip": HubClip,
    "towhee/np-normalize": NpNormalize,
    "ann-insert/faiss-index": FaissInsert,
    "ann-search/faiss-index": FaissSearch,
    "ann-insert/milvus-client": MilvusClientInsert,
    "ann-search/milvus-client": MilvusClientSearch,
    "ann-insert/osschat-milvus": OsschatMilvusInsert,
    "ann-search/osschat-milvus": OsschatMilvusSearch,
}

for _name, _operator in OPERATORS.items():
    if known_operator(_name) is None:
        register(name=_name)(_operator)
harden_every_output()
name_dc2()
mend_triton_client()


class _GradioFinder(MetaPathFinder):
    """Lets Gradio be imported as ever, and names its old components when that is done."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where Gradio is; None for any other module."""
        spec = PathFinder.find_spec(name, path) if name == "gradio" else None
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                name_old_components(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def name_old_components(gradio: Any) -> None:
    """Give Gradio the modules ``inputs`` and ``outputs`` that it had before version 4, where it has none.

    They hold ``Textbox`` and ``Image`` alone, with the arguments that still mean something.
    """

    def textbox(
        lines: int = 1, placeholder: str | None = None, default: str = "", *, label: Any = None
    ) -> Any:
        return gradio.Textbox(default, lines=lines, placeholder=placeholder, label=label)

    def image(
        *, image_mode: str = "RGB", source: str = "upload", type: str = "numpy", label: Any = None
    ) -> Any:
        kind = "filepath" if type == "file" else type
        return gradio.Image(image_mode=image_mode, sources=[source], type=kind, label=label)

    def output(component: str) -> Any:
        # an output shows arrays, PIL images and files alike, whatever its type
        return lambda type="auto", *, label=None: getattr(gradio, component)(label=label)

    for name, components in (
        ("inputs", {"Textbox": textbox, "Image": image}),
        ("outputs", {"Textbox": output("Textbox"), "Image": output("Image")}),
    ):
        if not hasattr(gradio, name):
            module = sys.modules[f"gradio.{name}"] = ModuleType(f"gradio.{name}")
            vars(module).update(components)
            setattr(gradio, name, module)


if not any(type(finder).__name__ == _GradioFinder.__name__ for finder in sys.meta_path):
    sys.meta_path.insert(0, _GradioFinder())
if sys.modules.get("gradio") is not None:
    name_old_components(sys.modules["gradio"])

__all__ = ["OPERATORS"]
