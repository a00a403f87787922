"""Pixels are those a viewer shows: every kind of image against numpy (docs/data.md)."""

import io
import threading

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

import pass_transfer as pt
from pass_transfer.errors import TaskError
from pass_transfer.preprocessing import Preprocessing
from pass_transfer.tasks import decoding
from pass_transfer.tasks.decoding import decode, known_by_content, picture
from tests.tasks.drawn_images import KINDS, SIDE, image_files, saved, squared

SEEN = Preprocessing(SIDE)


@given(image_files())
def test_every_kind_of_image_is_read_as_the_page_on_data_says(drawn):
    content, pixels = drawn
    off = np.abs(picture(content, SEEN, SIDE).pixels.astype(int) - pixels)
    assert off.max() <= 2, off.max()  # transparency is rounded before the resizing
    assert known_by_content(content[: decoding.HEAD])


def test_every_kind_of_image_was_drawn_from_a_list_with_all_modes():
    made = {make.__name__ for make, _ in KINDS}
    assert {"turned", "deep", "whole_numbers", "fractions", "transparent", "palette"} <= made


def test_a_white_drawing_on_nothing_is_seen_and_a_black_one_too():
    alpha = np.zeros((SIDE, SIDE), np.uint8)
    alpha[2:6, 2:6] = 255
    for colour, ground in ((255, 0), (0, 255)):
        drawing = np.full((SIDE, SIDE, 4), colour, np.uint8)
        drawing[..., 3] = alpha
        seen = decode(saved(drawing, "PNG"), SEEN)
        assert (seen[alpha > 0] == colour).all() and (seen[alpha == 0] == ground).all()


def test_a_16_bit_image_keeps_its_brightness_and_a_12_bit_one_in_it_too():
    values = np.linspace(0, 255, SIDE * SIDE).reshape(SIDE, SIDE)
    for white in (255, 4095, 65535):
        deep = np.round(values * white / 255).astype(np.uint16)
        assert np.abs(decode(saved(deep, "PNG"), SEEN)[..., 0] - values).max() <= 1


def test_the_unsigned_numbers_of_a_tiff_are_not_negative():
    values = np.array([[0, 1 << 31], [3 << 30, (1 << 32) - 1]], np.uint32)
    content = saved(Image.fromarray(values.view(np.int32)), "TIFF")
    signed = b"\x53\x01\x03\0\x01\0\0\0\x02\0"  # the sample format, 2; 1 is unsigned
    assert content.count(signed) == 1
    seen = decode(content.replace(signed, signed[:-2] + b"\x01\0"), Preprocessing(2))[..., 0]
    assert seen.tolist() == [[0, 128], [191, 255]]


def test_a_tiff_in_which_zero_is_white_is_not_inverted():
    values = np.array([[0, 20000], [40000, 65535]], np.uint16)
    seen = decode(saved(values, "TIFF", tiffinfo={262: 0}), Preprocessing(2))[..., 0]
    assert seen.tolist() == [[255, 177], [99, 0]]


def test_a_16_bit_image_has_transparency_too():
    values = np.full((SIDE, SIDE), 3000, np.uint16)
    values[2:6, 2:6] = 100
    seen = decode(saved(values, "PNG", transparency=3000), SEEN)[..., 0]
    assert (seen[2:6, 2:6] == 6).all() and seen[0, 0] == 255


def test_a_damaged_orientation_tag_loses_no_picture():
    pixels = np.full((SIDE, SIDE, 3), 99, np.uint8)
    content = saved(pixels, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.array_equal(decode(content, SEEN), pixels)


def test_heic_is_read_where_its_library_is_and_named_where_it_is_not(monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    pixels = np.full((64, 64, 3), 120, np.uint8)
    file = io.BytesIO()
    heif.from_bytes("RGB", (64, 64), pixels.tobytes()).save(file, quality=95)
    assert known_by_content(file.getvalue()[: decoding.HEAD])
    assert abs(int(decode(file.getvalue(), SEEN).mean()) - 120) <= 3
    monkeypatch.setattr(decoding, "_heif", lambda: None)
    with pytest.raises(TaskError) as refused:
        decode(file.getvalue(), SEEN)
    assert "pip install pass-transfer[heif]" in refused.value.reason


def test_without_the_heif_library_such_an_image_is_still_known(monkeypatch):
    monkeypatch.setattr(decoding, "_heif", lambda: None)
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    assert known_by_content(head)
    with pytest.raises(TaskError, match="pillow_heif"):
        decode(head + bytes(40), SEEN)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff"]
)
def test_what_is_no_picture_is_a_task_error(content):
    with pytest.raises(TaskError):
        decode(content, SEEN)


def test_threads_that_begin_together_all_read(tmp_path):
    content, wrong = saved(np.full((SIDE, SIDE, 3), 7, np.uint8), "WEBP", lossless=True), []

    def read():
        try:
            decode(content, SEEN)
        except TaskError as error:
            wrong.append(error)

    threads = [threading.Thread(target=read) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_one_image_is_read_as_a_tensor_and_a_missing_one_is_named(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    seen = pt.read_image(tmp_path / "photo.png", SIDE)
    assert seen.shape == (3, SIDE, SIDE) and 0 <= seen.min() and seen.max() <= 1
    assert np.array_equal((seen * 255).round().numpy().transpose(1, 2, 0), squared(pixels))
    with pytest.raises(TaskError, match="nothing.png"):
        pt.read_image(tmp_path / "nothing.png", SIDE)
