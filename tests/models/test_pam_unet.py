"""pam_unet and mobile_unet: size and cost of the paper's figure, gates, strengths, regulariser."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_attnseg import create_model
from napari_attnseg.attention.recording import recording
from napari_attnseg.cards import Card
from napari_attnseg.errors import InputError
from napari_attnseg.models.base import ModelSpec, SegmentationModel, build
from napari_attnseg.models.checkpoint import load_checkpoint, save_checkpoint
from napari_attnseg.models.macs import count_macs
from napari_attnseg.models.pam_unet import GATES, PLANS
from napari_attnseg.settings import Tuning


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def shapes_only(name: str = "pam_unet", **kw) -> SegmentationModel:
    """A model of the paper's three colours without numbers: quick to make, and to count."""
    with torch.device("meta"):
        return create_model(name, in_channels=3, **kw)


def small(in_channels: int = 2, classes: int = 1, **kw) -> SegmentationModel:
    """Tiny and thin, random running statistics too, in evaluation mode; attention at work."""
    torch.manual_seed(2)
    options = {"plan": "tiny", "width": 0.5, **kw}
    model = create_model("pam_unet", in_channels=in_channels, classes=classes, **options)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, nn.ConvTranspose2d):
                module.weight.mul_(3)
    return model.eval()


# --- the paper's network --------------------------------------------------------------------------


def test_parameters_and_cost_of_the_figure() -> None:
    one = shapes_only()
    assert parameters(one) == 31_568_481
    two = shapes_only(classes=2)
    assert parameters(two) == 31_568_498
    assert count_macs(two, (128, 128)) / 1e6 == pytest.approx(1317.1, rel=1e-3)
    without = shapes_only(classes=2, gate="none")
    assert count_macs(without, (128, 128)) / 1e6 == pytest.approx(719.9, rel=1e-3)


def test_the_attention_products_cost_what_the_paper_says() -> None:
    two = shapes_only(classes=2)
    without = shapes_only(classes=2, gate="none")
    products = sum(2 * n**2 * c for n, c in ((64**2, 16), (32**2, 24), (16**2, 32), (8**2, 96)))
    queries_and_keys = sum(
        2 * n * c * c for n, c in ((64**2, 16), (32**2, 24), (16**2, 32), (8**2, 96))
    )
    assert products / 1e6 == pytest.approx(592.2, abs=0.1)
    found = count_macs(two, (128, 128)) - count_macs(without, (128, 128))
    assert found == products + queries_and_keys


def test_grids_and_channels_of_the_figure() -> None:
    model = create_model("pam_unet", in_channels=3, classes=2).eval()
    with torch.inference_mode():
        encoded = model.encode(torch.randn(1, 3, 128, 128))
        features = model.gate(encoded, model.attend(encoded))
        logits = model.decode(features, encoded.size)
    shapes = [tuple(s.shape[1:]) for s in (*encoded.skips, encoded.features)]
    assert shapes == [(16, 64, 64), (24, 32, 32), (32, 16, 16), (96, 8, 8), (1028, 4, 4)]
    assert features.shape == (1, 16, 64, 64)
    assert logits.shape == (1, 2, 128, 128)


def test_the_light_plan_is_light_and_the_tiny_one_tiny() -> None:
    light = shapes_only(classes=2, plan="light")
    assert parameters(light) == 8_765_890
    assert count_macs(light, (128, 128)) <= 1e9
    assert parameters(shapes_only(classes=2, plan="tiny")) * 4 <= 3 * 2**20


@pytest.mark.parametrize(
    ("gate", "mmacs"), [("self", 1056), ("cross", 1317), ("additive", 720), ("none", 720)]
)
def test_the_rows_of_table_two(gate: str, mmacs: float) -> None:
    model = shapes_only(classes=2, gate=gate)
    assert count_macs(model, (128, 128)) / 1e6 == pytest.approx(mmacs, rel=2e-3)


def test_mobile_unet_of_table_one() -> None:
    model = shapes_only("mobile_unet").eval()
    assert parameters(model) == 6_628_945
    assert count_macs(model, (128, 128)) / 1e9 == pytest.approx(0.85, rel=0.02)
    small = create_model("mobile_unet", in_channels=1, classes=4, width=0.2).eval()
    with torch.inference_mode():
        assert small(torch.randn(2, 1, 45, 70)).shape == (2, 4, 45, 70)
    assert small.places == small.tunables == ()


# --- any image ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("channels", "classes", "size"), [(1, 2, (64, 96)), (3, 5, (51, 37))])
def test_logits_have_the_inputs_size(
    gate: str, channels: int, classes: int, size: tuple[int, int]
) -> None:
    model = small(channels, classes, gate=gate)
    with torch.inference_mode():
        logits = model(torch.rand(2, channels, *size))
    assert logits.shape == (2, classes, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_learns_everywhere(plan: str) -> None:
    model = create_model("pam_unet", in_channels=1, plan=plan, width=0.1).train()
    x = torch.rand(2, 1, 64, 64)
    (model(x).square().mean() + model.regulariser).backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in silent if not n.endswith("gate.key.bias")] == []


@pytest.mark.parametrize("name", ["pam_unet", "mobile_unet"])
def test_one_image_of_one_deepest_position_can_be_learned(name: str) -> None:
    model = create_model(name, width=0.1).train()
    model(torch.rand(1, 1, 20, 31)).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_forward_is_the_chain() -> None:
    model, x = small(), torch.rand(1, 2, 40, 56)
    with torch.inference_mode():
        encoded = model.encode(x)
        assert model.attend(encoded) is None
        chain = model.decode(model.gate(encoded, None, level_2=0.5), encoded.size)
        assert torch.equal(model(x, level_2=0.5), chain)
    assert (model.stride, model.cell) == (32, None)


# --- strengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("plan", ["figure", "light"])
def test_strength_zero_is_the_model_without_that_attention(level: int, plan: str) -> None:
    model, x = small(plan=plan, width=0.1), torch.rand(1, 2, 64, 64)
    with torch.inference_mode():
        off = model(x, **{f"level_{level}": 0.0})
        assert not torch.equal(off, model(x))
        gate = model.levels[level - 1].gate
        gate.register_forward_hook(lambda module, inputs, out: inputs[0])  # the skip as it came
        torch.testing.assert_close(off, model(x))


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("plan", ["figure", "light"])
def test_moving_strengths_gives_what_a_fresh_pass_gives(gate: str, plan: str) -> None:
    model, x = small(gate=gate, plan=plan, width=0.1), torch.rand(1, 2, 64, 64)
    names = [t.name for t in model.tunables] or ["level_1"]
    moves = [{n: v} for n in names for v in (0.3, 0.0, 1.0)]
    moves += [{names[0]: 0.5, names[-1]: 0.5}, {names[0]: 0.2, names[-1]: 0.5}, {names[-1]: 1.0}]
    with torch.inference_mode():
        encoded = model.encode(x)
        for values in moves:
            model.adopt(Tuning.of(**dict.fromkeys(names, 1.0) | values))
            fresh = model.gate(encoded, None)
            model.adopt(Tuning.of(**dict.fromkeys(names, 1.0)))
            assert torch.equal(model.gate(encoded, None, **values), fresh), values


def test_a_moved_level_runs_only_what_depends_on_it() -> None:
    model, ran = small(), []
    for number, level in enumerate(model.levels, 1):
        level.up.register_forward_hook(lambda *_, number=number: ran.append(number))
    with torch.inference_mode():
        encoded = model.encode(torch.rand(1, 2, 64, 64))
        for values, expected in (
            ({"level_1": 0.5}, [4, 3, 2, 1]),
            ({"level_1": 0.7}, []),
            ({"level_2": 0.7}, [1]),
            ({"level_4": 0.7}, [3, 2, 1]),
        ):
            ran.clear()
            model.gate(encoded, None, **values)
            assert ran == expected, values
        other = model.encode(torch.rand(1, 2, 64, 64))
        ran.clear()
        model.gate(other, None, level_4=0.7)
        assert ran == [4, 3, 2, 1]
    ran.clear()
    with torch.no_grad():
        model.levels[0].up.weight.mul_(2)
        new = model.gate(other, None, level_4=0.7)
        torch.testing.assert_close(new, model.gate(other, None, **{"level_4": 0.7}))
    assert ran[:4] == [4, 3, 2, 1]


def test_strengths_are_tunables_of_the_gate_stage() -> None:
    model = small()
    assert [(t.name, t.default, t.stage) for t in model.tunables] == [
        (f"level_{i}", 1.0, "gate") for i in (1, 2, 3, 4)
    ]
    assert all(t.minimum == 0 and t.maximum == 1 and t.doc for t in model.tunables)
    x = torch.rand(1, 2, 32, 32)
    with torch.inference_mode():
        half = model(x, level_1=0.5)
        model.adopt(Tuning.of(level_1=0.5))
        assert torch.equal(model(x), half)
    assert model.tuning().get("level_1") == 0.5


def test_models_without_attention_have_nothing_to_move() -> None:
    model = small(gate="none")
    assert model.tunables == model.places == ()


def test_only_coarse_levels_attend_when_asked() -> None:
    model = small(finest=3)
    assert [t.name for t in model.tunables] == ["level_3", "level_4"]
    assert [(p.module, p.stride) for p in model.places] == [
        ("levels.2.gate", 8),
        ("levels.3.gate", 16),
    ]
    dense = count_macs(small(), (128, 128)) - count_macs(model, (128, 128))
    assert dense > 2 * 4096**2 * model.encoder.channels[0]


@pytest.mark.parametrize("gate", ["pla", "self", "cross", "additive"])
def test_a_recording_shows_every_level(gate: str) -> None:
    model, x = small(gate=gate), torch.rand(1, 2, 64, 96)
    with torch.inference_mode():
        plain = model(x)
        with recording(model, query=(0.5, 0.5)) as tape:
            assert torch.equal(model(x), plain)
    seen = {(r.place, r.name): tuple(r.values.shape) for r in tape.records}
    name = "gate" if gate == "additive" else "received"
    for place in model.places:
        assert seen[place.module, name] == (1, 64 // place.stride, 96 // place.stride)
        if gate != "additive":
            assert seen[place.module, "row"] == (1, 64 // place.stride, 96 // place.stride)
    assert [p.stride for p in model.places] == [2, 4, 8, 16]
    assert model.places[0].title == "skip 1, 1/2 resolution"


# --- the regulariser ------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", ["softmax", "sigmoid", "double"])
def test_the_regulariser_is_the_mean_over_levels_and_batch(sigma: str) -> None:
    model, x = small(sigma=sigma).double().train(), torch.rand(2, 2, 32, 64).double()
    found: list[Tensor] = []

    def whole(module: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
        key = inputs[1].chunk(2, 1)[0].flatten(2)
        scores = module.query(inputs[0]).flatten(2).mT @ key / key.shape[1] ** 0.5
        a = torch.sigmoid(scores) if sigma == "sigmoid" else torch.softmax(scores, -1)
        found.append((a - a.mean((1, 2), keepdim=True)).square().mean())

    hooks = [level.gate.register_forward_pre_hook(whole) for level in model.levels]
    model(x)
    assert len(found) == 4
    torch.testing.assert_close(model.regulariser, torch.stack(found).mean())
    for hook in hooks:
        hook.remove()
    model.eval()(x)
    assert model.regulariser is None


@pytest.mark.parametrize("gate", ["none", "additive"])
def test_gates_that_compare_no_positions_have_no_regulariser(gate: str) -> None:
    model = small(gate=gate).train()
    model(torch.rand(2, 2, 32, 32))
    assert model.regulariser is None


def test_less_regulariser_makes_attention_more_even() -> None:
    """Descending R alone (equation 8 with a huge lambda) spreads a sigmoid's attention evenly."""
    model, x = small(sigma="sigmoid").train(), torch.rand(2, 2, 64, 64)
    with torch.no_grad():
        for level in model.levels:
            level.gate.query.weight.mul_(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    seen = []
    for _ in range(8):
        optimizer.zero_grad()
        model(x)
        model.regulariser.backward()
        optimizer.step()
        seen.append(float(model.regulariser.detach()))
    assert seen[-1] < 0.8 * seen[0]


# --- files and sessions ---------------------------------------------------------------------------


def test_a_checkpoint_gives_the_same_model_back(tmp_path: Path) -> None:
    model, x = small(sigma="sigmoid", finest=2), torch.rand(1, 2, 45, 33)
    card = save_checkpoint(tmp_path / "pam.safetensors", model, Card(spec=model.spec.to_json()))
    assert [t["name"] for t in card.tunables] == ["level_2", "level_3", "level_4"]
    loaded = load_checkpoint(tmp_path / "pam.safetensors")
    with torch.inference_mode():
        assert torch.equal(loaded.model(x), model(x))
    assert build(ModelSpec.from_json(model.spec.to_json())).spec == model.spec


def test_a_session_moves_a_level(tmp_path: Path) -> None:
    from napari_attnseg.engine.session import Session

    session = Session(small(1), "cpu")
    image = np.random.default_rng(0).random((70, 50), dtype=np.float32)
    session.set_image(image)
    default = session.predict(0)
    off = session.predict(0, session.tuning.replace(level_1=0.0))
    assert default.labels.shape == (70, 50)
    assert not np.array_equal(default.probability, off.probability)


def test_another_image_frees_what_was_kept_of_the_last() -> None:
    from napari_attnseg.engine.session import Session

    model = small(1)
    session = Session(model, "cpu")
    session.set_image(np.random.default_rng(0).random((40, 50), dtype=np.float32))
    session.predict(0, session.tuning.replace(level_1=0.5))
    assert model._kept is not None
    features = weakref.ref(model._kept.features)
    session.set_image(np.eye(33, dtype=np.float32))
    assert features() is None


def test_words_for_what_cannot_be() -> None:
    for options, words in (
        ({"gate": "pwa"}, "got gate='pwa', expected one of none, self, cross, additive, pla"),
        ({"plan": "huge"}, "got plan='huge', expected one of figure, light, tiny"),
        ({"finest": 5}, "got finest=5, expected one of 1, 2, 3, 4"),
        ({"sigma": "tanh"}, "got sigma='tanh'"),
        ({"width": 0.0}, "got width=0"),
    ):
        with pytest.raises(InputError, match=words):
            create_model("pam_unet", **options)
