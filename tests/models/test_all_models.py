"""What every registered model keeps to, those of later files included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from napari_attnseg.attention.base import AttentionModule
from napari_attnseg.attention.recording import Record, recording
from napari_attnseg.cards import Card
from napari_attnseg.models.base import (
    SegmentationModel,
    create_model,
    list_models,
    model_info,
    model_options,
)
from napari_attnseg.models.checkpoint import load_checkpoint, save_checkpoint

SMALL: dict[str, dict[str, Any]] = {
    "anu_net": {"width": 0.125, "levels": 3},
    "attention_unet": {"width": 0.0625},
    "ca_net": {"width": 0.25},
    "cara_net": {"plan": "tiny", "width": 0.125},
    "dda_net": {"width": 0.5, "reduction": 1},
    "deeplabv3plus": {"width": 0.125},
    "dense_unet": {"plan": "narrow"},
    "fcn8s": {"width": 0.0625},
    "hrnet": {"width": 0.25},
    "m3_net": {"width": 0.0625, "levels": 3},
    "mobile_unet": {"width": 0.25},
    "nonlocal_unet": {"width": 0.125},
    "pam_unet": {"plan": "tiny"},
    "refined": {
        "coarse": '{"name": "smooth_unet", "options": {"width": 0.125, "stride": 8}}',
        "width": 0.125,
        "levels": 2,
    },
    "resunet": {"width": 0.0625},
    "sa_net": {"width": 0.0625, "levels": 3},
    "smooth_unet": {"width": 0.125, "stride": 8},
    "swin_unet": {"width": 0.0625, "window": 4},
    "swin_unetr": {"width": 0.5, "depth": 1, "window": 4},
    "trans_unet": {"width": 0.0625, "depth": 2, "heads": 4, "grid": 5},
    "unet": {"width": 0.0625},
    "unet_resnet50": {"width": 0.125},
    "unet_transformer": {"width": 0.0625},
    "unetr": {"width": 0.0625, "depth": 4},
}
"""Options of a quick form of each; a model that is not here is tested at its full size."""
MODELS = list_models(ndim=2)
CASES = [((128, 128), 1, 2), ((224, 224), 3, 5), ((201, 157), 3, 2), ((201, 157), 1, 5)]
"""Image size, channels, classes."""


def small(name: str, channels: int = 3, classes: int = 2) -> SegmentationModel:
    """A quick form with every parameter at work: what starts at 0 is moved away from it."""
    torch.manual_seed(5)
    model = create_model(name, in_channels=channels, classes=classes, **SMALL.get(name, {}))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1)
        for label, buffer in model.named_buffers():
            if label.endswith("running_mean"):
                buffer.uniform_(-0.1, 0.1)
            elif label.endswith("running_var"):
                buffer.uniform_(0.8, 1.2)
    return model.eval()


def inert(model: SegmentationModel) -> set[str]:
    """Parameters that a module declares to be without influence, or that are frozen."""
    modules = [(n, m) for n, m in model.named_modules() if isinstance(m, AttentionModule)]
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    return {f"{n}.{p}" for n, m in modules for p in m.inert} | frozen


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> SegmentationModel:
    """Shared by the tests that change nothing."""
    return small(name)


@torch.no_grad()
def test_sizes_channels_and_classes(name: str) -> None:
    for size, channels, classes in CASES:
        model = small(name, channels, classes)
        logits = model(torch.rand(1, channels, *size))
        assert logits.shape == (1, classes, *size)
        assert logits.isfinite().all()


@torch.no_grad()
def test_tiny_images(model: SegmentationModel) -> None:
    for size in ((1, 1), (5, 3)):
        assert model(torch.rand(1, 3, *size)).shape == (1, 2, *size)


def test_the_full_size_by_its_defaults(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, in_channels=3, classes=2).eval()
        logits = model(torch.empty(1, 3, 64, 96))
    assert logits.shape == (1, 2, 64, 96)
    assert model.spec.options == model_options(name)


def test_one_step_changes_every_parameter(name: str) -> None:
    model = small(name, 3, 5).train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = torch.rand(2, 3, 72, 88), torch.randint(0, 5, (2, 72, 88))
    loss = F.cross_entropy(model(x), y)
    loss = loss if model.regulariser is None else loss + model.regulariser
    loss = loss + sum(F.cross_entropy(further, y) for further in model.auxiliary)
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    assert [n for n, g in grads.items() if g is None or not g.isfinite().all()] == []
    optimizer.step()
    same = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    assert same <= inert(model)
    assert same != set(before)


def test_a_batch_of_one_can_be_trained_on(name: str) -> None:
    model = small(name).train()
    model(torch.rand(1, 3, 64, 64)).sum().backward()


@torch.no_grad()
def test_checkpoints_are_exact(model: SegmentationModel, tmp_path: Path) -> None:
    x = torch.rand(1, 3, 67, 45)
    save_checkpoint(tmp_path / "m.safetensors", model, Card())
    loaded = load_checkpoint(tmp_path / "m.safetensors").model
    assert loaded.spec == model.spec
    assert torch.equal(loaded(x), model(x))


@torch.no_grad()
def test_images_of_a_batch_do_not_meet(model: SegmentationModel) -> None:
    x = torch.rand(3, 3, 64, 80)
    one = torch.cat([model(x[i : i + 1]) for i in range(3)])
    assert (model(x) - one).abs().max() <= 1e-4 * one.abs().max()


@torch.no_grad()
def test_forward_is_the_chain(model: SegmentationModel) -> None:
    x = torch.rand(1, 3, 50, 70)
    encoded = model.encode(x)
    features = model.gate(encoded, model.attend(encoded), **dict(model.tuning().items))
    assert encoded.size == (50, 70)
    assert torch.equal(model.decode(features, encoded.size), model(x))


@torch.no_grad()
def test_each_tunable_counts(model: SegmentationModel) -> None:
    x = torch.rand(1, 3, 64, 64)
    plain = model(x)
    for tunable in model.tunables:
        assert torch.equal(model(x, **{tunable.name: tunable.default}), plain)
        if tunable.name.startswith("level_"):
            assert (tunable.kind, tunable.default, tunable.stage) == ("float", 1.0, "gate")
            assert not torch.equal(model(x, **{tunable.name: 0.0}), plain), tunable.name


def test_levels_are_the_places(model: SegmentationModel) -> None:
    levels = [t.name for t in model.tunables if t.name.startswith("level_")]
    named = [place.level for place in model.places if place.level]
    assert levels == named if named else len(levels) in (0, len(model.places))
    strides = [place.stride for place in model.places]
    assert strides == sorted(strides)


@torch.no_grad()
def test_recording_shows_every_place_and_changes_nothing(model: SegmentationModel) -> None:
    x = torch.rand(1, 3, 64, 96)
    plain = model(x)
    with recording(model, query=(0.3, 0.7)) as tape:
        seen = model(x)
    assert torch.equal(seen, plain)
    assert torch.equal(model(x), plain)
    named = dict(model.named_modules())
    if model.attend(model.encode(x)) is not None:  # its maps need no recording
        return
    for place in model.places:
        assert place.module in named
        own = [r for r in tape.records if (r.place + ".").startswith(place.module + ".")]
        assert own, place.module
        flat = [r for r in own if r.kind in ("spatial", "signed", "row")]
        assert all(_fits(r, place.stride, (64, 96)) for r in flat)
    assert bool(tape.records) == bool(model.places)


def _fits(record: Record, stride: int, size: tuple[int, int]) -> bool:
    """One map that covers the image, on the place's grid or as the record says it lies on it."""
    steps = record.geometry.stride or (1.0, 1.0)
    covered = tuple(n * s * stride for n, s in zip(record.flat.shape[1:], steps, strict=True))
    whole = len(record.flat) == 1 and bool(record.values.isfinite().all())
    return whole and covered == size


def test_cards(name: str) -> None:
    info = model_info(name)
    assert info.title != name
    assert len(info.paper) > 20
    plain = (bool, int, float, str, type(None))
    assert all(isinstance(v, plain) for v in model_options(name).values())


def test_a_sketch_is_what_the_model_is(name: str) -> None:
    sketch = model_info(name).sketch
    if sketch is None:
        return
    with torch.device("meta"):
        model = create_model(name)
    assert sketch.parameters == sum(p.numel() for p in model.parameters())
    assert sketch.places == model.places
    assert sketch.tunables == model.tunables


def test_every_choice_of_an_option_can_be_built(name: str) -> None:
    for option, values in model_info(name).choices.items():
        assert model_options(name)[option] in values
        for value in values:
            with torch.device("meta"):
                options = {**SMALL.get(name, {}), option: value}
                if (name, value) == ("placed_unet", 3):  # its default knows slices alone
                    options["attention"] = "bottleneck=se"
                model = create_model(name, in_channels=3, classes=2, **options)
            assert sum(p.numel() for p in model.parameters()) > 0


def test_the_list_by_axes() -> None:
    assert set(SMALL) <= set(list_models(ndim=2))
    assert set(list_models()) == {n for d in (1, 2, 3) for n in list_models(ndim=d)}
    assert not set(list_models(ndim=2)) & set(list_models(ndim=3))
