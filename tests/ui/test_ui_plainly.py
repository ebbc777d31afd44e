"""An error on the page is one sentence, without paths and secrets."""

import pytest

from t2i_pipelines.errors import ConfigError, StoreUnavailableError
from t2i_pipelines.ui.markup import LONGEST, plainly


@pytest.mark.parametrize(
    ("reason", "settings", "path", "shown"),
    [
        ("no such folder or file: '/home/ann/My Pictures'", {}, "", "no such folder or file: 'My Pictures'"),
        ("cannot read image /srv/a/b.jpg: cut off", {}, "", "cannot read image b.jpg: cut off"),
        (
            "cannot read image /my a/b c.jpg: cut off",
            {},
            "/my a/b c.jpg",
            "cannot read image b c.jpg: cut off",
        ),
        ("cannot read C:\\Users\\ann\\x.png, sorry", {}, "", "cannot read x.png, sorry"),
        ("cannot read ~/x/y.png", {}, "", "cannot read y.png"),
        ("cannot open file:///etc/passwd", {}, "", "cannot open passwd"),
        ("got https://ann:pw@host.example/a/b.jpg?key=1: 404", {}, "", "got b.jpg: 404"),
        ("got s3://bucket/a@b.jpg", {}, "", "got a@b.jpg"),
        ("no server at http://root:pw@db:19530/", {}, "", "no server at db:19530"),
        ("no server at http://db:19530.", {"uri": "http://db:19530"}, "", "no server at db:19530."),
        ("cannot open /data/x y/milvus.db", {"uri": "/data/x y/milvus.db"}, "", "cannot open milvus.db"),
        ("refused: root:s3cret", {"token": "root:s3cret"}, "", "refused: •••"),
        ("password s3cret is wrong", {"token": "root:s3cret"}, "", "password ••• is wrong"),
        ("password s3cret is wrong", {"uri": "http://root:s3cret@db:1"}, "", "password ••• is wrong"),
        ("at most 0.5 and/or 1, year > 2015", {}, "", "at most 0.5 and/or 1, year > 2015"),
        ("two\nlines\x1b[31m", {}, "", "two lines\ufffd[31m"),
    ],
)
def test_paths_and_secrets_are_cut_from_a_sentence(reason, settings, path, shown):
    assert plainly(ConfigError(reason), settings, path) == shown


def test_a_long_error_is_cut():
    assert len(plainly(StoreUnavailableError("x" * 1000), {})) == LONGEST
