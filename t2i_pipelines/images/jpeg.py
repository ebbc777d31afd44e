"""Whether a JPEG holds all of its image. Pillow fills what is missing with grey and does not report it."""

from __future__ import annotations

import re

import simplejpeg
from PIL import ImageFile

from t2i_pipelines.errors import ImageDecodeError

_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
"""A marker in compressed data: there 0xff is written as 0xff00, and restart markers belong to the data."""

_SOS, _EOI = 0xDA, 0xD9
_COEFFICIENTS = 64
_FILLED_WITH = 128
"""What libjpeg gives each channel of a block that it has no data for."""


def check_complete(content: bytes, header: ImageFile.ImageFile) -> None:
    """Refuse a JPEG that ends before its image does.

    Most images cost nothing: one whose last pixel is not grey is complete, unless it is progressive or CMYK,
    where missing data need not be grey.

    :param header: of the image, loaded.
    :raises ImageDecodeError: If data is missing, or a scan of a progressive JPEG.
    """
    is_progressive = "progressive" in header.info
    last = header.getpixel((header.width - 1, header.height - 1))
    if header.mode in ("L", "RGB") and not is_progressive and last not in (_FILLED_WITH, (_FILLED_WITH,) * 3):
        return
    if is_progressive and not _has_every_scan(content):
        raise ImageDecodeError("it ends before its last scan; truncated='accept' takes what is there")
    try:  # at an eighth of the size, the smallest that it offers
        simplejpeg.decode_jpeg(content, "GRAY", fastdct=True, min_height=1, min_width=1, strict=True)
    except ValueError as err:
        if "premature end" in str(err).lower():
            raise ImageDecodeError(f"{err}; truncated='accept' takes what is there") from None


def _has_every_scan(content: bytes) -> bool:
    """Return whether each component's 64 coefficients are sent down to their last bit.

    ITU-T T.81, section G.1.1.1: each scan has a band of coefficients, and the bits down to ``Al``.
    """
    sent: dict[int, set[int]] = {}
    at = 0
    while (marker := _MARKER.search(content, at)) and marker[1][0] != _EOI:
        at = marker.end()
        if marker[1] in b"\xd8\x01":  # these two have no length
            continue
        length = int.from_bytes(content[at : at + 2], "big")
        segment, at = content[at + 2 : at + length], at + length
        if 0xC0 <= marker[1][0] <= 0xCF and marker[1] not in b"\xc4\xc8\xcc":  # start of frame
            sent = {component: set() for component in segment[6::3]}
        if marker[1][0] == _SOS and segment:
            many = segment[0]
            first, last, bits = segment[1 + 2 * many : 4 + 2 * many]
            if not bits & 15:
                for component in segment[1 : 1 + 2 * many : 2]:
                    sent[component] |= set(range(first, last + 1))
    return all(len(bands) == _COEFFICIENTS for bands in sent.values())
