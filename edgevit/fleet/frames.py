"""Images as they are sent to members: at the model's size, encoded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.data.capture import captured_pictures
from edgevit.data.folders import Skip, refuse
from edgevit.data.images import to_model_size
from edgevit.fleet.wire import Encoding
from edgevit.schema.model import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_QUALITY = 95
"""JPEG quality, without chroma subsampling: the default encoding of docs/fleet.md."""


@dataclass(frozen=True)
class Frame:
    """One encoded image.

    Attributes:
        name: of the file, or the number of a video frame.
        payload: the encoded bytes.
        encoding: of the payload.
    """

    name: str
    payload: bytes
    encoding: Encoding


def encode(picture: Picture, rule: Preprocessing, encoding: Encoding) -> bytes:
    """Encode a picture at the model's size: JPEG at quality 95 without chroma subsampling, PNG or raw."""
    from PIL import Image

    pixels = to_model_size(picture, rule)
    if encoding == "raw":
        return pixels.tobytes()
    out = io.BytesIO()
    image = Image.fromarray(pixels)
    if encoding == "png":
        image.save(out, "PNG")
    else:
        image.save(out, "JPEG", quality=_QUALITY, subsampling=0)
    return out.getvalue()


def frames(source: str, rule: Preprocessing, encoding: Encoding, skip: Skip = refuse) -> Iterator[Frame]:
    """All images of a source, encoded for sending.

    Args:
        source: as for `captured_pictures`.
        rule: the model's size.
        encoding: how images travel.
        skip: called for pictures that cannot be read; without it the first one is an error.

    Raises:
        EdgevitError: as for `captured_pictures`.
    """
    for name, picture in captured_pictures(source, skip):
        yield Frame(name, encode(picture, rule, encoding), encoding)
