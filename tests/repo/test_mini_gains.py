"""What `make quality` says of fine-tuning, in small: which figures, from which images."""

import io
import tarfile

import pytest
from PIL import Image

from t2i_pipelines.encoders import load_encoder
from tools.drawings import photos
from tools.drawings.scenes import FONT
from tools.t2i_mini import gains

needs_font = pytest.mark.skipif(not FONT.exists(), reason="fonts-noto-color-emoji is not installed")


@pytest.fixture
def small(monkeypatch):
    for name, value in {
        "CHARTS": 24,
        "VALIDATED": 12,
        "ASKED": 12,
        "SCENES": 4,
        "OUTSIDE": 4,
        "EPOCHS": 1,
        "PHOTO_EPOCHS": 1,
    }.items():
        monkeypatch.setattr(gains, name, value)
    monkeypatch.setattr(gains, "A_LABEL", 3)
    monkeypatch.setattr(gains, "TESTED", 2)
    monkeypatch.setattr(photos, "HELD_OUT", 2)


def archive(path):
    """Five photographs of each label."""
    with tarfile.open(path, "w:gz") as tar:
        for at, label in enumerate(photos.LABELS):
            for number in range(5):
                buffer = io.BytesIO()
                Image.new("RGB", (32, 32), (25 * at, 50 * number, 0)).save(buffer, "JPEG")
                member = tarfile.TarInfo(f"train/{label}/{number:04d}.jpg")
                member.size = buffer.tell()
                tar.addfile(member, io.BytesIO(buffer.getvalue()))
    return path


@needs_font
@pytest.mark.slow
def test_gains_and_losses_are_measured_in_both_domains(small, tmp_path, monkeypatch, capsys):
    (tmp_path / "unseen").symlink_to(load_encoder("t2i_mini", device="cpu", precision="fp32").folder)
    options = ["--photos", str(archive(tmp_path / "photos.tar.gz")), "--unseen", str(tmp_path / "unseen")]
    gains.main(options)
    printed = capsys.readouterr().out
    for domain, metric in (("charts", "R@5"), ("photographs", "P@10")):
        for what in (
            f"{metric} before",
            f"{metric} after",
            f"{metric} gained",
            "gallery R@1 lost",
            "minutes",
        ):
            assert f"fine-tuned on {domain}, {what}" in printed
    monkeypatch.setattr(gains, "measure_chart_gain", lambda *_: [gains.Figure("charts", 0.1, 0.2)])
    assert gains.main([*options[:2], "--unseen", str(tmp_path / "none")]) == 1
    assert "fine-tuned on photographs: not measured, no model at " in capsys.readouterr().out
    monkeypatch.setattr(gains, "measure_chart_gain", lambda *_: [gains.Figure("charts", 0.3, 0.2)])
    assert gains.main([]) == 0
    assert "fine-tuned on photographs: not measured, no --photos" in capsys.readouterr().out


def test_photographs_are_laid_out_by_label_and_none_is_tested_that_was_learned(small, tmp_path):
    kept, held_out = photos.read_photos(archive(tmp_path / "photos.tar.gz"))
    learned, tested = (
        gains._classes(some, each, tmp_path / name)
        for some, each, name in ((kept, 3, "learned"), (held_out, 2, "tested"))
    )
    contents = [{one.read_bytes() for one in folder.rglob("*.png")} for folder in (learned, tested)]
    assert [len(one) for one in contents] == [30, 20]
    assert not contents[0] & contents[1]
    assert {one.name for one in learned.iterdir()} == set(photos.LABELS)
