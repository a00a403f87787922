"""VGG-16 with a narrow classifier: 13 million weights for 200 classes, torchvision's has 120.

At 64 pixels the convolutions leave 2 x 2 places, which the pooling repeats to 7 x 7.
torchvision's drops half of the hidden layers' outputs in training. Of so few that leaves too little
to learn from, so this one drops none; the layers keep torchvision's numbers.
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from pass_transfer.networks.layers import named_layers

WIDTH = 512  # of the two hidden layers of the classifier; torchvision's have 4096
PLACES = 7  # a side of the map that the classifier reads


class NarrowVGG16(nn.Module):
    """torchvision's vgg16, with its names, and hidden layers of WIDTH in its classifier."""

    def __init__(self, classes: int):
        super().__init__()
        self.features = make_layers(cfgs["D"], batch_norm=False)
        self.avgpool = nn.AdaptiveAvgPool2d(PLACES)
        self.classifier = nn.Sequential(
            nn.Linear(512 * PLACES**2, WIDTH),
            nn.ReLU(inplace=True),
            nn.Identity(),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(inplace=True),
            nn.Identity(),
            nn.Linear(WIDTH, classes),
        )
        for _, layer, _ in named_layers(self, lambda kind: kind.mixes_channels):
            nn.init.kaiming_normal_(layer.get_parameter("weight"), nonlinearity="relu")
            nn.init.zeros_(layer.get_parameter("bias"))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) of images (B, 3, S, S), S at least 32."""
        return self.classifier(self.avgpool(self.features(images)).flatten(1))
