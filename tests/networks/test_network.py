import torch
from torch import nn

from pass_transfer.networks.network import Network
from pass_transfer.prompts import Prompt

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)


def test_images_are_normalised_channel_by_channel():
    images = torch.rand(2, 3, 8, 8)
    out = Network(nn.Identity(), MEAN, STD)(images)
    for channel in range(3):
        torch.testing.assert_close(
            out[:, channel], (images[:, channel] - MEAN[channel]) / STD[channel]
        )


def test_the_prompt_is_applied_before_normalisation_and_can_be_left_out():
    prompt, images = Prompt(size=8, pad=2), torch.rand(2, 3, 8, 8)
    plain, prompted = Network(nn.Identity(), MEAN, STD), Network(nn.Identity(), MEAN, STD, prompt)
    assert torch.equal(prompted(images), plain(prompt(images)))
    assert torch.equal(prompted(images, use_prompt=False), plain(images))
    assert torch.equal(plain(images, use_prompt=True), plain(images))


def test_what_is_saved_is_the_backbone_and_the_prompt():
    network = Network(nn.Conv2d(3, 4, 1), MEAN, STD, Prompt(size=8, pad=2))
    assert set(network.state_dict()) == {"backbone.weight", "backbone.bias", "prompt.values"}
    assert "prompt.values" not in Network(nn.Conv2d(3, 4, 1), MEAN, STD).state_dict()
