"""The families, by the names that the table gives them."""

from __future__ import annotations

from benchmarks.parity import of_openclip, of_texts, of_transformers
from benchmarks.parity.samples import Family

FAMILIES: dict[str, Family] = {
    "CLIP, transformers": of_texts.clip,
    "CLIP, OpenAI": of_texts.openai,
    "CLIP, sentence-transformers": of_texts.sentences_clip,
    "Multilingual CLIP, sentence-transformers": of_texts.multilingual_clip,
    "M-CLIP": of_texts.mclip,
    "OpenCLIP": of_openclip.SHORTEST,
    "OpenCLIP, longest side": of_openclip.LONGEST,
    "OpenCLIP, squashed": of_openclip.SQUASH,
    "Chinese-CLIP": of_transformers.chinese_clip,
    "AltCLIP": of_transformers.altclip,
    "MetaCLIP 2": of_transformers.metaclip_2,
    "SigLIP": of_transformers.siglip,
    "SigLIP 2": of_transformers.siglip2,
}
"""Those that can be small, and true."""

NAMED: dict[str, Family] = {
    "MobileCLIP-S1, Apple's file": of_openclip.MOBILE_S1,
    "EVA02-B-16": of_openclip.EVA,
    "MetaCLIP, ViT-B/32": of_openclip.METACLIP,
    "DFN, ViT-B/16": of_openclip.DFN,
}
"""Weights alone, whose model is named to open_clip: always true."""
