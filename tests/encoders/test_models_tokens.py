"""Texts become the numbers that OpenAI's tokenizer gives, and what the model cannot read is said."""

import time
import unicodedata
import warnings

import ftfy
import pytest
from clips import CLIPTokenizer, open_clip
from hypothesis import assume, example, given
from hypothesis import strategies as st

from t2i_pipelines.encoders.tokenizer import TextTokenizer, openai_tokenizer, scripts_of
from t2i_pipelines.errors import CheckpointError

TEXTS = {
    "ascii": "a photo of a cat, isn't it? 123 4567 I'VE we'll",
    "accents": "Café déjà vu über São Paulo naïve",
    "combining accents": "Cafe\u0301 a\u030a",
    "chinese": "一只可爱的小猫在草地上",
    "japanese": "日本語のテスト ｶﾀｶﾅ ＡＢＣ",
    "emoji": "a dog 🐶 on the 🏖️ with 👨‍👩‍👧",
    "html": "AT&amp;T &lt;b&gt; it&#39;s &amp;quot;twice&amp;quot; &nbsp;x",
    "html twice, where ftfy leaves it": "a < b &amp;quot;c&amp;quot;",
    "curly quotes": "it’s “quoted” – ﬁne…",
    "mojibake": "schÃ¶n",
    "whitespace": "  two \n lines\t and\u00a0more ",
    "cyrillic": "Щенок в снегу",
    "turkish": "İstanbul ılık ẞ ß",
    "empty": "",
    "400 words": "word " * 400,
    "one endless word": "x" * 500,
}

# assigned long ago: the two regular expression engines know different versions of Unicode
LETTERS = st.one_of(
    st.characters(min_codepoint=first, max_codepoint=last)
    for first, last in (
        (0x01, 0x24F), (0x3B1, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA), (0x628, 0x63A), (0x3042, 0x3093),
        (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0x1F600, 0x1F64F), (0x2010, 0x2027), (0xFF01, 0xFF5E),
    )
)  # fmt: skip


@pytest.fixture(scope="module")
def ours() -> TextTokenizer:
    return TextTokenizer(openai_tokenizer(), clean="lower", model_name="ViT-B/32")


@pytest.mark.filterwarnings("ignore:a text of")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_tokens_are_those_of_openais_tokenizer(ours, text):
    assert ours([text]).tolist() == open_clip.tokenize([text]).tolist()


@pytest.mark.filterwarnings("ignore:a text of")
@given(st.text(LETTERS, max_size=60))
@example("a'S b'Ll")
@example("\u0130\u0307")
def test_tokens_are_openais_whatever_the_text(text):
    tokenizer = TextTokenizer(openai_tokenizer(), clean="lower", model_name="ViT-B/32")
    # what Unicode has not assigned is a letter to the one regex library and none to the other
    assume(all(unicodedata.category(letter) != "Cn" for letter in ftfy.fix_text(text)))
    if "<|" not in text:  # the two references differ on the marks' own spelling
        assert tokenizer([text]).tolist() == open_clip.tokenize([text]).tolist()


@pytest.mark.filterwarnings("ignore:a text of")
@pytest.mark.parametrize(
    "name", ["ascii", "accents", "chinese", "japanese", "emoji", "cyrillic", "400 words"]
)
def test_tokens_are_those_of_transformers(ours, name):
    vocabulary = {token: number for number, token in enumerate(_by_number(openai_tokenizer()))}
    merges = [tuple(pair) for pair in _merges(openai_tokenizer())]
    theirs = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    text = TEXTS[name].replace("ｶﾀｶﾅ ＡＢＣ", "")  # OpenAI's folds the widths, transformers' does not
    wanted = theirs([text], padding="max_length", truncation=True)
    ids, mask = ours.with_mask([text])
    assert mask.tolist() == wanted["attention_mask"]
    length = int(mask.sum())
    assert ids[0, :length].tolist() == wanted["input_ids"][0][:length]


def _by_number(tokenizer):
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.get)


def _merges(tokenizer):
    import json

    return json.loads(tokenizer.to_str())["model"]["merges"]


def test_a_text_that_is_too_long_is_cut_and_the_first_time_a_warning_says_so():
    tokenizer = TextTokenizer(openai_tokenizer(), clean="lower", model_name="ViT-B/32")
    with pytest.warns(
        UserWarning, match="a text of 402 tokens is cut to the 77 that ViT-B/32 reads: 'word word"
    ) as seen:
        (ids, _) = tokenizer(["word " * 400, "other " * 400])
    assert (len(ids), ids[0], ids[-1]) == (77, 49406, 49407)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokenizer(["more " * 400]).shape == (1, 77)


def test_tokens_are_counted_as_open_clip_splits_texts(ours):
    """Its ids end with padding of 0."""
    texts = ["", "a white dog", TEXTS["accents"], TEXTS["emoji"], "word " * 400]
    theirs = open_clip.get_tokenizer("ViT-B-32")(texts)
    assert ours.count(texts) == int((theirs != 0).sum())
    assert ours.count(["a white dog"]) == 5
    assert ours.count([]) == 0


def test_a_text_that_just_fits_is_not_warned_of(ours):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (ours(["word " * 75])[0] != 0).all()


def test_a_script_that_the_model_never_learned_is_warned_of_once():
    tokenizer = TextTokenizer(openai_tokenizer(), clean="lower", model_name="ViT-B/32", scripts=["Latin"])
    with pytest.warns(
        UserWarning, match="ViT-B/32 never learned Han script, .* '一只猫'.* t2i_pipelines.recommend"
    ) as seen:
        tokenizer(["一只猫", "一只狗", "a cat"])
    assert len(seen) == 1
    with pytest.warns(UserWarning, match="never learned Cyrillic"):
        tokenizer(["кот"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer(["两只猫", "кошка", "Café 🐶 ½ №1"])


def test_a_model_of_all_scripts_warns_of_none():
    tokenizer = TextTokenizer(openai_tokenizer(), clean="lower", model_name="xlm", scripts=[])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer(["一只猫 кот"])


def test_scripts_are_told_from_letters():
    assert scripts_of("Café 猫 ねこ ネコ кот كلب 강아지 🐶 12 ½ ²") == {
        "Latin", "Han", "Hiragana", "Katakana", "Cyrillic", "Arabic", "Hangul",
    }  # fmt: skip
    assert scripts_of("123 !? 🐶") == set()


def test_the_tokenizer_is_built_once(ours):
    assert openai_tokenizer() is openai_tokenizer()
    start = time.process_time()
    for _ in range(50):
        ours(["a photo of a cat"])
    assert (time.process_time() - start) / 50 < 0.01  # towhee's own rebuilds for 0.08 to 0.16 s


def test_an_unknown_padding_token_is_refused(tmp_path):
    from t2i_pipelines.encoders.tokenizer import read_tokenizer

    openai_tokenizer().save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="does not know the padding token '<pad>'; it belongs in"):
        read_tokenizer(tmp_path / "tokenizer.json", 77, "<pad>")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer"):
        read_tokenizer(tmp_path / "tokenizer.json", 77, "!")


def test_padding_goes_where_and_as_far_as_the_model_wants_it():
    from tokenizers import Tokenizer

    from t2i_pipelines.encoders.tokenizer import set_length

    tokenizer = Tokenizer.from_str(openai_tokenizer().to_str())
    set_length(tokenizer, 6, "!", side="left")
    assert [one.ids[:2] for one in tokenizer.encode_batch(["red"])] == [[0, 0]]
    set_length(tokenizer, 6, "!", pads=False)
    assert [len(one.ids) for one in tokenizer.encode_batch(["red", "a red cat"])] == [5, 5]
    assert tokenizer.encode_batch(["red"])[0].ids[-1] != 0
    assert len(tokenizer.encode("a red cat on a red mat").ids) == 6
