"""What a network sees of an image, against torchvision's and timm's transforms for evaluation."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

import pass_transfer as pt
from pass_transfer.errors import UsageError
from pass_transfer.networks import BackboneSpec
from pass_transfer.preprocessing import Preprocessing
from pass_transfer.tasks.decoding import decode, picture

SHAPES = {
    "landscape": (640, 427),
    "portrait": (301, 777),
    "panorama": (1500, 240),
    "tiny": (40, 31),
}


def photograph(width, height, seed=0):
    """Something with edges, gradients and grain, as photographs have them."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [np.sin(rows / a + columns / b) for a, b in ((9, 31), (47, 11), (23, 5))]
    grain = draw.normal(0, 6, (height, width, 3))
    image = Image.fromarray((128 + 60 * np.stack(waves, 2) + grain).clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(30):
        x, y, side = draw.integers(0, (width, height, min(width, height) // 2 + 2))
        colour = tuple(int(part) for part in draw.integers(0, 256, 3))
        pen.ellipse((x, y, x + side, y + side // 2), fill=colour)
    return image.filter(ImageFilter.GaussianBlur(0.7))


def jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return file.getvalue()


def by_torchvision(content, seen):
    """What torchvision's preset gives, before it normalises, as uint8 (S, S, 3)."""
    preset = ImageClassification(
        crop_size=seen.size,
        resize_size=seen.resized,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        interpolation=InterpolationMode(seen.interpolation),
    )
    return as_pixels(preset(Image.open(io.BytesIO(content)).convert("RGB")))


def as_pixels(image):
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size, resized", [(224, 256), (224, 232), (176, 176), (97, 113)])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_photograph_is_seen_as_torchvision_shows_it(shape, size, resized, interpolation):
    content = jpeg(photograph(*shape))
    seen = Preprocessing(size, "crop", size / resized, interpolation)
    assert seen.resized == resized
    assert np.array_equal(decode(content, seen), by_torchvision(content, seen))


@pytest.mark.parametrize("share", [0.875, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_photograph_is_seen_as_timm_shows_it(shape, share):
    timm_data = pytest.importorskip("timm.data")
    content, size = jpeg(photograph(*shape, seed=1)), 224
    transform = timm_data.create_transform(
        (3, size, size), crop_pct=share, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1)
    )
    seen = Preprocessing(size, "crop", size / int(size / share), "bicubic")
    expected = as_pixels(transform(Image.open(io.BytesIO(content)).convert("RGB")))
    assert np.array_equal(decode(content, seen), expected)


def test_up_to_96_pixels_a_large_jpeg_is_near_to_what_torchvision_shows():
    content, seen = jpeg(photograph(1600, 1200)), Preprocessing(64)
    off = np.abs(decode(content, seen).astype(int) - by_torchvision(content, seen))
    assert 0 < off.mean() < 2


@given(
    st.integers(1, 80),
    st.integers(1, 80),
    st.integers(1, 130),
    st.floats(0.25, 1),
    st.sampled_from(["crop", "squash"]),
)
def test_the_view_is_the_centre_of_what_is_kept(width, height, size, share, fit):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    seen = Preprocessing(size, fit, share)
    view, kept = (picture(pixels, seen, side).pixels for side in (seen.size, seen.kept))
    assert view.shape == (size, size, 3) and kept.shape == (seen.kept, seen.kept, 3)
    first = round((seen.kept - size) / 2)
    inside = kept[first : first + size, first : first + size]
    if max(width, height) <= 8 * min(width, height):
        assert np.array_equal(view, inside)


@pytest.mark.parametrize("size, share", [(8, 1.0), (64, 1.0), (224, 0.875)])
def test_of_a_square_image_crop_and_squash_are_the_same(size, share):
    content = jpeg(photograph(300, 300))
    crop, squash = (Preprocessing(size, fit, share) for fit in ("crop", "squash"))
    seen = decode(content, squash)
    if size <= 96:  # above, a squashed JPEG is decoded at a smaller size
        assert np.array_equal(seen, decode(content, crop))
    assert np.array_equal(
        decode(np.asarray(photograph(300, 300)), squash),
        decode(np.asarray(photograph(300, 300)), crop),
    )


def test_squashed_images_are_what_they_were():
    image = photograph(90, 50)
    expected = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(decode(np.asarray(image), Preprocessing(32, "squash")), expected)


@pytest.mark.parametrize("shape", [(3, 900), (900, 3), (1, 65000), (1, 1)])
def test_of_a_sliver_the_middle_is_seen_and_no_memory_goes_into_the_rest(shape):
    width, height = shape
    pixels = np.zeros((height, width, 3), np.uint8)
    middle = tuple(slice(max(0, side // 2 - 5), side // 2 + 6) for side in (height, width))
    pixels[middle] = 200
    seen = decode(pixels, Preprocessing(512, "crop", 0.875))
    assert seen.shape == (512, 512, 3) and (seen == 200).all()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"size": 0}, "^size is 0"),
        ({"size": "8"}, "^size is '8'"),
        ({"fit": "stretch"}, "^fit is 'stretch'; choose one of crop, squash"),
        ({"fit": None}, "^fit is None"),
        ({"crop_share": 0.1}, "^crop_share is 0.1; it is a number from 0.25 to 1"),
        ({"crop_share": 1.5}, "^crop_share is 1.5"),
        ({"crop_share": float("nan")}, "^crop_share is nan"),
        ({"crop_share": "1"}, "^crop_share is '1'"),
        ({"interpolation": "nearest"}, "^interpolation is 'nearest'; choose one of bilinear"),
    ],
)
def test_what_is_no_preprocessing_is_refused_by_name(change, message):
    with pytest.raises(UsageError, match=message):
        Preprocessing(**({"size": 8} | change))
    if "size" not in change:
        with pytest.raises(UsageError, match=message):
            BackboneSpec("resnet18", 10, 32, **change)


def test_a_spec_of_before_squashes_and_a_new_one_crops():
    old = BackboneSpec.from_saved({"architecture": "resnet18", "classes": 2, "image_size": 32})
    assert old.preprocessing == Preprocessing(32, "squash", 1.0, "bicubic")
    assert BackboneSpec("resnet18", 2, 32).preprocessing == Preprocessing(32, "crop")


def test_an_image_is_read_as_a_network_sees_it(tmp_path):
    photograph(300, 200).save(tmp_path / "photo.png")
    seen = Preprocessing(96, "crop", 0.75, "bilinear")
    image = pt.read_image(tmp_path / "photo.png", seen)
    wanted = by_torchvision((tmp_path / "photo.png").read_bytes(), seen)
    assert np.array_equal(as_pixels(image), wanted)
