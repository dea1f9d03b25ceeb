"""What an experiment runs: rows of settings, seeds, and the tables that they fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from napari_attnseg.engine.experiment import published
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import list_models, model_options
from napari_attnseg.settings import PLAIN_THRESHOLD, Preprocessing, TrainSettings, recipe

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, PLAIN_THRESHOLD)
PLAIN = f"{PLAIN_THRESHOLD:.1f} (plain attention)"
STRUCTURES = tuple(range(1, 10))
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Scale:
    """How much is spent; zeros and empty mean the recipe's own.

    ``size``: working size in pixels (square). ``width``: for models that have this option.
    ``changes``: fields of ``TrainSettings``; ``options``: model options, given to the models that
    know them; ``preprocessing``: fields of ``Preprocessing``.
    """

    size: int = 0
    epochs: int = 0
    batch: int = 0
    width: float = 0.0
    seeds: tuple[int, ...] = (0,)
    changes: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One network or setting; ``key`` names its files, ``settings`` lack the seed.

    ``full``: the same before it was scaled down, for its costs as published.
    """

    key: str
    label: str
    settings: TrainSettings
    full: TrainSettings


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
        """The row's settings with this seed."""
        return replace(self.row.settings, seed=self.seed)


@dataclass(frozen=True)
class Table:
    """A table of the report. ``entries``: (label, row key). ``published``: label to figures as
    printed by the paper. ``costs``: whether parameters, MACs and time are shown. ``baseline``:
    label of the row that the others are compared with."""

    title: str
    entries: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    published: Mapping[str, Figures] = field(default_factory=dict)
    published_note: str = ""
    costs: bool = False
    baseline: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything an experiment does, decided before it starts. ``left_out``: rows whose model
    this installation lacks, in words."""

    name: str
    title: str
    rows: tuple[Row, ...]
    tables: tuple[Table, ...]
    seeds: tuple[int, ...]
    left_out: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[Run, ...]:
        """Seed by seed, so that a table of an unfinished experiment compares equals."""
        return tuple(Run(row, seed) for seed in self.seeds for row in self.rows)


def make_plan(name: str, scale: Scale, base: Preprocessing | None = None) -> Plan:
    """The plan of ``smooth-attention``, ``joint-attention`` or ``pam-unet``.

    ``base``: preprocessing that suits the data (see ``suited``), instead of the recipe's.
    Raises ``InputError`` for unknown names, settings and empty or repeated seeds.
    """
    if name not in EXPERIMENTS:
        raise InputError(f"got experiment {name}, expected one of {', '.join(EXPERIMENTS)}")
    if not scale.seeds or len(set(scale.seeds)) != len(scale.seeds):
        raise InputError(f"got seeds {scale.seeds}, expected different ones, as in 0,1,2")
    return EXPERIMENTS[name](scale, base)


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


def smooth_attention(scale: Scale, base: Preprocessing | None) -> Plan:
    """Thresholds 0.1 to 0.9 and 2.0 (the paper's rows), and gamma held at 0: no attention."""
    full = recipe("smooth-attention")
    start = replace(scaled(full, scale, base), threshold_draw="fixed")
    rows = []
    for t in THRESHOLDS:
        label = PLAIN if t >= PLAIN_THRESHOLD else f"{t:g}"
        rows.append(Row(f"threshold_{t:g}", label, replace(start, threshold=t), full))
    off = replace(start, threshold=PLAIN_THRESHOLD, gamma_start=0.0, gamma_lr_factor=0.0)
    rows.append(Row("no_attention", "no attention (gamma 0)", off, full))
    table = Table(
        "Thresholds",
        tuple((row.label, row.key) for row in rows),
        ("iou", "dice", "accuracy", "precision", "recall", "f1"),
        baseline=PLAIN,
    )
    title = "Smooth Attention: the threshold (the paper's Tables 1 to 5)"
    return Plan("smooth-attention", title, tuple(rows), (table,), scale.seeds)


def joint_attention(scale: Scale, base: Preprocessing | None) -> Plan:
    """DenseUNet, -SA, -PWA, -JA; then the nine structures (the default one is the JA row)."""
    start = recipe("joint-attention")
    default = int(model_options("dense_unet")["structure"])

    def row(key: str, label: str, **options: Any) -> Row:
        full = replace(start, options={**start.options, **options})
        return Row(key, label, scaled(full, scale, base), full)

    forms = [("DenseUNet", "none"), ("DenseUNet-SA", "sa"), ("DenseUNet-PWA", "pwa")]
    rows = [row(key, label, attention=key) for label, key in forms]
    structures = [(f"structure {n}", f"ja_{n}") for n in STRUCTURES]
    first = sorted(STRUCTURES, key=lambda n: n != default)  # the JA row before its ablation
    rows += [row(f"ja_{n}", f"structure {n}", attention="ja", structure=n) for n in first]
    forms.append(("DenseUNet-JA", f"ja_{default}"))
    columns = ("dice", "precision", "recall", "specificity", "accuracy", "auc")
    note = "published: ISIC-2017"
    tables = (
        Table(
            f"Forms of attention (JA: structure {default})",
            tuple(forms),
            columns,
            published.JOINT_ISIC,
            note,
            costs=True,
            baseline="DenseUNet",
        ),
        Table("The nine structures of Joint Attention", tuple(structures), columns),
    )
    title = "Joint Attention in DenseUNet"
    return Plan("joint-attention", title, tuple(rows), tables, scale.seeds)


TABLE_1: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("PAM-UNet", "pam_unet", {"gate": "pla"}),
    ("Mobile-UNet", "mobile_unet", {}),
    ("U-Net (ResNet-50)", "unet_resnet50", {}),
    ("DeepLabv3+", "deeplabv3plus", {}),
    ("FCN-8s", "fcn8s", {}),
    ("HRNet", "hrnet", {}),
    ("ResUNet", "resunet", {}),
    ("Attention U-Net", "attention_unet", {}),
)
TABLE_2: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("M encoder", "mobile_unet", {}),
    ("M encoder-decoder", "pam_unet", {"gate": "none"}),
    ("+ self", "pam_unet", {"gate": "self"}),
    ("+ cross", "pam_unet", {"gate": "cross"}),
    ("+ additive", "pam_unet", {"gate": "additive"}),
    ("+ PLA", "pam_unet", {"gate": "pla"}),
)


def pam_unet(scale: Scale, base: Preprocessing | None) -> Plan:
    """Table I (against seven networks) and Table II (ablation of the gate)."""
    rows: dict[str, Row] = {}
    entries: list[tuple[tuple[str, str], ...]] = []
    here, left_out = set(list_models()), []
    for table in (TABLE_1, TABLE_2):
        found = []
        for label, model, options in table:
            if model not in here:
                left_out.append(f"{label}: there is no model {model} in this installation")
                continue
            key = "_".join((model, *options.values()))
            start = replace(recipe("pam-unet"), model=model, options=options)
            rows.setdefault(key, Row(key, label, scaled(start, scale, base), start))
            found.append((label, key))
        entries.append(tuple(found))
    columns, note = ("dice", "iou", "miou", "recall"), "published: LiTS (liver), FLOPS in 10^9"
    first = Table(
        "Table I: against other networks",
        entries[0],
        columns,
        published.PAM_TABLE_1,
        note,
        costs=True,
        baseline="PAM-UNet",
    )
    second = Table(
        "Table II: what each part adds",
        entries[1],
        columns,
        published.PAM_TABLE_2,
        note,
        costs=True,
        baseline="M encoder-decoder",
    )
    return Plan(
        "pam-unet",
        "PAM-UNet: Tables I and II",
        tuple(rows.values()),
        (first, second),
        scale.seeds,
        tuple(left_out),
    )


EXPERIMENTS: dict[str, Callable[[Scale, Preprocessing | None], Plan]] = {
    "smooth-attention": smooth_attention,
    "joint-attention": joint_attention,
    "pam-unet": pam_unet,
}
