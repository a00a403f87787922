"""Image files of every kind, each with the pixels that docs/data.md says a reader sees.

The pixels are worked out with numpy and torchvision from the arrays that the files were made of;
nothing of the library is used.
"""

import io

import numpy as np
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

SIDE = 8
WHITES = (255, 4095, 65535)


def saved(image, kind, **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, kind, **options
    )
    return file.getvalue()


def squared(pixels) -> np.ndarray:
    """The centre (SIDE, SIDE, 3) of (H, W, 3) uint8, the shorter side resized, bicubic."""
    image = functional.resize(Image.fromarray(pixels), [SIDE], InterpolationMode.BICUBIC)
    return np.asarray(functional.center_crop(image, [SIDE]))


def grey(values) -> np.ndarray:
    """(H, W) to (H, W, 3), rounded to uint8."""
    return np.repeat(np.round(values).astype(np.uint8)[..., None], 3, axis=2)


def upright(stored, tag) -> np.ndarray:
    """A stored array as the Exif specification says its tag shows it."""
    swapped = np.swapaxes(stored, 0, 1)
    shown = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: swapped}
    shown |= {6: swapped[:, ::-1], 7: swapped[::-1, ::-1], 8: swapped[::-1]}
    return np.ascontiguousarray(shown[tag])


def in_eight_bits(values, floats: bool) -> np.ndarray:
    """Rule 2 of docs/data.md."""
    values = np.asarray(values, np.float64)
    finite = values[np.isfinite(values)]
    values = np.where(np.isfinite(values), values, finite.min())
    if values.min() < 0:
        spread = values.max() - values.min()
        return grey(255 * (values - values.min()) / spread) if spread else grey(0 * values)
    whites = [white for white in ((1,) if floats else ()) + WHITES if values.max() <= white]
    white = whites[0] if whites and values.max() >= whites[0] / 16 else values.max()
    return grey(255 * values / white) if white else grey(values)


def on_background(colours, alpha) -> np.ndarray:
    """Rule 3 of docs/data.md, for (H, W, 3) colours and (H, W) alpha."""
    if not alpha.any():
        return colours
    seen = colours[alpha > 0]
    one_light_colour = (seen == seen[0]).all() and seen[0].mean() >= 128
    share = alpha[..., None] / 255
    return np.round(colours * share + (0 if one_light_colour else 255) * (1 - share)).astype(
        np.uint8
    )


def exif(tag):
    found = Image.Exif()
    found[0x0112] = tag
    return found


def colours(draw, shape):
    return draw.integers(0, 256, (*shape, 3)).astype(np.uint8)


def plain(draw, shape, kind):
    pixels = colours(draw, shape)
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return saved(pixels, kind, **lossless), pixels


def turned(draw, shape, kind):
    pixels, tag = colours(draw, shape), int(draw.integers(1, 9))
    content = saved(pixels, kind, exif=exif(tag))
    if kind == "JPEG":
        pixels = np.asarray(Image.open(io.BytesIO(saved(pixels, kind))).convert("RGB"))
    return content, upright(pixels, tag)


def deep(draw, shape, kind):
    top = int(draw.choice([12, 255, 3000, 4095, 5000, 65535]))
    values = draw.integers(0, top + 1, shape).astype(np.uint16)
    return saved(values, kind), in_eight_bits(values, floats=False)


def whole_numbers(draw, shape, kind):
    top = int(draw.choice([200, 4000, 60000, 2_000_000_000]))
    low = -top if draw.integers(2) else 0
    values = draw.integers(low, top + 1, shape).astype(np.int32)
    return saved(values, kind), in_eight_bits(values, floats=False)


def fractions(draw, shape, kind):
    top = float(draw.choice([0.01, 1.0, 1.4, 200.0, 4000.0, 1e6]))
    values = (draw.random(shape) * top - (top / 3 if draw.integers(2) else 0)).astype(np.float32)
    if draw.integers(2):
        values[0, 0] = draw.choice([np.nan, np.inf, -np.inf])
    return saved(values, kind), in_eight_bits(values, floats=True)


def transparent(draw, shape, kind):
    pixels, alpha = colours(draw, shape), draw.integers(0, 256, shape).astype(np.uint8)
    if draw.integers(3) == 0:
        pixels[:] = draw.integers(0, 256, 3)  # its content is in its alpha alone
    if draw.integers(4) == 0:
        alpha[:] = 0
    both = np.concatenate([pixels, alpha[..., None]], axis=2)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    return saved(both, kind, **options), on_background(pixels, alpha)


def palette(draw, shape, kind):
    indices = draw.integers(0, 16, shape).astype(np.uint8)
    table = draw.integers(0, 256, (16, 3)).astype(np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(table.tobytes())
    return saved(image, kind), table[indices]


def printed(draw, shape, kind):
    image = Image.fromarray(colours(draw, shape)).convert("CMYK")
    content = saved(image, kind)
    return content, np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def moving(draw, shape, kind):
    frames = [Image.fromarray(colours(draw, shape)[..., 0]) for _ in range(3)]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    return content, np.repeat(np.asarray(frames[0])[..., None], 3, axis=2)


def grey_only(draw, shape, kind):
    values = colours(draw, shape)[..., 0]
    if draw.integers(2):
        return saved(Image.fromarray(values > 99), kind), grey(255 * (values > 99))
    return saved(values, kind), grey(values)


KINDS = [
    *((plain, kind) for kind in ("PNG", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000")),
    *((turned, kind) for kind in ("PNG", "TIFF", "JPEG")),
    *((deep, kind) for kind in ("PNG", "TIFF", "PPM")),
    (whole_numbers, "TIFF"),
    (fractions, "TIFF"),
    *((transparent, kind) for kind in ("PNG", "WEBP", "TIFF")),
    *((palette, kind) for kind in ("PNG", "GIF", "BMP")),
    *((printed, kind) for kind in ("TIFF", "JPEG")),
    *((moving, kind) for kind in ("GIF", "TIFF")),
    *((grey_only, kind) for kind in ("PNG", "TIFF", "BMP")),
]


@st.composite
def image_files(draw) -> tuple[bytes, np.ndarray]:
    """An image file's content, and the (SIDE, SIDE, 3) pixels that are seen."""
    make, kind = draw(st.sampled_from(KINDS))
    seeded = np.random.default_rng(draw(st.integers(0, 10_000)))
    shape = draw(st.sampled_from([(SIDE, SIDE), (SIDE, SIDE), (12, 7)]))
    content, pixels = make(seeded, shape, kind)
    return content, squared(pixels)
