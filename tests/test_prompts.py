import pytest
import torch
from torch import nn

from pass_transfer.errors import UsageError
from pass_transfer.prompts import Prompt, default_pad


def test_the_frame_is_zero_inside_and_nowhere_on_the_border():
    frame = Prompt(size=16, pad=3).frame()
    assert frame.shape == (3, 16, 16)
    assert not frame[:, 3:13, 3:13].any()
    for side in (frame[:, :3], frame[:, -3:], frame[:, :, :3], frame[:, :, -3:]):
        assert (side != 0).all()


def test_the_frame_stays_zero_inside_whatever_is_learned():
    prompt = Prompt(size=16, pad=3)
    nn.init.ones_(prompt.values)
    assert not prompt.frame()[:, 3:13, 3:13].any()
    assert prompt.frame().sum() == 3 * (16 * 16 - 10 * 10)


def test_an_additive_prompt_leaves_the_middle_of_the_image_alone():
    prompt, images = Prompt(size=16, pad=3), torch.rand(2, 3, 16, 16)
    out = prompt(images)
    assert torch.equal(out[..., 3:13, 3:13], images[..., 3:13, 3:13])
    assert (out[..., :3, :] != images[..., :3, :]).float().mean() > 0.9


@pytest.mark.parametrize("kind", ["additive", "expansive"])
def test_prompted_images_are_images(kind):
    prompt = Prompt(kind, size=16, pad=3)
    nn.init.normal_(prompt.values, std=5)
    out = prompt(torch.rand(2, 3, 16, 16))
    assert out.shape == (2, 3, 16, 16) and out.min() == 0 and out.max() == 1


def test_an_expansive_prompt_shows_the_whole_image_smaller_inside_a_grey_frame():
    prompt = Prompt("expansive", size=32, pad=8)
    nn.init.zeros_(prompt.values)
    # Smooth, as shrinking is then unambiguous.
    images = nn.functional.interpolate(torch.rand(2, 3, 4, 4), 32, mode="bilinear")
    out = prompt(images)
    assert (out[..., :8, :] == 0.5).all() and (out[..., 24:] == 0.5).all()
    assert (out[..., 8:24, 8:24] - nn.functional.avg_pool2d(images, 2)).abs().max() < 0.06


def test_another_frame_can_stand_in_for_the_prompts_own():
    one, two = Prompt(size=16, pad=3, seed=1), Prompt(size=16, pad=3, seed=2)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(one(images, two.frame()), two(images))


def test_the_gradient_reaches_the_frame_and_only_the_frame():
    prompt = Prompt(size=16, pad=3)
    prompt(0.5 * torch.ones(2, 3, 16, 16)).sum().backward()
    assert torch.equal(prompt.values.grad, 2.0 * prompt.border.expand(3, -1, -1))


def test_initial_values_depend_on_the_seed_only():
    torch.manual_seed(5)
    first = Prompt(seed=1).frame()
    torch.manual_seed(6)
    assert torch.equal(Prompt(seed=1).frame(), first)
    assert not torch.equal(Prompt(seed=2).frame(), first)


@pytest.mark.parametrize(
    "arguments, word",
    [
        ({"kind": "frame"}, "additive, expansive"),
        ({"pad": 0}, "1 to 15"),
        ({"pad": 16}, "1 to 15"),
        ({"pad": -1}, "1 to 15"),
    ],
)
def test_an_impossible_prompt_is_refused_with_what_is_possible(arguments, word):
    with pytest.raises(UsageError, match=word):
        Prompt(**{"kind": "additive", "size": 32, "pad": 2} | arguments)


def test_the_widest_frame_leaves_something_of_the_image():
    for size in (31, 32):
        out = Prompt("expansive", size=size, pad=15)(torch.rand(1, 3, size, size))
        assert out.shape[-1] == size


@pytest.mark.parametrize("size, pad", [(224, 16), (64, 5), (32, 2), (8, 1)])
def test_the_default_width_is_in_proportion_to_the_image(size, pad):
    assert default_pad(size) == pad
