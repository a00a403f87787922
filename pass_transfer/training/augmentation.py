"""What training sees of images: random crops and flips, drawn from the step's own generator.

Networks of small images see them shifted by a few pixels. Above 96 pixels it is the usual random
resized crop, by torchvision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pass_transfer.preprocessing import SMALL, Preprocessing
from pass_transfer.tasks import Task
from pass_transfer.training.batches import to_images
from pass_transfer.training.processes import WHOLE, Part

CROP_SHARE = 1 / 8  # padding for random crops, as a share of the side: 4 pixels at 32, 8 at 64
LEAST_AREA = 0.25  # of what is kept of an image; torchvision's 0.08 is for training from scratch


def augmented(
    pixels: torch.Tensor,
    draw: torch.Generator,
    task: Task,
    device: torch.device,
    part: Part = WHOLE,
) -> torch.Tensor:
    """What a training step sees of a task's images.

    Args:
        pixels: uint8 (B, 3, K, K), with all that is kept of them (Split.uncropped).
        draw: the source of randomness, on the CPU, so that a seed has the same crops everywhere.
        task: says how its network sees images, and whether they may be flipped.
        part: which of the batch's images these are, where several processes share it. What is drawn
            for an image does not depend on how many they are.

    Returns:
        float32 (B, 3, S, S) in [0, 1] on the device.
    """
    pixels = pixels.to(device)
    if task.size > SMALL:
        crops = resized_crops(pixels, draw, task.preprocessing, task.mirrored, part)
        return to_images(crops, device)
    return to_images(augment(pixels, draw, task.mirrored, part), device)


def augment(
    pixels: torch.Tensor, draw: torch.Generator, flip: bool = True, part: Part = WHOLE
) -> torch.Tensor:
    """A random crop and a horizontal flip of each image.

    Before the crop the image is padded by reflection, by an eighth of its side.

    Args:
        pixels: uint8 (B, 3, S, S), channels_last, on any device.
        draw: the source of randomness, on the CPU.
        flip: leave flips out where left and right matter (digits).
        part: as of augmented.
    """
    count, _, side, _ = pixels.shape
    pad, whole = max(1, round(side * CROP_SHARE)), (part.images or count, 1)
    down, across = (torch.randint(0, 2 * pad + 1, whole, generator=draw) for _ in range(2))
    rows = torch.arange(side) + part.of(down) - pad
    columns = torch.arange(side) + part.of(across) - pad
    if flip:
        mirrored = part.of(torch.rand(*whole, generator=draw) < 0.5)
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows, columns = _reflect(rows, side), _reflect(columns, side)
    device = pixels.device
    sample = torch.arange(count)[:, None, None].to(device)
    rows, columns = rows[:, :, None].to(device), columns[:, None, :].to(device)
    channels_last = pixels.permute(0, 2, 3, 1)
    return channels_last[sample, rows, columns].permute(0, 3, 1, 2)


def _reflect(index: torch.Tensor, side: int) -> torch.Tensor:
    index = index.abs()
    return torch.where(index >= side, 2 * (side - 1) - index, index)


def resized_crops(
    pixels: torch.Tensor,
    draw: torch.Generator,
    preprocessing: Preprocessing,
    flip: bool = True,
    part: Part = WHOLE,
) -> torch.Tensor:
    """A random part of each image at the network's size, and a horizontal flip; as of augment.

    Args:
        pixels: uint8 (B, 3, K, K) of any side, on any device.

    Returns:
        uint8 (B, 3, S, S).
    """
    from torchvision.transforms import InterpolationMode, v2

    filter = InterpolationMode(preprocessing.interpolation)
    size, area = preprocessing.size, (LEAST_AREA, 1.0)
    crop = v2.RandomResizedCrop(size, area, interpolation=filter, antialias=True)
    mirror = v2.RandomHorizontalFlip(0.5 if flip else 0.0)
    crops, left = [], iter(pixels)
    with _drawing_from(draw):
        for number in range(part.images or len(pixels)):
            if number % part.count == part.rank:
                crops.append(mirror(crop(next(left))))
            else:  # another process's image, which draws as much
                crop.make_params([pixels[0]])
                torch.rand(1)
    return torch.stack(crops) if crops else pixels.new_empty(0, 3, size, size)


@contextmanager
def _drawing_from(draw: torch.Generator) -> Iterator[None]:
    """torch's own generator, from which torchvision draws, goes on from another; then as before."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(int(torch.randint(1 << 62, (), generator=draw)))
    try:
        yield
    finally:
        torch.set_rng_state(before)
