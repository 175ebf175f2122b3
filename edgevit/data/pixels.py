"""Reads one picture from a file, bytes, a Pillow image or an array as upright 8-bit RGB."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgevit.errors import BadFile, MissingDependency, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAX_MEGAPIXELS = 40.0
"""Pictures with more are refused before they are decoded; part of the input contract (docs/input-contract.md)."""

_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".j2c", ".jpf", ".jpc"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TGA": (".tga",),
    "QOI": (".qoi",),
    "HEIF": (".heic", ".heif"),
}
"""The formats that are read, by Pillow's names. Pillow knows more, some of which start other programs (EPS)."""
_FEATURES = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000", "JPEG": "jpg", "PNG": "zlib"}
_FOREIGN = frozenset({".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".psd", ".svg", ".ico"})
PICTURE_SUFFIXES = frozenset({suffix for suffixes in _FORMATS.values() for suffix in suffixes}) | _FOREIGN
"""Of files that are pictures by their name, whether or not they can be decoded on this machine."""

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_ORIENTATION = 0x0112
"""The EXIF tag that says how a picture must be turned."""
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What turns a picture of each EXIF orientation upright, as Pillow calls it."""


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependency("pillow", "reading pictures", extra="runtime") from error
    return Image


@lru_cache(maxsize=1)
def _decodable() -> tuple[str, ...]:
    """Those of `_FORMATS` that Pillow can decode on this machine, the usual ones first."""
    from PIL import features

    image = _pillow()
    image.init()
    return tuple(
        name for name in _FORMATS if name in image.OPEN and (name not in _FEATURES or features.check(_FEATURES[name]))
    )


def readable_suffixes() -> frozenset[str]:
    """Suffixes of the pictures that can be decoded on this machine."""
    return frozenset(suffix for name in _decodable() for suffix in _FORMATS[name])


def _opened(stream: IO[bytes]) -> Picture:
    """An opened picture: its header is read, its pixels are not.

    `PIL.Image.open` compares the size with a limit of the whole process and warns, which is the host's to decide;
    here the caller looks at the size.
    """
    from PIL import UnidentifiedImageError

    image = _pillow()
    prefix = stream.read(16)
    for name in _decodable():
        factory, accept = image.OPEN[name]
        fits = accept(prefix) if accept else True
        if not fits or isinstance(fits, str):
            continue
        stream.seek(0)
        try:
            opened: Picture = factory(stream, "")
        except (SyntaxError, IndexError, TypeError, ValueError, EOFError):
            continue
        return opened
    raise UnidentifiedImageError("no format that can be decoded here")


def decode_picture(stream: IO[bytes], name: str, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Decode one picture, upright and in RGB; of an animation or a file of several pages the first.

    Args:
        stream: can be sought.
        name: for messages.
        max_megapixels: larger pictures are refused before they are decoded.

    Raises:
        BadFile: truncated, not a picture, too large, or of values whose range is not known.
        MissingDependency: Pillow is not installed.
    """
    import struct

    image = _pillow()
    try:
        with _opened(stream) as picture:
            check_megapixels(picture.size, name, max_megapixels)
            return to_rgb(picture, name)
    except BadFile:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        IndexError,
        EOFError,
        struct.error,
        image.DecompressionBombError,
    ) as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> BadFile:
    suffix = Path(name).suffix.lower()
    if suffix in PICTURE_SUFFIXES - readable_suffixes():
        return BadFile(
            f"{suffix} pictures cannot be decoded on this machine", where=name, cure="convert it to JPEG or PNG"
        )
    return BadFile(
        "the file is not a picture that can be read",
        where=f"{name}: {error}",
        cure="it may be damaged or cut off: open it in a viewer, or convert it to PNG or JPEG",
    )


def check_megapixels(size: tuple[int, int], name: str, most: float = MAX_MEGAPIXELS) -> None:
    """Refuse a picture that is too large.

    Args:
        size: width and height in pixels.
        name: for messages.
        most: in megapixels.

    Raises:
        BadFile: it is larger.
    """
    megapixels = size[0] * size[1] / 1e6
    if megapixels > most:
        raise BadFile(
            f"the picture has {megapixels:.1f} megapixels, more than {most:g}",
            where=name,
            cure="make it smaller, or raise --max-megapixels",
        )


def to_rgb(picture: Picture, name: str = "") -> Picture:
    """A Pillow image upright and in 8-bit RGB, by the first step of docs/input-contract.md.

    Args:
        picture: of any mode; its EXIF orientation is applied, once: the result has none.
        name: for messages.

    Raises:
        BadFile: floating-point or 32-bit pixels, which have no agreed range.
    """
    picture.load()
    turned = _upright(_eight_bits(picture, name))
    if turned.mode in ("P", "PA", "La", "RGBa"):
        turned = turned.convert("RGBA")  # Pillow warns of, or cannot make, the direct way
    if turned.mode != "RGB":
        turned = turned.convert("RGB")
    elif turned is picture and picture.info:
        turned = picture.copy()
    if turned is not picture:
        turned.info = {}
    return turned


def _upright(picture: Picture) -> Picture:
    """A picture turned as its EXIF data asks; what cannot be understood is ignored, as browsers do."""
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever a damaged EXIF block makes Pillow's parsers raise
        return picture
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return picture.transpose(getattr(_pillow().Transpose, turn)) if turn else picture


def _eight_bits(picture: Picture, name: str) -> Picture:
    """A 16-bit grey picture reduced to its upper eight bits; Pillow itself would clip it to white."""
    # what Pillow reads as 32-bit integers from a PNG or PGM has 16 bits in the file
    if picture.mode in _SIXTEEN_BITS or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        values = np.asarray(picture).astype(np.int64)
        found: Picture = _pillow().fromarray((np.clip(values, 0, 0xFFFF) >> 8).astype(np.uint8))
        if (orientation := picture.getexif().get(_ORIENTATION)) is not None:
            found.getexif()[_ORIENTATION] = orientation
        return found
    if picture.mode in ("I", "F"):
        kind = "32-bit integer" if picture.mode == "I" else "floating-point"
        raise BadFile(
            f"the picture has {kind} pixels, which have no agreed range",
            where=name,
            cure="scale it to 0..255 and save it with 8 bits a channel",
        )
    return picture


def as_picture(given: Any, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Upright RGB of anything that holds one picture.

    Args:
        given: a path; bytes or an open binary file of an image format; a Pillow image; or an array (NumPy, or what
            converts to it, as a torch tensor does): uint8 RGB [H, W, 3], RGBA [H, W, 4] with the alpha dropped,
            or grey [H, W] or [H, W, 1].
        max_megapixels: larger ones are refused.

    Raises:
        BadFile: it cannot be read, or is too large.
        UsageError: something else, or an array of another shape or type.
    """
    image = _pillow()
    if isinstance(given, (str, Path)):
        return read_picture(Path(given), max_megapixels)
    if isinstance(given, image.Image):
        check_megapixels(given.size, "a Pillow image", max_megapixels)
        return to_rgb(given, "a Pillow image")
    if isinstance(given, (bytes, bytearray, memoryview)):
        return decode_picture(io.BytesIO(given), f"{len(given)} bytes", max_megapixels)
    if hasattr(given, "read"):
        return decode_picture(io.BytesIO(given.read()), str(getattr(given, "name", "a stream")), max_megapixels)
    if hasattr(given, "__array__"):
        pixels = _rgb_array(given)
        check_megapixels((pixels.shape[1], pixels.shape[0]), "an array", max_megapixels)
        return image.fromarray(pixels)
    raise UsageError(
        f"a {type(given).__name__} is not a picture",
        cure="give a path, bytes, a Pillow image, or a uint8 array [H, W, 3] of RGB",
    )


def _rgb_array(given: Any) -> NDArray[np.uint8]:
    """[H, W, 3] uint8 RGB of an array."""
    try:
        array = np.asarray(given)
    except (TypeError, RuntimeError) as error:  # a tensor on another device, or one that needs its gradient
        raise UsageError(
            "the array cannot be read by NumPy", where=str(error).split("\n", 1)[0], cure="array.detach().cpu()"
        ) from error
    shape = list(array.shape)
    if array.dtype != np.uint8:
        raise UsageError(
            f"the array holds {array.dtype}, not uint8 from 0 to 255", where=f"shape {shape}", cure=_as_bytes(array)
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise UsageError(f"an array {shape} is not one picture [H, W, 3]", cure=_other_order(array))
    return np.ascontiguousarray(np.broadcast_to(array[..., :3], (*array.shape[:2], 3)))


def _as_bytes(array: NDArray[Any]) -> str:
    if array.dtype == np.bool_:
        return "array.astype('uint8') * 255"
    if array.dtype == np.uint16:
        return "of 16 significant bits: (array >> 8).astype('uint8')"
    if np.issubdtype(array.dtype, np.floating):
        return "of values from 0 to 1: (array * 255).round().astype('uint8'); normalised ones must be undone first"
    return "array.astype('uint8'), where its values are from 0 to 255"


def _other_order(array: NDArray[Any]) -> str:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        return "its channels come first: array.transpose(1, 2, 0)"
    if array.ndim == 4:
        return "a batch is given as a list of pictures: list(array)"
    return "give uint8 RGB [H, W, 3], RGBA [H, W, 4] or grey [H, W]"


def read_picture(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Decode a picture, upright and in RGB.

    Args:
        path: any format of `readable_suffixes`; its content decides, not its name.
        max_megapixels: larger pictures are refused before they are decoded.

    Raises:
        BadFile: missing, empty, truncated, not a picture, or too large.
        MissingDependency: Pillow is not installed.
    """
    _pillow()
    if path.is_dir():
        raise BadFile(f"{path} is a folder, not a picture", cure="give the pictures in it")
    try:
        if not path.is_file():
            raise BadFile(f"there is no picture {path}")
        if path.stat().st_size == 0:
            raise BadFile("the picture is an empty file", where=str(path))
        with path.open("rb") as stream:
            return decode_picture(stream, str(path), max_megapixels)
    except (OSError, ValueError) as error:  # no permission, a name that no file can have
        raise BadFile("the picture cannot be opened", where=f"{path}: {error}") from error
