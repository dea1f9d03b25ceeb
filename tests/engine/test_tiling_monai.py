"""Slices in tiles against MONAI's sliding window, for a model without global attention.

MONAI lets no weight fall below 0.001, tiles of slices do: no corner of a tile counts as much
as it would there; with the same weights both give the same answer.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from napari_attnseg.cards import Card
from napari_attnseg.engine.session import Session
from napari_attnseg.models.base import Encoded, ModelSpec, SegmentationModel
from napari_attnseg.settings import Preprocessing

IMAGE = np.random.default_rng(5).random((53, 71)).astype(np.float32)


class Local(SegmentationModel):
    """Three convolutions, filled with zeros at the border: tiles matter near their edges."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        torch.manual_seed(classes)
        self.spec = ModelSpec("local", 1, classes)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(8, 8, 5, padding=2),
            nn.Tanh(),
            nn.Conv2d(8, classes, 5, padding=2),
        )

    def encode(self, x_BCHW: Tensor) -> Encoded:
        return Encoded(x_BCHW, (x_BCHW.shape[-2], x_BCHW.shape[-1]))

    def decode(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        out: Tensor = self.layers(features)
        return 10 * (out - out.new_tensor(0.1))


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("tile", [16, 21, 32, 60])
def test_tiles_are_monais_windows(tile: int, classes: int) -> None:
    model = Local(classes).eval()
    p = Preprocessing(channels=1, intensity="window", low=0, high=1)
    card = Card(spec=model.spec.to_json(), preprocessing=p, tuning=model.tuning())
    session = Session(model, "cpu", card=card, tile=tile)
    session.set_image(IMAGE)
    assert session.tiled
    found = session.predict(0)
    x = torch.from_numpy(IMAGE)[None, None]
    roi = (min(tile, 53), tile)
    with torch.no_grad():
        windows = {"roi_size": roi, "sw_batch_size": 1, "predictor": model, "overlap": 0.25}
        ours = sliding_window_inference(x, **windows, roi_weight_map=unclamped(roi))[0].numpy()
        whole = model(x)[0].numpy()
    np.testing.assert_allclose(found.logits, ours, atol=1e-5)
    sure = np.abs(ours[0]) if classes == 1 else np.diff(np.sort(ours, 0)[-2:], axis=0)[0]
    wanted = ours[0] >= 0 if classes == 1 else ours.argmax(0)
    np.testing.assert_array_equal(found.labels[sure > 1e-5], wanted[sure > 1e-5])
    assert np.abs(whole - ours).max() > 0.01, "tiles make no difference here"


def unclamped(roi: tuple[int, int]) -> Tensor:
    """MONAI's Gaussian before its floor, by its own formula."""
    rows, columns = (
        torch.exp(-((torch.arange(n) - (n - 1) / 2) ** 2) / (2 * (0.125 * n) ** 2)) for n in roi
    )
    return rows[:, None] * columns
