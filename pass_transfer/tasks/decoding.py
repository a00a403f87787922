"""From an image file's content to square RGB pixels, as a viewer shows them (docs/data.md)."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
from PIL import Image, ImageFile, ImageOps

from pass_transfer.errors import TaskError
from pass_transfer.preprocessing import Preprocessing

# An image file's content, its path, or an (H, W) or (H, W, 3) uint8 array.
Encoded = bytes | str | np.ndarray

# What is read, by content. Pillow reads more; the rest are drawings, programs, or have no mark
# by which their content is known.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
VERSION = 1  # of this file's rules
HEAD = 32  # bytes that tell what a file is
LOSING = 2  # times as long as wide, beyond which a crop loses more than half of an image
SLIVER = 8  # times as long as wide, beyond which an image is not resized whole
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
SHARED_BRANDS = (b"mif1", b"msf1")  # of HEIC, or of AVIF, which then stands behind them
HEIC_HINT = "HEIC images, which need `pip install pass-transfer[heif]`"

DAMAGED = "images that cannot be decoded"
NO_ACCESS = "files that cannot be read"
TOO_LARGE = "images with more pixels than Pillow opens"

# Values that images of more than 8 bits reach: 8, 12 and 16 bits of content.
LARGEST = (255, 4095, 65535)
DARKEST = 16  # an image that stays below this part of the scale is stretched to its own largest
OPAQUE = np.uint8(255)
LIGHT = 128  # of 255: content of one colour is shown on black from here on
BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes of its second header
BLACK, WHITE = (0, 0, 0, 255), (255, 255, 255, 255)

TURNED, TRANSPARENT, DEEP, LONG = "turned", "transparent", "deep", "long"


class UnreadableImage(TaskError):
    """An image that is left out.

    `reason` says it in the words under which such images are counted; `lasts` is false where
    another try may go well.
    """

    def __init__(self, reason: str, detail: str, lasts: bool = True):
        super().__init__(detail)
        self.reason, self.lasts = reason, lasts


@dataclass(frozen=True)
class Picture:
    """Pixels, (S, S, 3) uint8, and what had to be done to see them: TURNED and the like."""

    pixels: np.ndarray
    treated: tuple[str, ...] = ()


def decode(encoded: Encoded, preprocessing: Preprocessing) -> np.ndarray:
    """One image as a network sees it: an RGB uint8 array (S, S, 3).

    Raises UnreadableImage, a TaskError, for damaged content or a file that cannot be read.
    """
    return picture(content_of(encoded), preprocessing, preprocessing.size).pixels


def content_of(encoded: Encoded) -> bytes | np.ndarray:
    """An image file's content, or the array itself. Raises UnreadableImage."""
    if not isinstance(encoded, str):
        return encoded
    try:
        with open(encoded, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        why = getattr(error, "strerror", None) or str(error)
        raise UnreadableImage(NO_ACCESS, why, lasts=False) from error


def picture(content: bytes | np.ndarray, preprocessing: Preprocessing, side: int) -> Picture:
    """The centre of an image as a viewer shows it, resized.

    Args:
        content: of an image file, or an (H, W) or (H, W, 3) uint8 array.
        side: of the centre, `preprocessing.size` or `preprocessing.kept`.

    Raises UnreadableImage.
    """
    if isinstance(content, np.ndarray):
        return Picture(_centre(Image.fromarray(content), preprocessing, side))
    try:
        image = _opened(content)
        if preprocessing.drafted and max(image.size) > 4 * preprocessing.resized:
            image.draft("RGB", (2 * preprocessing.resized, 2 * preprocessing.resized))
        image, treated = _shown(image)
        if preprocessing.fit == "crop" and max(image.size) > LOSING * min(image.size):
            treated = (*treated, LONG)
        return Picture(_centre(image, preprocessing, side), treated)
    except (MemoryError, UnreadableImage):
        raise
    except (Image.DecompressionBombError, Warning) as error:  # as the program around us wishes
        raise UnreadableImage(TOO_LARGE, str(error), lasts=False) from error
    except Exception as error:  # Pillow raises nearly every kind, by format and place of damage
        raise UnreadableImage(DAMAGED, f"{type(error).__name__}: {error}") from error


def known_by_content(head: bytes) -> bool:
    """Whether a file that begins with these bytes is an image, readable here or not."""
    head = head.ljust(HEAD, b"\0")
    return _is_heic(head) or any(begins(head) for begins in _beginnings())


def decoder() -> str:
    """What decoded pixels depend on, beside the content: kept images of another are not used.

    Pillow's settings are those of the program around us.
    """
    import PIL

    heif = _heif()
    libraries = f"Pillow {PIL.__version__}, pillow_heif {heif.__version__ if heif else 'none'}"
    settings = f"{ImageFile.LOAD_TRUNCATED_IMAGES}, {Image.MAX_IMAGE_PIXELS}"
    return f"{VERSION}, {libraries}, {settings}"


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow reads; its plugins are loaded then, for all threads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@cache
def _beginnings() -> list[Callable[[bytes], bool | str]]:
    """Tests of a file's first bytes: Pillow's own, but for two that any text may pass."""
    found = [Image.OPEN[name][1] for name in _formats() if name not in ("BMP", "PPM")]
    return [_is_bmp, _is_ppm, *(begins for begins in found if begins)]


def _is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and head[6:10] == bytes(4) and head[14] in BMP_HEADERS


def _is_ppm(head: bytes) -> bool:
    return re.match(rb"P[1-6]\s+(#|\d)", head) is not None


def _is_heic(head: bytes) -> bool:
    if head[4:8] != b"ftyp":
        return False
    brand = head[8:12]
    return brand in HEIC_BRANDS or (brand in SHARED_BRANDS and b"avif" not in head[12:HEAD])


@cache
def _heif() -> Any:
    """The pillow_heif library, where it is installed."""
    try:
        import pillow_heif
    except ImportError:
        return None
    return pillow_heif


def _opened(content: bytes) -> Image.Image:
    if not _is_heic(content[:HEAD]):
        return Image.open(io.BytesIO(content), formats=_formats())
    heif = _heif()
    if heif is None:
        raise UnreadableImage(HEIC_HINT, "pillow_heif is not installed")
    return heif.open_heif(io.BytesIO(content)).to_pillow()


def _shown(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    """An image upright, opaque and of 8 bits, and what had to be done for that."""
    treated = []
    image.load()
    if _turn(image):
        treated.append(TURNED)
    if image.mode == "F" or image.mode.startswith("I"):
        see_through = image.info.get("transparency")
        whole = image
        image = _eight_bits(whole)
        treated.append(DEEP)
        if isinstance(see_through, int):
            image.putalpha(Image.fromarray(np.where(np.asarray(whole) == see_through, 0, OPAQUE)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if cast(tuple[int, int], image.getchannel("A").getextrema())[0] < 255:
            treated.append(TRANSPARENT)
        image = _on_background(image)
    return image, tuple(treated)


def _centre(image: Image.Image, preprocessing: Preprocessing, side: int) -> np.ndarray:
    """The centre (side, side, 3) of an image that is resized.

    Of a sliver, which resized would be large, nothing else is resized.
    """
    if image.mode != "RGB":
        image = image.convert("RGB")
    filter = Image.Resampling[preprocessing.interpolation.upper()]
    width, height = preprocessing.shape(*image.size)
    left, top = preprocessing.first(width, side), preprocessing.first(height, side)
    right, bottom = left + side, top + side
    if max(width, height) <= SLIVER * min(width, height):
        return np.asarray(image.resize((width, height), filter).crop((left, top, right, bottom)))
    across, down = image.width / width, image.height / height
    end = min(right * across, image.width), min(bottom * down, image.height)
    return np.asarray(image.resize((side, side), filter, (left * across, top * down, *end)))


def _turn(image: Image.Image) -> bool:
    """Turn an image upright by its orientation tag; whether it had one that asks for it."""
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        return False
    try:
        asked = image.getexif().get(0x0112, 1) in range(2, 9)
        if asked:
            ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # a damaged tag says nothing; the picture is whole
        return False
    return asked


def _eight_bits(image: Image.Image) -> Image.Image:
    """An image of 16 or 32 bits in 8.

    The largest value that stands for white is the first of LARGEST (before them 1, for floats)
    that holds all values. The image's own largest stands for white where none holds it, or where
    all values lie below a sixteenth of that. With negative values the image's own range counts.
    """
    values = np.asarray(image)
    if image.mode == "I" and _is_unsigned(image):
        values = values.view(np.uint32)
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise UnreadableImage(DAMAGED, "no value is a finite number")
    low, high = values[finite].min(), values[finite].max()
    values = np.where(finite, values, low)
    if low >= 0:
        largest = (1, *LARGEST) if image.mode == "F" else LARGEST
        white = next((one for one in largest if high <= one), high)
        low, high = 0, white if high >= white / DARKEST else high
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    if getattr(image, "tag_v2", {}).get(262) == 0:  # a TIFF in which zero is white
        scaled = 255 - scaled
    return Image.fromarray(scaled.round().astype(np.uint8))


def _is_unsigned(image: Image.Image) -> bool:
    """Whether a TIFF of 32 bits holds unsigned numbers, which Pillow reads as signed ones."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(258) == (32,) and tags.get(339, (1,)) == (1,)


def _on_background(image: Image.Image) -> Image.Image:
    """An RGBA image on white; on black, where all that can be seen has one light colour.

    Where nothing can be seen at all, the transparency is left out of account.
    """
    alpha = np.asarray(image.getchannel("A"))
    if not alpha.any() or alpha.min() == 255:
        return image.convert("RGB")
    seen = np.asarray(image.convert("RGB"))[alpha > 0]
    one_colour = bool((seen == seen[0]).all())
    light = one_colour and seen[0].mean() >= LIGHT
    background = Image.new("RGBA", image.size, BLACK if light else WHITE)
    return Image.alpha_composite(background, image)
