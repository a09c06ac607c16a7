"""The network of the general extractor: a small residual network, looked at in several depths."""
import torch
from torch import nn
from torch.nn import functional

STEM = 32
STAGES = ((48, 2), (96, 2), (192, 2))


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., "Deep Residual Learning", CVPR 2016)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = Unit(inputs, outputs, 3, stride)
        self.second = Unit(outputs, outputs, 3, 1)
        self.shortcut = Unit(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, maps):
        inner = self.second(functional.relu(self.first(maps)))
        return functional.relu(inner + self.shortcut(maps))


class Unit(nn.Module):
    """Convolution and batch normalisation; `fold` makes them one convolution."""

    def __init__(self, inputs, outputs, side, stride):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, maps):
        return self.norm(self.conv(maps))


class Network(nn.Module):
    """Image [n][3][32][32], normalised, to maps of several depths."""

    def __init__(self, stem=STEM, stages=STAGES):
        super().__init__()
        self.stem = Unit(3, stem, 3, 1)
        self.stages = nn.ModuleList()
        inputs = stem
        for outputs, blocks in stages:
            strides = [2] + [1] * (blocks - 1)
            self.stages.append(nn.Sequential(*[Block(inputs if s > 1 else outputs, outputs, s) for s in strides]))
            inputs = outputs
        self.features = sum(outputs for outputs, _ in stages)

    def forward(self, images):
        """The maps [n][channel][row][column] at the end of the stem and of each stage."""
        ends = [functional.relu(self.stem(images))]
        for stage in self.stages:
            ends.append(stage(ends[-1]))
        return ends


def means(ends):
    """The mean of each map, side by side: f32 [n][channels of all ends]."""
    return torch.cat([maps.float().mean(dim=(2, 3)) for maps in ends], dim=1)
