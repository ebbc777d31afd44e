"""Clean and tokenize texts, and detect the writing systems that a model has not learned.

The cleaning is open_clip's, which is OpenAI's: mend broken Unicode, unescape HTML entities twice, collapse
white space. CLIP reads lower case (``lower``), SigLIP also drops punctuation (``canonicalize``).
"""

from __future__ import annotations

import gzip
import html
import string
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from t2i_pipelines.errors import CheckpointError, MissingExtraError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# first word of a character's Unicode name -> script
SCRIPTS = {
    "LATIN": "Latin", "GREEK": "Greek", "CYRILLIC": "Cyrillic", "ARMENIAN": "Armenian", "HEBREW": "Hebrew",
    "ARABIC": "Arabic", "SYRIAC": "Syriac", "DEVANAGARI": "Devanagari", "BENGALI": "Bengali",
    "GURMUKHI": "Gurmukhi", "GUJARATI": "Gujarati", "ORIYA": "Oriya", "TAMIL": "Tamil", "TELUGU": "Telugu",
    "KANNADA": "Kannada", "MALAYALAM": "Malayalam", "SINHALA": "Sinhala", "THAI": "Thai", "LAO": "Lao",
    "TIBETAN": "Tibetan", "MYANMAR": "Myanmar", "GEORGIAN": "Georgian", "HANGUL": "Hangul",
    "ETHIOPIC": "Ethiopic", "KHMER": "Khmer", "MONGOLIAN": "Mongolian", "HIRAGANA": "Hiragana",
    "KATAKANA": "Katakana", "CJK": "Han",
}  # fmt: skip


def scripts_of(text: str) -> set[str]:
    """Return the scripts of a text's letters, for example ``{"Latin", "Han"}``.

    Digits and emoji have none.
    """
    names = {unicodedata.name(char, "").partition(" ")[0] for char in set(text) if char.isalpha()}
    return {SCRIPTS[name] for name in names if name in SCRIPTS}


CONTEXT_LENGTH = 77  # open_clip's default
STEP = 8
"""Lengths that texts are padded to are multiples of this: backends compile a plan for each shape."""
PASS = 32
"""Ids that take as long as a pass does before it reads any, measured at ViT-B/32's size."""

START, END = "<|startoftext|>", "<|endoftext|>"
_MERGES = 49152 - 256 - 2
_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _spaces(text: str) -> str:
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


CLEANING: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "whitespace": _spaces,
    "lower": lambda text: _spaces(text).lower(),
    "canonicalize": lambda text: " ".join(
        _spaces(text).replace("_", " ").translate(_NO_PUNCTUATION).lower().split()
    ),
}


class TextTokenizer:
    """Texts to token ids of one length. Thread-safe; says once what the model will not understand.

    :param tokenizer: pads and cuts to the context length.
    :param clean: a key of ``CLEANING``.
    :param model_name: for the warnings.
    :param scripts: writing systems that the model learned; empty if it learned all that it can read.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, clean: str = "none", model_name: str, scripts: Sequence[str] = ()
    ) -> None:
        self.tokenizer = tokenizer
        self._clean = CLEANING[clean]
        self._model_name = model_name
        self._scripts = frozenset(scripts)
        self._warned: set[str] = set()
        self._warned_of_length = False

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """N texts -> (N, L) int64 ids."""
        return self.with_mask(texts)[0]

    def with_mask(self, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """N texts -> ids and attention mask, each (N, L) int64; the mask is 0 where there is padding."""
        encoded = self.tokenizer.encode_batch([self._clean(text) for text in texts])
        for text, one in zip(texts, encoded, strict=True):
            if one.overflowing and not self._warned_of_length:
                self._warn_of_length(text, one)
            self._warn_of_script(text)
        ids = np.array([one.ids for one in encoded], np.int64)
        return ids, np.array([one.attention_mask for one in encoded], np.int64)

    def cut(self, texts: Sequence[str]) -> int:
        """Return how many of the texts are longer than the model reads."""
        encoded = self.tokenizer.encode_batch([self._clean(text) for text in texts])
        return sum(bool(one.overflowing) for one in encoded)

    def count(self, texts: Sequence[str]) -> int:
        """Return how many tokens of the texts the model reads, their start and end included."""
        encoded = self.tokenizer.encode_batch([self._clean(text) for text in texts])
        return sum(sum(one.attention_mask) for one in encoded)

    def _warn_of_length(self, text: str, one: Any) -> None:
        self._warned_of_length = True
        left_out = (len(more.ids) - sum(more.special_tokens_mask) for more in one.overflowing)
        given = sum(one.attention_mask) + sum(left_out)
        warnings.warn(
            f"a text of {given} tokens is cut to the {len(one.ids)} that {self._model_name} reads: "
            f"{text[:40]!r}...; from now on texts that are too long are cut without a word",
            stacklevel=4,
        )

    def _warn_of_script(self, text: str) -> None:
        if text.isascii() or not self._scripts:
            return
        for script in sorted(scripts_of(text) - self._scripts - self._warned):
            self._warned.add(script)
            warnings.warn(
                f"{self._model_name} never learned {script} script, so its hits for {text[:40]!r} mean "
                f"little; t2i_pipelines.recommend(languages=...) names models that did",
                stacklevel=4,
            )


def by_length(ids: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64]]]:
    """(N, L) ids of CLIP's, whose highest one ends each text -> passes without most of the padding.

    :return: of each pass, which texts it has, and their (n, M) ids; M is the next multiple of ``STEP`` above
        the longest, at most L. Shorter texts get a pass of their own where that saves more than ``PASS`` ids.
    """
    lengths = -(-(ids.argmax(1) + 1) // STEP) * STEP
    order = np.argsort(-lengths, kind="stable")
    while len(order):
        longest = lengths[order[0]]
        saved = (longest - lengths[order]) * (len(order) - np.arange(len(order)))
        split = int(saved.argmax()) if saved.max() > PASS else len(order)
        yield np.sort(order[:split]), ids[np.sort(order[:split]), :longest]
        order = order[split:]


def read_tokenizer(path: Path, context_length: int | None = None, pad_token: str | None = None) -> Tokenizer:
    """Read a Hugging Face ``tokenizer.json``.

    :param context_length: pad and cut to this; None leaves it to the file.
    :param pad_token: what to pad with; None leaves it to the file.
    :raises CheckpointError: If it is no tokenizer, or does not say what to pad with.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as err:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path} is not a tokenizer: {err}") from err
    if context_length is not None:
        pad_token = pad_token or (tokenizer.padding or {}).get("pad_token")
        pad_id = None if pad_token is None else tokenizer.token_to_id(pad_token)
        if pad_id is None:
            raise CheckpointError(
                f"{path} does not know the padding token {pad_token!r}; it belongs in tokenizer_config.json"
            )
        tokenizer.enable_padding(length=context_length, pad_id=pad_id, pad_token=pad_token)
        tokenizer.enable_truncation(max_length=context_length)
    elif tokenizer.padding is None:
        raise CheckpointError(f"{path} neither pads, nor does config.json give text_cfg.context_length")
    return tokenizer


def set_length(
    tokenizer: Tokenizer, length: int, pad_token: str, *, pads: bool = True, side: str = "right"
) -> None:
    """Let a tokenizer cut texts to a length, and pad them to it, or to the longest of a batch.

    :param side: where padding goes: ``left`` or ``right``.
    """
    tokenizer.enable_padding(
        length=length if pads else None,
        pad_id=tokenizer.token_to_id(pad_token),
        pad_token=pad_token,
        direction=side,
    )
    tokenizer.enable_truncation(max_length=length)


def canonical(tokenizer: Tokenizer) -> Tokenizer:
    """Let a tokenizer first lower texts and drop punctuation and double spaces, as SigLIP's first does."""
    from tokenizers import Regex, normalizers

    marks = Regex(r"[!-/:-@\[-`{-~]")
    steps = [normalizers.Lowercase(), normalizers.Replace(marks, ""), normalizers.Replace(Regex(r"\s+"), " ")]
    steps.append(normalizers.Strip())
    if tokenizer.normalizer is not None:
        steps.append(tokenizer.normalizer)
    tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


@cache
def openai_tokenizer(context_length: int = CONTEXT_LENGTH) -> Tokenizer:
    """CLIP's byte-pair encoding, from the merges that ``towhee.models`` ships; padded with 0 as OpenAI does.

    :raises MissingExtraError: If towhee.models is not installed.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    merges = _merges()
    letters = [chr(code) for code in _letters()]
    vocabulary = letters + [letter + "</w>" for letter in letters]
    vocabulary += [left + right for left, right in merges] + [START, END]
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(ids, merges, end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([START, END])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    tokenizer.enable_padding(length=context_length, pad_id=0, pad_token=vocabulary[0])
    tokenizer.enable_truncation(max_length=context_length)
    return tokenizer


def _letters() -> list[int]:
    """Return the 256 characters that encode bytes, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return printable + [256 + n for n in range(256 - len(printable))]


def _merges() -> list[tuple[str, str]]:
    found = find_spec("towhee.models")
    if found is None or found.origin is None:
        raise MissingExtraError.of("towhee.models", "torch")
    path = Path(found.origin).parent / "clip" / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1 : _MERGES + 1]
    return [(left, right) for left, right in (line.split() for line in lines)]
