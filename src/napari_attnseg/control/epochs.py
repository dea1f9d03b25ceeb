"""Requests about training, and what comes back after every epoch."""

from __future__ import annotations

from dataclasses import dataclass, field

from napari_attnseg.control.message_base import Event, ImageRef, Request
from napari_attnseg.settings import TrainSettings


@dataclass(frozen=True)
class Train(Request):
    """Long: train. Either folders (``images``, ``masks``) or one layer pair.

    Layer pair: ``image`` and ``labels`` (.npy, Z,Y,X, re-read before every epoch so that strokes
    painted meanwhile count). With ``settings.sparse`` label 0 is unlabelled (ignored), 1 is
    background, 2 the first class, and so on; without, labels are class ids with 0 = background.
    ``out``: checkpoint path (.safetensors) for the best model; the resume state lies beside it
    as ``<out>.state.safetensors``. ``preview_z``: slice predicted after every epoch into
    ``<scratch>/preview.npy`` (Y,X float32 probability); -1: the first validation pair.
    Events: ``Started``, ``EpochDone``, ``Preview``, ``Finished``.
    """

    settings: TrainSettings = field(default_factory=TrainSettings)
    images: str = ""
    masks: str = ""
    image: ImageRef | None = None
    labels: str = ""
    out: str = ""
    scratch: str = ""
    device: str = "auto"
    resume: bool = False
    preview_z: int = -1


@dataclass(frozen=True)
class SetPreview(Request):
    """Tell the running training which slice the person looks at now. No event."""

    z: int = 0


@dataclass(frozen=True)
class EpochDone(Event):
    """One epoch ended. ``validation``: metric name to value (at least ``dice``, ``iou``).

    ``loss``: what was minimised, the weighted ``regulariser`` included, which is given unweighted
    too (``None`` for models without one). ``gamma``: the attention's weight, ``None`` likewise.
    ``measured_on``: ``"validation"``, pixels that were kept back, or ``"training pixels"``.
    """

    epoch: int = 0
    epochs: int = 0
    loss: float = 0.0
    validation_loss: float = 0.0
    validation: dict[str, float] = field(default_factory=dict)
    best: bool = False
    seconds: float = 0.0
    seconds_left: float = 0.0
    gamma: float | None = 0.0
    regulariser: float | None = None
    measured_on: str = "validation"


@dataclass(frozen=True)
class Preview(Event):
    """The current model's probability of slice ``z`` lies in ``path`` (.npy, Y,X)."""

    z: int = 0
    path: str = ""
