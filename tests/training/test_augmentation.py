"""What training sees: shifted images up to 96 pixels, random resized crops above."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from pass_transfer.preprocessing import Preprocessing
from pass_transfer.tasks import images as tasks_images
from pass_transfer.tasks import load_task
from pass_transfer.training import LoopConfig, batches, run_stage, to_images
from pass_transfer.training.augmentation import augment, augmented, resized_crops

SIDE = 16


def coordinates(count: int) -> torch.Tensor:
    """Images whose pixels say which image, row and column they come from."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    images = [torch.stack([torch.full_like(rows, n), rows, columns]) for n in range(count)]
    return torch.stack(images).to(torch.uint8)


@pytest.mark.parametrize("flip", [False, True])
def test_an_augmented_image_is_a_crop_of_its_padded_self(flip):
    pixels = coordinates(64)
    out = augment(pixels, torch.Generator().manual_seed(0), flip)
    assert out.shape == pixels.shape and out.dtype == torch.uint8
    offsets = set()
    for original, image in zip(pixels.numpy(), out.numpy()):
        padded = np.pad(original, ((0, 0), (2, 2), (2, 2)), mode="reflect")
        crops = {}
        for r, c in itertools.product(range(5), range(5)):
            crop = padded[:, r : r + SIDE, c : c + SIDE]
            crops[r, c, False], crops[r, c, True] = crop, crop[:, :, ::-1]
        offsets.add(next(key for key, crop in crops.items() if np.array_equal(crop, image)))
    assert {r for r, _, _ in offsets} == {c for _, c, _ in offsets} == set(range(5))
    assert {m for _, _, m in offsets} == ({False, True} if flip else {False})


def test_augmentation_is_decided_by_its_generator():
    pixels = coordinates(8)
    one, two, other = (augment(pixels, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


# above 96 pixels


def ramps(count, side):
    """Images that say where a part of them is from: columns in red, rows in green."""
    line = torch.linspace(0, 255, side)
    image = torch.stack(
        [line.expand(side, side), line[:, None].expand(side, side), 0 * line.expand(side, side)]
    )
    return image.round().to(torch.uint8).expand(count, -1, -1, -1)


def places(crops, side):
    """Left, right, top and bottom of each crop in an image of ramps, and whether it is mirrored."""
    red, green = (crops[:, n].double() / 255 * (side - 1) for n in (0, 1))
    step = crops.shape[-1]
    rows, columns = green.mean(2), red.mean(1)
    inside = slice(step // 8, -step // 8)
    place = torch.arange(step)[inside].double()
    found = []
    for line in (columns, rows):
        slope = ((line[:, inside] - line[:, inside].mean(1, True)) * (place - place.mean())).sum(1)
        slope = slope / ((place - place.mean()) ** 2).sum()
        middle = line[:, inside].mean(1)
        found.append((middle, slope.abs() * step, slope < 0))
    return found


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("flip", [False, True])
def test_a_resized_crop_is_a_part_of_the_image_of_a_quarter_to_all_of_it(flip, interpolation):
    kept, seen = 128, Preprocessing(112, "crop", 0.875, interpolation)
    draw = torch.Generator().manual_seed(0)
    crops = resized_crops(ramps(200, kept), draw, seen, flip)
    assert crops.shape == (200, 3, 112, 112) and crops.dtype == torch.uint8
    (x, width, mirrored), (y, height, upside_down) = places(crops, kept)
    share, shape = width * height / kept**2, width / height
    assert 0.22 < share.min() < 0.4 and 0.85 < share.max() < 1.03
    assert 0.7 < shape.min() < 0.85 and 1.18 < shape.max() < 1.4
    for middle, length in ((x, width), (y, height)):
        assert (middle - length / 2 > -2).all() and (middle + length / 2 < kept + 2).all()
    assert not upside_down.any() and mirrored.any() == flip and not mirrored.all()


def test_a_resized_crop_is_decided_by_its_generator_and_leaves_the_others():
    pixels = torch.randint(0, 256, (8, 3, 120, 120), dtype=torch.uint8)
    made = []
    seen = Preprocessing(100)
    for number, elsewhere in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(elsewhere)
        before = torch.get_rng_state()
        made.append(
            resized_crops(pixels, torch.Generator().manual_seed(number), Preprocessing(100))
        )
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert resized_crops(pixels[:0], torch.Generator(), seen).shape == (
        0,
        3,
        100,
        100,
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two classes with images of several shapes."""
    root, draw = tmp_path_factory.mktemp("uneven") / "photos", np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(10):
            shape = [(150, 200), (260, 130), (90, 90)][number % 3]
            coarse = draw.integers(0, 256, (6, 6, 3)).astype(np.uint8)
            Image.fromarray(coarse).resize(shape, 3).save(root / name / f"{number}.jpg")
    return f"folder:{root}"


def steps(task, cpu):
    """What each step of an epoch sees."""
    seen = []
    for number, (pixels, labels) in enumerate(batches(task.train.uncropped(), 4, seed=3)):
        draw = torch.Generator().manual_seed(number)
        seen.append((augmented(pixels, draw, task, cpu.device), labels))
    return seen


@pytest.mark.parametrize("size, share, kept", [(112, 0.875, 128), (96, 0.75, 96), (100, 1, 100)])
def test_training_has_more_of_an_image_to_crop_from_than_a_network_sees(photos, size, share, kept):
    task = load_task(photos, Preprocessing(size, "crop", share))
    for split in (task.train, task.held_out, task.test):
        view, whole = split[0][0], split.uncropped()[0][0]
        first = round((kept - size) / 2)
        assert view.shape == (3, size, size) and whole.shape == (3, kept, kept)
        assert torch.equal(whole[:, first : first + size, first : first + size], view)


def test_files_read_by_workers_are_cropped_like_those_that_are_kept(photos, cpu, monkeypatch):
    kept = steps(load_task(photos, Preprocessing(112, "crop", 0.875)), cpu)
    monkeypatch.setattr(tasks_images, "CACHE_LIMIT", 100)
    streamed = steps(load_task(photos, Preprocessing(112, "crop", 0.875)), cpu)
    assert len(kept) == len(streamed) > 2
    for (images, labels), (others, other_labels) in zip(kept, streamed):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)
        assert images.shape[1:] == (3, 112, 112) and 0 <= images.min() and images.max() <= 1


def test_up_to_96_pixels_images_are_shifted_as_ever(photos, cpu):
    task = load_task(photos, Preprocessing(96, "crop", 0.75))
    pixels = task.train.__getitems__(range(4))[0]
    seen = augmented(pixels, torch.Generator().manual_seed(1), task, cpu.device)
    wanted = augment(pixels, torch.Generator().manual_seed(1), task.mirrored)
    assert torch.equal(seen, to_images(wanted, cpu.device))


def test_the_loop_hands_a_step_all_that_is_kept(photos, cpu):
    task, seen = load_task(photos, Preprocessing(112, "crop", 0.875)), []

    class Look:
        name, modules, optimizers = "look", {}, {}

        def start_epoch(self, epoch, step): ...

        def order(self, epoch, steps, batch_size): ...

        def evaluate(self):
            return {}

        def step(self, pixels, labels, draw, number):
            seen.append(tuple(pixels.shape))
            return {"loss": 0.0}

    run_stage(Look(), task.train, LoopConfig(epochs=1, batch_size=4), cpu)
    assert set(seen) == {(4, 3, 128, 128)}
