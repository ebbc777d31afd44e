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
the extra ``triton``. And ``towhee.dc2``, as older notebooks call it, is ``towhee``.
"""

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

__all__ = ["OPERATORS"]
