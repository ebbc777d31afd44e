"""What t2i_mini learns from: things, scenes, and true words for them."""

import numpy as np
import pytest
from PIL import Image

from t2i_pipelines.errors import ConfigError
from tools.drawings import scenes
from tools.drawings.backgrounds import PAINTERS, paint
from tools.drawings.captions import corpus, describe, english_article, german_case, ground_key, tell
from tools.drawings.emoji_names import LANGUAGES, concepts
from tools.drawings.scenes import FONT, Scene, draw, invent, sprite

needs_font = pytest.mark.skipif(not FONT.exists(), reason="fonts-noto-color-emoji is not installed")

THINGS = {thing.key: thing for thing in concepts()}
EVENLY = np.linspace(0, 1, len(THINGS) + 1)[1:]


def some_scenes(count):
    rng = np.random.default_rng(5)
    return [invent(list(THINGS.values()), EVENLY, rng) for _ in range(count)]


def test_everything_has_a_key_of_its_own_and_names_in_five_languages():
    assert len(THINGS) == len(concepts())
    for thing in concepts():
        assert set(thing.names) == set(LANGUAGES)
        assert all(name == name.strip() != "" for names in thing.names.values() for name in names)
        assert "_" not in str(thing.names)


def test_no_emoji_shows_two_things():
    glyphs = [glyph for thing in concepts() for glyph in thing.glyphs]
    assert len(glyphs) == len(set(glyphs))


def test_people_find_things_by_the_words_they_use():
    assert THINGS["car"].names["de"][0] == "auto"
    assert "puppy" in THINGS["dog"].names["en"]
    assert THINGS["dog"].glyphs == ("🐕", "🐶", "🐕‍🦺", "🦮")


def test_articles_and_capitals():
    names = ["apple", "dog", "unicorn", "scissors", "bus", "bread", "ufo", "hourglass"]
    assert [english_article(name) for name in names] == [
        "an apple",
        "a dog",
        "a unicorn",
        "scissors",
        "a bus",
        "bread",
        "a ufo",
        "an hourglass",
    ]
    assert german_case("grüner apfel") == "grüner Apfel"
    assert german_case("nest mit eiern") == "Nest mit Eiern"


def test_a_description_names_things_from_left_to_right_and_the_ground():
    dog, cat = (
        scenes.Placed(THINGS[key], THINGS[key].glyphs[0], x, 0.5, 0.3, 0, False)
        for key, x in (("dog", 0.8), ("cat", 0.2))
    )
    scene = Scene((dog, cat), "grass", 1.0)
    assert describe(scene, "en") == "a cat and a dog on grass"
    assert describe(scene, "zh") == "草地上的猫和狗"
    assert describe(scene, "de") == "Katze und Hund auf Gras"
    assert describe(scene, "en", with_background=False) == "a cat and a dog"


def test_captions_claim_only_what_is_there():
    rng = np.random.default_rng(3)
    things = [THINGS["orange"], THINGS["cat"]]
    told = [tell(things, "orange", language, rng) for language in LANGUAGES for _ in range(100)]
    shown = {"orange", "cat", ground_key("orange")}
    assert all(keys <= shown and keys and text.strip() for text, keys in told)
    assert {frozenset({"orange"}), frozenset({ground_key("orange")})} < {keys for _, keys in told}


def test_captions_do_not_mention_a_background_without_a_name():
    rng = np.random.default_rng(3)
    assert all(tell([THINGS["cat"]], None, "en", rng)[1] == {"cat"} for _ in range(100))


def test_the_corpus_has_the_words_of_all_languages():
    text = " ".join(corpus())
    assert all(word in text for word in ("bicycle", "bicicleta", "自行车", "fahrrad", "bicicletta"))


@pytest.mark.parametrize("name", PAINTERS)
def test_backgrounds_fill_any_shape_and_depend_on_the_seed_alone(name):
    first, again = (paint(name, 40, 60, np.random.default_rng(1)) for _ in range(2))
    assert (first.shape, first.dtype) == ((40, 60, 3), np.uint8)
    assert np.array_equal(first, again)


@needs_font
def test_things_lie_apart_and_inside_the_picture():
    for scene in some_scenes(60):
        ground = np.full((200, round(200 * scene.aspect), 3), 255, np.uint8)
        together = (draw(scene, ground) < 250).any(axis=2)
        assert not together[[0, -1]].any()
        assert not together[:, [0, -1]].any()
        alone = [(draw(Scene((o,), "", scene.aspect), ground) < 250).any(axis=2).sum() for o in scene.objects]
        assert together.sum() > 0.9 * sum(alone)


@needs_font
def test_a_small_drawing_is_the_large_one_squashed():
    for scene in some_scenes(12):
        large = draw(scene, np.full((300, round(300 * scene.aspect), 3), 200, np.uint8))
        small = draw(scene, np.full((64, 64, 3), 200, np.uint8))
        squashed = np.asarray(Image.fromarray(large).resize((64, 64), Image.Resampling.BICUBIC))
        assert np.abs(squashed.astype(int) - small).mean() < 5


@needs_font
def test_sprites_are_multiplied_by_their_transparency():
    for level in sprite("🐈‍⬛"):
        assert level.shape[0] == level.shape[1]
        assert (level[..., :3] <= level[..., 3:].astype(int) + 1).all()


def test_a_missing_font_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(scenes, "FONT", tmp_path / "none.ttf")
    sprite.cache_clear()
    with pytest.raises(ConfigError, match=r"no emoji font at .*none\.ttf; install .*fonts-noto-color-emoji"):
        sprite("🐕")
