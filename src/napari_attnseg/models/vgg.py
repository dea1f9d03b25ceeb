"""VGG-16 (Simonyan & Zisserman, ICLR 2015, configuration D), convolutional to its last layers.

Parameter names of published weights; the two fully connected layers are convolutions here, as in
"Fully Convolutional Networks" (Long, Shelhamer & Darrell, CVPR 2015), and take their weights from
the classifier.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from napari_attnseg.models.blocks import he_start, scaled
from napari_attnseg.models.encoder_base import Encoder, Published

PLAN = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
DENSE = 4096


class VGG16(Encoder):
    """Features after the pools of stride 8 and 16 and after ``fc7`` at stride 32: 256, 512 and
    4096 channels at ``width`` 1."""

    title = "VGG-16"
    published: ClassVar[Published] = Published(
        "features.0.weight", hub=("timm/vgg16.tv_in1k", "model.safetensors")
    )

    def __init__(self, in_channels: int = 3, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__()
        self.width = width
        layers: list[nn.Module] = []
        self.pools: list[int] = []
        inside = in_channels
        for group in PLAN:
            for channels in group:
                outside = scaled(channels, width)
                layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU(inplace=True)]
                inside = outside
            self.pools.append(len(layers))
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        dense = scaled(DENSE, width)
        self.fc6 = nn.Conv2d(inside, dense, 7, padding=3)
        self.fc7 = nn.Conv2d(dense, dense, 1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.channels = (scaled(PLAN[2][-1], width), inside, dense)
        self.strides = (8, 16, 32)
        he_start(self)

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, ...]:
        y = x_BCHW
        features: list[Tensor] = []
        for i, layer in enumerate(self.features):
            y = layer(y)
            if i in self.pools[2:4]:
                features.append(y)
        y = self.dropout(self.relu(self.fc6(y)))
        return (*features, self.dropout(self.relu(self.fc7(y))))

    def own_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The classifier's first two layers become ``fc6`` and ``fc7``."""
        out = dict(state)
        for ours, theirs in (
            ("fc6", ("classifier.0", "pre_logits.fc1")),
            ("fc7", ("classifier.3", "pre_logits.fc2")),
        ):
            for name in theirs:
                if f"{name}.weight" in out and f"{name}.bias" in out:
                    weight, kernel = out.pop(f"{name}.weight"), getattr(self, ours).kernel_size
                    out[f"{ours}.weight"] = weight.reshape(len(weight), -1, *kernel)
                    out[f"{ours}.bias"] = out.pop(f"{name}.bias")
        return out
