"""Which writing systems a text uses, so that a model can say when it never learned one of them."""

from __future__ import annotations

import unicodedata

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
    """The scripts of a text's letters, for example ``{"Latin", "Han"}``; digits and emoji have none."""
    names = {unicodedata.name(char, "").partition(" ")[0] for char in set(text) if char.isalpha()}
    return {SCRIPTS[name] for name in names if name in SCRIPTS}
