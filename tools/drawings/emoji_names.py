"""What there is to draw: about a thousand things, each with its emoji and its names in five languages.

Names come from the ``emoji`` package (extra ``mini``); ``words.txt`` adds what people really type
and joins emoji that show the same thing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

from t2i_pipelines.errors import MissingExtraError

LANGUAGES = ("en", "es", "zh", "de", "it")

Names = dict[str, tuple[str, ...]]

NEWEST_EMOJI = 14.0  # what colour emoji fonts of the last years all draw

_LEFT_OUT = re.compile(
    r"button|arrow|o’clock|-thirty|_sign$|square|_circle$|_book$|medium|symbol|input_|[Jj]apanese_"
    r"|triangle|asterisk|(blue|orange)_diamond|exclamation|question|dash|curly|loop|mark$|fist"
    r"|no_|non-|copyright|registered|keycap|restroom|room$|closet|customs|baggage|luggage_|left_"
    r"|Aquarius|Aries|Cancer|Capricorn|Gemini|Leo|Libra|Ophiuchus|Pisces|Sagittarius|Scorpio$|Taurus"
    r"|Virgo|cross$|om$|khanda|wheel_of|yin_yang|star_and|star_of|infinity|multiply|^plus|minus|divide"
    r"|equals|circled|speaker_(low|medium)|mobile_phone_|crossed_flags|hand$|hands$|pointing|backhand"
    r"|_hand_|palm_(up|down)|finger|gesture|salute|thumb_|pregnant|breast|person_(b|f|g|i|j|k|p|s|t|w)"
    r"|people|couple|family|_holding|silhouette|women’s|men’s|litter|potable|prohibited|under_eighteen"
    r"|antenna_bars|currency|wireless|splatter|biting|kiss$|heavy|bubble$|anger|ZZZ|collision|dizzy$"
    r"|hundred|vibration|on_ground|rain_drops|black_(large|small|medium)|white_(large|small|medium)"
    r"|tear-off|trackball|card_index|inbox|outbox|mailbox|with_pen|with_key|identification|bookmark_tabs"
    r"|page_|love_hotel|moon_face|reminder|selfie|fog$|foggy|bell_with|dotted|wind_face|locked|part_alt"
)
_PREFIX = re.compile(r"^(a|una?|der|die|das|il|la|lo|el) ")


@dataclass(frozen=True)
class Concept:
    """One thing that can be in a picture.

    :ivar key: its usual English name, unique.
    :ivar glyphs: the emoji that show it, at least one.
    :ivar names: language -> names in lower case, the usual one first.
    :ivar common: whether people often look for it; such things are drawn more often.
    """

    key: str
    glyphs: tuple[str, ...]
    names: Names
    common: bool = False


def _emoji_data() -> dict[str, dict[str, object]]:
    """Emoji -> what the ``emoji`` package knows of it, in all our languages."""
    try:
        import emoji
    except ImportError as error:
        raise MissingExtraError("emoji is not installed; run: pip install 't2i-pipelines[mini]'") from error
    for language in LANGUAGES[1:]:
        emoji.config.load_language(language)
    data: dict[str, dict[str, object]] = emoji.EMOJI_DATA
    return data


def _clean(name: object) -> str:
    text = str(name or "").strip(":").replace("_", " ").lower()
    return _PREFIX.sub("", text.replace("“", "").replace("”", "").strip())


def _is_wanted(glyph: str, facts: dict[str, object]) -> bool:
    if facts["status"] != 2 or float(str(facts["E"])) > NEWEST_EMOJI or "\u200d" in glyph:
        return False
    if any("\U0001f3fb" <= c <= "\U0001f3ff" or "\U0001f1e6" <= c <= "\U0001f1ff" for c in glyph):
        return False
    if "\u20e3" in glyph or "\U000e007f" in glyph:
        return False
    return not _LEFT_OUT.search(str(facts["en"]).strip(":"))


def _split_glyphs(joined: str) -> Iterator[str]:
    """Cut "🐕🐶🐕‍🦺" into single emoji."""
    return iter(re.findall(r"[^\u200d\ufe0f](?:\ufe0f|\u200d[^\u200d\ufe0f])*\ufe0f?", joined))


def _from_words() -> Iterator[Concept]:
    text = resources.files(__package__).joinpath("words.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        glyphs, *cells = (cell.strip() for cell in line.split("|"))
        names = {
            language: tuple(name.strip() for name in cell.split(","))
            for language, cell in zip(LANGUAGES, cells, strict=True)
        }
        yield Concept(names["en"][0], tuple(_split_glyphs(glyphs)), names, common=True)


def _from_package(taken: set[str]) -> Iterator[Concept]:
    for glyph, facts in _emoji_data().items():
        if glyph in taken or not _is_wanted(glyph, facts):
            continue
        names: Names = {}
        for language in LANGUAGES:
            if name := _clean(facts.get(language)):
                names[language] = (name,)
        if len(names) < len(LANGUAGES):
            continue
        aliases = facts.get("alias", [])
        assert isinstance(aliases, list)
        extra = [_clean(alias) for alias in aliases if re.fullmatch(r":[a-z_]{3,}:", str(alias))]
        names["en"] = tuple(dict.fromkeys((*names["en"], *extra)))
        yield Concept(names["en"][0], (glyph,), names)


@cache
def concepts() -> tuple[Concept, ...]:
    """Everything that can be drawn, in a fixed order, without two of the same key."""
    common = list(_from_words())
    taken = {glyph for concept in common for glyph in concept.glyphs}
    keys = {concept.key for concept in common}
    rest = [concept for concept in _from_package(taken) if concept.key not in keys]
    return (*common, *sorted(rest, key=lambda concept: concept.key))
