"""Inserting on the page: how far it is, what failed, and that it can be stopped."""

import re

from conftest import paint

from t2i_pipelines import testing
from t2i_pipelines.collection import open_collection
from t2i_pipelines.images import records
from t2i_pipelines.ui import finding, markup

assert testing


def test_inserting_tells_how_far_it_is_and_what_failed(pictures, settings):
    (pictures / "sub").mkdir()
    (pictures / "sub" / "broken.jpg").write_bytes(b"no picture")
    runs = list(finding.insert(f" {pictures} ", settings))
    html = markup.inserted(runs[-1], settings)
    assert (runs[-1].total, runs[-1].is_over) == (8, True)
    assert "Done. 8 images: 7 added, 1 could not be added." in html
    assert "<bdi>sub/broken.jpg</bdi></b>" in html
    assert '<span class="t2i-stage">not an image</span>' in html
    assert "cannot read image broken.jpg: " in html
    assert str(pictures) not in html
    assert "<progress" not in html


def test_a_run_under_way_shows_its_bar(settings):
    run = finding.Run("photos", total=40)
    assert re.search(r'<progress .*max="40" value="0">', markup.inserted(run, settings))
    assert "0 of 40 images" in markup.inserted(run, settings)
    unknown = markup.inserted(finding.Run("photos.tar"), settings)
    assert "value=" not in unknown


def test_an_insert_that_is_stopped_tells_what_is_in(settings, tmp_path, monkeypatch):
    for n in range(60):
        paint(tmp_path / "in" / f"{n:02}.png", (250, n, 0))
    monkeypatch.setattr(finding, "BATCH", 1)
    run = finding.Run("in", 60)
    given = iter(run.until_stopped(records(tmp_path / "in")))
    monkeypatch.setattr(finding, "records", lambda *_, **__: stopping(run, given, after=5))
    monkeypatch.setattr(finding, "Run", lambda *_: run)
    *_, last = finding.insert(str(tmp_path / "in"), settings)
    stored = open_collection(**{name: settings[name] for name in ("uri",)}).count()
    assert (last.is_over, last.error, last.report.counts["inserted"]) == (True, None, stored)
    assert stored == 5
    html = markup.inserted(last, settings)
    assert "Stopped after 5 of 60 images: 5 added. Insert it again to go on." in html


def stopping(run, given, after):
    for n, record in enumerate(given):
        if n == after:
            run.stopped.set()
        yield record


def test_an_insert_stopped_before_its_first_image_is_no_error(settings, pictures, monkeypatch):
    run = finding.Run("in", 7)
    run.stopped.set()
    monkeypatch.setattr(finding, "Run", lambda *_: run)
    *_, last = finding.insert(str(pictures), settings)
    assert (last.error, last.report.total) == (None, 0)
    assert "Stopped after 0 of 7 images" in markup.inserted(last, settings)


def test_images_are_read_as_those_before_are_inserted(settings, tmp_path, monkeypatch):
    for n in range(60):
        paint(tmp_path / f"{n:02}.png", (250, n, 0))
    run, known = finding.Run("in", 60), []

    def reading(*_, **__):
        for record in records(tmp_path):
            known.append(run.report.total)
            yield record

    monkeypatch.setattr(finding, "BATCH", 1)
    monkeypatch.setattr(finding, "records", reading)
    monkeypatch.setattr(finding, "Run", lambda *_: run)
    *_, last = finding.insert(str(tmp_path), settings)
    assert (last.report.counts["inserted"], len(known)) == (60, 60)
    assert known[0] == 0 < known[-1]
