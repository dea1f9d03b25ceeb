"""Messages of a bake-off: one U-Net with different attention, all else equal."""

from __future__ import annotations

from dataclasses import dataclass

from napari_attnseg.control.message_base import Event, Request


@dataclass(frozen=True)
class BakeOff(Request):
    """Long: train and test every contestant with every seed, the plain U-Net too.

    ``contestants``: placements in words (``skip[1:]=cbam``) or names of attentions. ``data``: the
    folder of a data set (see ``io.layouts``), ``labels`` the reading of its masks. Zeros mean the
    values of the command line. Finished runs lie in ``out`` and are not run again. Events:
    ``Started``, ``BakeOffPlanned``, ``BakeOffRow`` and ``BakeOffStep``, ``Finished``.
    """

    data: str = ""
    contestants: tuple[str, ...] = ()
    out: str = ""
    labels: str = ""
    limit: int = 0
    size: int = 0
    epochs: int = 0
    batch: int = 0
    width: float = 0.0
    levels: int = 0
    seeds: tuple[int, ...] = (0, 1, 2)
    device: str = "auto"


@dataclass(frozen=True)
class BakeOffPictures(BakeOff):
    """Light: masks and maps of all contestants on test image ``index``, written into ``files``.

    Answer: ``BakeOffPicturesDone``.
    """

    index: int = 0
    files: str = ""


@dataclass(frozen=True)
class BakeOffPlanned(Event):
    """The rows in the order of the plan, the plain U-Net first: names of files, and labels."""

    keys: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class BakeOffStep(Event):
    """Where the work is: ``done`` of ``total`` runs are finished, ``epoch`` of ``epochs`` of the
    run of row ``key`` with ``seed`` is over. ``what``: ``"training"``, ``"done"`` (that run, with
    its test), ``"failed"`` (that run), ``"pictures"``.

    ``seconds_left``: of everything, guessed from what was measured (before the first epoch: from
    one step of the plain network and the others' multiply-adds); 0: unknown.
    """

    what: str = "training"
    done: int = 0
    total: int = 0
    key: str = ""
    seed: int = 0
    epoch: int = 0
    epochs: int = 0
    dice: float = 0.0
    seconds_left: float = 0.0


@dataclass(frozen=True)
class BakeOffRow(Event):
    """The figures of row ``key`` over its finished ``seeds``: means, and their standard deviation
    (``None`` for one seed). Before any run only ``parameters`` and ``macs`` of one image are known.

    ``warning``: what is wrong with masks that are the same everywhere. ``model``: the checkpoint of
    the first seed, once there is one. ``said``: what can be said of all rows so far. ``error``: why
    a run of this row failed; the others go on.
    """

    key: str = ""
    seeds: tuple[int, ...] = ()
    dice: float | None = None
    dice_sd: float | None = None
    iou: float | None = None
    iou_sd: float | None = None
    seconds: float | None = None
    parameters: int = 0
    macs: int = 0
    warning: str = ""
    model: str = ""
    said: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class BakeOffPicturesDone(Event):
    """``path``: JSON with ``image`` (``file``, ``name``, ``rgb``, ``scale``), ``truth`` and
    ``cells`` (``key``, ``mask``, ``dice`` on this image, and ``map``, ``map_name``, ``map_scale``,
    ``map_offset`` where there is a map); all arrays are ``.npy`` in view orientation. Image
    ``index`` of ``count``."""

    path: str = ""
    index: int = 0
    count: int = 0
