"""Parts of MONAI that models are built of: imported when such a model is made, never before."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from napari_attnseg.errors import InputError
from napari_attnseg.models.base import pad_to_multiple


def monai_part(module: str, name: str) -> Any:
    """``name`` of the MONAI ``module``. Raises ``InputError`` where the installed MONAI, or any
    MONAI at all, lacks it."""
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"got a MONAI without {module}.{name} ({error}), expected MONAI 1.5 or newer; "
            "install it with pip install 'monai>=1.5'"
        ) from error


def padded(x_BCHW: Tensor, stride: int) -> Tensor:
    """To multiples of ``stride``, and so large that the coarsest grid has two positions: over a
    single one nothing can be normalised."""
    x = pad_to_multiple(x_BCHW, stride)
    if x.shape[-2:] == (stride, stride):
        x = F.pad(x, (0, stride, 0, 0), mode="replicate")
    return x


def residual(kind: str, inside: int, outside: int, **options: Any) -> nn.Module:
    """One of MONAI's residual blocks in two dimensions, normalised per image and channel."""
    made: nn.Module = monai_part("monai.networks.blocks", kind)(
        spatial_dims=2,
        in_channels=inside,
        out_channels=outside,
        kernel_size=3,
        norm_name="instance",
        res_block=True,
        **options,
    )
    return made
