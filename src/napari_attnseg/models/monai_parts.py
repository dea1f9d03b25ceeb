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


def padded_size(size: tuple[int, ...], stride: int) -> tuple[int, ...]:
    """Sides in multiples of ``stride``, and so large that the coarsest grid has two positions: over
    a single one nothing can be normalised."""
    sides = [n + -n % stride for n in size]
    if all(n == stride for n in sides):
        sides[-1] += stride
    return tuple(sides)


def padded(x_BCN: Tensor, stride: int) -> Tensor:
    """To :func:`padded_size`; the last row and column (and slice) are repeated."""
    x = pad_to_multiple(x_BCN, stride)
    more = padded_size(tuple(x_BCN.shape[2:]), stride)[-1] - x.shape[-1]
    return F.pad(x, (0, more, *(0, 0) * (x.ndim - 3)), mode="replicate") if more else x


def residual(kind: str, inside: int, outside: int, ndim: int = 2, **options: Any) -> nn.Module:
    """One of MONAI's residual blocks over two or three axes, normalised per image and channel."""
    made: nn.Module = monai_part("monai.networks.blocks", kind)(
        spatial_dims=ndim,
        in_channels=inside,
        out_channels=outside,
        kernel_size=3,
        norm_name="instance",
        res_block=True,
        **options,
    )
    return made
