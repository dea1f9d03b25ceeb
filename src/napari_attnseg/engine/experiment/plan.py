"""What an experiment runs: rows of settings, seeds, and the tables that they fill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from napari_attnseg.errors import InputError
from napari_attnseg.models.base import model_options
from napari_attnseg.settings import Preprocessing, TrainSettings

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Scale:
    """How much is spent; zeros and empty mean the recipe's own.

    ``size``: working size in pixels (square). ``width``: for models that have this option.
    ``changes``: fields of ``TrainSettings``; ``options``: model options, given to the models that
    know them; ``preprocessing``: fields of ``Preprocessing``. ``coarse_epochs``: of a coarse model
    that others refine.
    """

    size: int = 0
    epochs: int = 0
    batch: int = 0
    width: float = 0.0
    seeds: tuple[int, ...] = (0,)
    changes: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    coarse_epochs: int = 0


@dataclass(frozen=True)
class Row:
    """One network or setting; ``key`` names its files, ``settings`` lack the seed.

    ``full``: the same before it was scaled down, for its costs as published. ``coarse``: key of
    the row whose network this one stands on, seed by seed. ``peer``: what is done to that
    network's answers instead of training one more (see ``judge``).
    """

    key: str
    label: str
    settings: TrainSettings
    full: TrainSettings
    coarse: str = ""
    peer: str = ""


@dataclass(frozen=True)
class Run:
    """One training and its test."""

    row: Row
    seed: int

    @property
    def key(self) -> str:
        """Name of its files."""
        return f"{self.row.key}_seed{self.seed}"

    @property
    def settings(self) -> TrainSettings:
        """The row's settings with this seed; ``coarse`` is the key of a run, not a path."""
        return replace(self.row.settings, seed=self.seed, coarse=self.coarse)

    @property
    def coarse(self) -> str:
        """Key of the run whose network this one stands on, or empty."""
        return f"{self.row.coarse}_seed{self.seed}" if self.row.coarse else ""


@dataclass(frozen=True)
class Table:
    """A table of the report. ``entries``: (label, row key). ``published``: label to figures as
    printed by the paper. ``costs``: whether parameters, MACs and time are shown. ``baseline``:
    label of the row that the others are compared with. ``curve``: the columns are one figure at
    successive iterations."""

    title: str
    entries: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    published: Mapping[str, Figures] = field(default_factory=dict)
    published_note: str = ""
    costs: bool = False
    baseline: str = ""
    curve: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything an experiment does, decided before it starts. ``left_out``: rows whose model
    this installation lacks, in words. ``go_on``: a run that fails does not end the others."""

    name: str
    title: str
    rows: tuple[Row, ...]
    tables: tuple[Table, ...]
    seeds: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    go_on: bool = False

    @property
    def closely(self) -> bool:
        """Whether a table shows what only a close test measures (see ``judge``)."""
        return any("boundary" in table.columns for table in self.tables)

    @property
    def runs(self) -> tuple[Run, ...]:
        """Seed by seed, so that a table of an unfinished experiment compares equals."""
        return tuple(Run(row, seed) for seed in self.seeds for row in self.rows)


def scaled(settings: TrainSettings, scale: Scale, base: Preprocessing | None) -> TrainSettings:
    """Settings at this scale; options that the model does not know are left out."""
    known = model_options(settings.model)
    options = {k: v for k, v in scale.options.items() if k in known}
    if scale.width and "width" in known:
        options["width"] = scale.width
    pre = settings.preprocessing
    if base is not None:
        pre = replace(base, size=pre.size, clahe_clip=pre.clahe_clip, clahe_tiles=pre.clahe_tiles)
    if scale.size:
        pre = replace(pre, size=scale.size)
    try:
        pre = replace(pre, **scale.preprocessing)
        changes = {**scale.changes, "preprocessing": pre, "crop": None}
        changes |= {"epochs": scale.epochs} if scale.epochs else {}
        changes |= {"batch": scale.batch} if scale.batch else {}
        return replace(settings, **changes, options={**settings.options, **options})
    except TypeError as error:
        raise InputError(f"got a setting that does not exist: {error}") from error
