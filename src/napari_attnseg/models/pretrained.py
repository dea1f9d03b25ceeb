"""Published ImageNet weights for encoders: found, checked, loaded, and what became of them said.

Sources: a local file; ``"imagenet"`` for those published for the encoder, from an installed package
(EfficientNet-Lite0) or from huggingface.co through ``huggingface_hub`` (all others).
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from napari_attnseg.errors import CheckpointError
from napari_attnseg.models.encoder_base import Encoder, Published
from napari_attnseg.models.weights import read_state_dict

IMAGENET = "imagenet"
ENOUGH = 0.9
"""Part of the encoder's tensors a file must hold to count as its weights."""


@dataclass(frozen=True)
class WeightReport:
    """What became of a published state dict: names ``loaded``, ``ignored`` (in the file alone),
    ``missing`` (in the encoder alone), and ``adapted`` in words."""

    loaded: tuple[str, ...]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]
    adapted: str = ""

    @property
    def text(self) -> str:
        """One sentence for the person."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        if self.ignored:
            parts.append(f"{len(self.ignored)} ignored ({_some(self.ignored)})")
        if self.missing:
            parts.append(f"{len(self.missing)} left random ({_some(self.missing)})")
        return ", ".join([*parts, *([self.adapted] if self.adapted else [])])


def _some(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def load_encoder_weights(encoder: Encoder, source: str | Path) -> WeightReport:
    """Load published weights (.safetensors, or .pt/.pth read without unpickling code).

    ``source``: a local file, or ``"imagenet"``. The classifier and absent stages are ignored. For
    other than 3 input channels the first convolution is the sum over colours, spread over the
    channels. Raises ``CheckpointError``, and changes nothing, when the file holds weights of
    another network or width or when nothing is published or reachable.
    """
    published = encoder.published
    if published is None:
        raise CheckpointError(
            f"got weights for an encoder of which nobody publishes any ({encoder.title}); choose a "
            "model with a published one, as unet with encoder=efficientnet_lite0"
        )
    path = published_file(encoder) if str(source) == IMAGENET else Path(source)
    state = {k.removeprefix("module."): v for k, v in read_state_dict(path).items()}
    own = encoder.state_dict()
    state, adapted = _fit_channels(encoder.own_names(state), own, published.first)
    shared = {name: value for name, value in state.items() if name in own}
    ignored = tuple(sorted(set(state) - set(own)))
    wanted = {name for name in own if not name.endswith("num_batches_tracked")}
    missing = tuple(sorted(wanted - set(shared)))
    _check(path, encoder, shared, ignored, missing)
    encoder.load_state_dict({k: v.to(torch.float32) for k, v in shared.items()}, strict=False)
    return WeightReport(tuple(shared), ignored, missing, adapted)


def _fit_channels(
    state: dict[str, Tensor], own: dict[str, Tensor], first: str
) -> tuple[dict[str, Tensor], str]:
    """The first convolution for the encoder's own number of channels, and words about it."""
    weight, n = state.get(first), own[first].shape[1]
    if weight is None or weight.ndim != 4 or weight.shape[1] == n:
        return state, ""
    spread = weight.sum(1, keepdim=True).expand(-1, n, -1, -1) / n
    words = f"first convolution adapted from {weight.shape[1]} to {n} input channels"
    return {**state, first: spread}, words


def _check(
    path: Path,
    encoder: Encoder,
    shared: dict[str, Tensor],
    ignored: tuple[str, ...],
    missing: tuple[str, ...],
) -> None:
    """Raise unless these are weights of this network at this width."""
    title, own = encoder.title, encoder.state_dict()
    first = encoder.published.first if encoder.published else ""
    if first not in shared:
        raise CheckpointError(
            f"{path.name} holds no {title} weights (no tensor {first}); "
            "expected a state dict with the usual names"
        )
    for name, value in shared.items():
        if value.shape != own[name].shape:
            raise CheckpointError(
                f"{path.name}: {name} is {tuple(value.shape)}, but this encoder expects "
                f"{tuple(own[name].shape)}; published weights need width=1.0 of {title}"
            )
    parts = {name.split(".")[0] for name in own}
    more = [name for name in ignored if name.split(".")[0] in parts]
    if more or len(missing) > (1 - ENOUGH) * len(own):
        what = f"more layers ({_some(more)})" if more else f"fewer layers (no {_some(missing)})"
        raise CheckpointError(
            f"{path.name} holds {what} than {title} has; choose the encoder it was made for"
        )


# --- where published weights are ------------------------------------------------------------------


def published_file(encoder: Encoder) -> Path:
    """The local file of the encoder's ImageNet weights, downloaded if need be.

    Raises ``CheckpointError`` with what to install or to do instead.
    """
    published = encoder.published
    if published is None:
        raise CheckpointError(f"got {encoder.title}, for which no ImageNet weights are published")
    if published.package:
        return _from_package(encoder.title, published)
    return _from_hub(encoder.title, published)


def _from_package(title: str, published: Published) -> Path:
    spec = importlib.util.find_spec(published.package)
    folders = spec.submodule_search_locations if spec else None
    found = [p for folder in folders or () for p in sorted(Path(folder).rglob("*.pth"))]
    if not found:
        raise CheckpointError(
            f"the ImageNet weights of {title} are not installed; "
            f'run: pip install "napari-attnseg[{published.extra}]"'
        )
    _check_name(found[0])
    return found[0]


def _check_name(path: Path) -> None:
    """Published files carry the beginning of their SHA-256 in their name."""
    named = re.search(r"-([0-9a-f]{8,})$", path.stem)
    if named is None:
        return
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(named[1]):
        raise CheckpointError(f"{path.name} is damaged: it is not what its name says; reinstall it")


def _from_hub(title: str, published: Published) -> Path:
    if published.hub is None:
        raise CheckpointError(f"got {title}, for which no ImageNet weights are published")
    repository, name = published.hub
    otherwise = f"or give a local file of {title} weights"
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise CheckpointError(
            f"the ImageNet weights of {title} come from huggingface.co; "
            f'run: pip install "napari-attnseg[{published.extra}]", {otherwise}'
        ) from error
    try:
        return Path(hf_hub_download(repository, name))
    except Exception as error:  # its errors, those of its HTTP client and of the operating system
        raise CheckpointError(
            f"the ImageNet weights of {title} ({repository}) cannot be downloaded "
            f"({type(error).__name__}); go online once, {otherwise}"
        ) from error
