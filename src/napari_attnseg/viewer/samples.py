"""File > Open Sample: a CT-like phantom, drawn nuclei, and pictures that scikit-image carries.

Nothing is downloaded.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_attnseg.errors import InputError
from napari_attnseg.io.image import read_image, read_mask
from napari_attnseg.viewer.layers import LayerData, display_transform, volume_to_layer_data

PHANTOM = "ct_phantom"


def sample_file(name: str) -> Path:
    """A file of ``sample_data``, installed or in a checkout."""
    installed = Path(str(files("napari_attnseg"))) / "sample_data" / name
    checkout = Path(__file__).resolve().parents[3] / "sample_data" / name
    for path in (installed, checkout):
        if path.is_file():
            return path
    raise InputError(f"the sample {name} is not part of this installation; install the wheel again")


def ct_phantom() -> list[LayerData]:
    """A small CT-like volume with an oblique affine, and its true organs (hidden labels)."""
    volume = read_image(sample_file(f"{PHANTOM}.nii.gz"))
    mask = read_mask(sample_file(f"{PHANTOM}_labels.nii.gz"))
    truth = {
        "name": f"{PHANTOM}_truth",
        "visible": False,
        **display_transform(volume),
    }
    return [volume_to_layer_data(volume, PHANTOM), (mask.view.astype(np.uint8), truth, "labels")]


def nuclei() -> list[LayerData]:
    """Drawn fluorescent nuclei, 256 x 256, and their true mask (hidden labels)."""
    image, mask = draw_nuclei()
    truth = {"name": "nuclei_truth", "visible": False}
    look = {"name": "nuclei", "colormap": "gray", "contrast_limits": (0, 255)}
    return [(image, look, "image"), (mask, truth, "labels")]


def coins() -> list[LayerData]:
    """Coins on a dark ground, 303 x 384 (scikit-image)."""
    from skimage import data

    return [(data.coins(), {"name": "coins", "colormap": "gray"}, "image")]


def tissue() -> list[LayerData]:
    """Stained tissue with nuclei, 512 x 512 RGB (scikit-image, immunohistochemistry)."""
    from skimage import data

    return [(data.immunohistochemistry(), {"name": "tissue", "rgb": True}, "image")]


def draw_nuclei(
    size: int = 256, count: int = 60, seed: int = 5
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Bright and dim, crowded, textured ellipses: image and mask, (Y, X) uint8."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size].astype(np.float64)
    light, mask = np.zeros((size, size)), np.zeros((size, size), bool)
    for _ in range(count):
        y, x = rng.uniform(0.03, 0.97, 2) * size
        a, b = rng.uniform(4.5, 9.0, 2)
        turn = rng.uniform(0, np.pi)
        u = (rows - y) * np.cos(turn) + (columns - x) * np.sin(turn)
        v = (columns - x) * np.cos(turn) - (rows - y) * np.sin(turn)
        inside = (u / a) ** 2 + (v / b) ** 2 < 1
        light[inside] = np.maximum(light[inside], rng.uniform(0.15, 0.95))
        mask |= inside
    texture = 1 + 0.5 * gaussian_filter(rng.normal(size=light.shape), 2.0) * 3
    light = gaussian_filter(light * texture, 1.6)
    ground = 0.05 + 0.02 * gaussian_filter(rng.normal(size=light.shape), 25) * 40
    noisy = light + ground + rng.normal(0, 0.04, light.shape)
    return (np.clip(noisy, 0, 1) * 255).astype(np.uint8), mask.astype(np.uint8)
