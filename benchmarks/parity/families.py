"""The families, by the names that the table gives them."""

from __future__ import annotations

from benchmarks.parity import of_texts, of_transformers
from benchmarks.parity.samples import Family

FAMILIES: dict[str, Family] = {
    "CLIP, transformers": of_texts.clip,
    "CLIP, OpenAI": of_texts.openai,
    "CLIP, sentence-transformers": of_texts.sentences_clip,
    "Multilingual CLIP, sentence-transformers": of_texts.multilingual_clip,
    "M-CLIP": of_texts.mclip,
    "Chinese-CLIP": of_transformers.chinese_clip,
    "AltCLIP": of_transformers.altclip,
    "MetaCLIP 2": of_transformers.metaclip_2,
    "SigLIP": of_transformers.siglip,
    "SigLIP 2": of_transformers.siglip2,
}
