"""A U-Net with attention at named places."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from napari_attnseg.attention.base import PLACES, AttentionModule, Role
from napari_attnseg.attention.recording import recording
from napari_attnseg.attention.registry import (
    _REGISTRY,
    attention_entry,
    list_attentions,
    register_attention,
)
from napari_attnseg.cards import Card
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import InputError
from napari_attnseg.models import create_model
from napari_attnseg.models.placed_unet import PlacedUNet
from napari_attnseg.placement import SINGLE
from napari_attnseg.settings import Preprocessing

SMALL: dict[str, Any] = {"width": 0.125, "levels": 3}
SIZE = (29, 43)
PADDED = (32, 48)


class Plus(AttentionModule):
    def __init__(self, channels: int, by: float = 1.0) -> None:
        super().__init__()
        self.channels, self.by = channels, by
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape))
        if self.probe is not None:
            self.probe.note("mean", x.mean(1), "signed")
        return x + self.by


class Half(AttentionModule):
    role: ClassVar[Role] = "gate"

    def __init__(self, channels: int, context_channels: int | None = None) -> None:
        super().__init__()
        self.channels, self.context_channels = channels, context_channels

    def forward(self, skip: Tensor, context: Tensor) -> Tensor:
        assert skip.shape == context.shape
        return skip / 2


class Third(AttentionModule):
    role: ClassVar[Role] = "conv"

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out_channels or channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.conv(x)
        return found


class Mean(AttentionModule):
    role: ClassVar[Role] = "fuser"

    def __init__(self, channels: tuple[int, ...], out_channels: int | None = None) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, maps: list[Tensor]) -> Tensor:
        assert tuple(m.shape[1] for m in maps) == self.channels
        return 2 * maps[0]


class Classy(AttentionModule):
    role: ClassVar[Role] = "class-aware"

    def __init__(self, channels: int, classes: int = 2) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor, scores: Tensor) -> Tensor:
        assert scores.shape[1] == self.classes
        return x + scores.softmax(1)[:, :1]


@pytest.fixture(autouse=True)
def helpers() -> Iterator[None]:
    """Attentions of each role whose answer can be told from their input by eye."""

    known = dict(_REGISTRY)
    for cls in (Plus, Half, Third, Mean, Classy):
        register_attention(f"t_{cls.__name__.lower()}")(cls)
    yield
    _REGISTRY.clear()
    _REGISTRY.update(known)


def made(attention: str, classes: int = 1, **options: object) -> PlacedUNet:
    torch.manual_seed(0)
    model = create_model(
        "placed_unet", in_channels=1, classes=classes, attention=attention, **(SMALL | options)
    )
    assert isinstance(model, PlacedUNet)
    return model.eval()


def test_with_nothing_placed_it_is_the_unet() -> None:
    torch.manual_seed(0)
    plain = create_model("unet", in_channels=1, **SMALL).eval()
    x = torch.randn(2, 1, *SIZE)
    model = made("")
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize(
    ("at", "channels", "stride"),
    [
        ("encoder[0]", 8, 1),
        ("encoder[2]", 32, 4),
        ("bottleneck", 64, 8),
        ("skip[1]", 16, 2),
        ("up[2]", 32, 4),
        ("decoder[0].pre", 16, 1),
        ("decoder[1].post", 16, 2),
        ("head", 8, 1),
    ],
)
def test_what_is_placed_sees_the_features_of_its_place(at: str, channels: int, stride: int) -> None:
    model = made(f"{at}=t_plus")
    (place,) = model.places
    module = model.get_submodule(place.module)
    model(torch.randn(1, 1, *SIZE))
    assert module.seen == [(1, channels, PADDED[0] // stride, PADDED[1] // stride)]
    assert place.stride == stride
    assert place.level == "level_1"


def by_hand(model: PlacedUNet, x: Tensor, plus: dict[str, float]) -> Tensor:
    """The network of three levels written out, with constants added at places."""
    e, d = model.encoder, model.decoder
    x = nn.functional.pad(x, (0, PADDED[1] - SIZE[1], 0, PADDED[0] - SIZE[0]), mode="replicate")
    f0 = e.blocks[0](x) + plus.get("encoder[0]", 0)
    f1 = e.blocks[1](e.pool(f0)) + plus.get("encoder[1]", 0)
    f2 = e.blocks[2](e.pool(f1)) + plus.get("encoder[2]", 0)
    y = e.blocks[3](e.pool(f2)) + plus.get("bottleneck", 0)
    for i, f in ((2, f2), (1, f1), (0, f0)):
        up = d.ups[i](y) + plus.get(f"up[{i}]", 0)
        both = torch.cat([f + plus.get(f"skip[{i}]", 0), up], 1) + plus.get(f"decoder[{i}].pre", 0)
        y = d.blocks[i](both) + plus.get(f"decoder[{i}]", 0)
    return model.head(y + plus.get("head", 0))[..., : SIZE[0], : SIZE[1]]


@pytest.mark.parametrize(
    "at",
    [
        *(f"{part}[{i}]" for part in ("encoder", "skip", "up", "decoder") for i in range(3)),
        "decoder[1].pre",
        "bottleneck",
        "head",
    ],
)
def test_every_place_lies_where_its_name_says(at: str) -> None:
    model = made(f"{at}=t_plus:by=0.75")
    x = torch.randn(2, 1, *SIZE)
    wanted = by_hand(model, x, {at: 0.75})
    torch.testing.assert_close(model(x), wanted)
    assert not torch.allclose(wanted, by_hand(model, x, {}))


def test_several_in_one_place_run_in_their_order() -> None:
    model = made("skip[0]=t_half; skip[0]=t_plus")
    other = made("skip[0]=t_plus; skip[0]=t_half")
    x = torch.randn(1, 1, *SIZE)
    torch.testing.assert_close(other(x), made("skip[0]=t_half; skip[0]=t_plus:by=0.5")(x))
    assert not torch.allclose(model(x), other(x))


def test_a_level_lets_through_by_degrees() -> None:
    model, plain = made("encoder[1]=t_plus:by=3; skip[0]=t_half; bottleneck=t_plus"), made("")
    x = torch.randn(1, 1, *SIZE)
    names = [t.name for t in model.tunables]
    assert names == ["level_1", "level_2", "level_3"]
    assert torch.equal(model(x, **dict.fromkeys(names, 0.0)), plain(x))
    by_place = {p.title.split(":")[0]: p.level for p in model.places}
    quarter = model(x, level_1=0.0, level_2=0.25, level_3=0.0)
    assert by_place == {"skip[0]": "level_1", "encoder[1]": "level_2", "bottleneck": "level_3"}
    torch.testing.assert_close(quarter, by_hand(model, x, {"encoder[1]": 0.75}))


def test_what_no_level_changes_is_encoded_once() -> None:
    model = made("encoder[1]=t_plus; skip[0]=t_plus")
    x = torch.randn(1, 1, *SIZE)
    encoded = model.encode(x)
    assert (encoded.features.shape[1], len(encoded.skips)) == (16, 1)
    runs: list[int] = []
    model.encoder.blocks[0].register_forward_hook(lambda *_: runs.append(0))
    for level in (0.0, 0.5):
        again = model.decode(model.gate(encoded, level_1=level), encoded.size)
        assert runs == []
        torch.testing.assert_close(
            again, made("encoder[1]=t_plus; skip[0]=t_plus")(x, level_1=level)
        )


def test_a_convolution_is_replaced() -> None:
    model = made("encoder[0]=t_third; decoder[2]=t_third; bottleneck=t_third")
    assert [p.module for p in model.places] == [
        "encoder.blocks.0.1.0",
        "decoder.blocks.2.1.0",
        "encoder.blocks.3.1.0",
    ]
    assert model.tunables == ()
    assert model(torch.randn(1, 1, *SIZE)).shape == (1, 1, *SIZE)


def test_a_fuser_gets_every_grid_and_class_attention_the_scores() -> None:
    x = torch.randn(2, 1, *SIZE)
    fused, plain = made("head=t_mean"), made("")
    torch.testing.assert_close(
        fused(x) - fused.head.bias[:, None, None], 2 * (plain(x) - plain.head.bias[:, None, None])
    )
    for classes in (1, 3):
        model = made("head=t_classy", classes).train()
        assert model(x).shape == (2, classes, *SIZE)
        (scores,) = model.auxiliary
        assert scores.shape == (2, classes, *SIZE)
        scores.sum().backward()
        assert model.aux is not None
        assert model.aux.weight.grad is not None
        model.eval()(x)
        assert model.auxiliary == ()


def test_maps_are_recorded_where_they_stand() -> None:
    model = made("skip[1:]=t_plus")
    with recording(model) as tape:
        model(torch.randn(1, 1, *SIZE))
    shapes = {r.place: tuple(r.values.shape) for r in tape.records}
    assert shapes == {
        place.module: (1, PADDED[0] // place.stride, PADDED[1] // place.stride)
        for place in model.places
    }


@pytest.mark.parametrize(
    ("attention", "told"),
    [
        ("bottleneck=t_half", "at bottleneck: t_half cannot stand there (gate); expected skip"),
        ("skip[0]=t_mean", "at skip[0]: t_mean cannot stand there (fuser); expected head"),
        ("decoder[0].pre=t_third", "at decoder[0].pre"),
        ("skip[3]=t_plus", "skip[0] to skip[2]"),
        ("skip[1]=t_plus:often=3", "at skip[1]: got option 'often'"),
        ("skip[1]=t_plus:by=big", "at skip[1]: got by='big'"),
        ("skip[1]=no_such", "at skip[1]: got attention 'no_such'"),
        ("head=t_mean; head=t_mean", "t_mean stands there already"),
    ],
)
def test_what_cannot_stand_there_is_refused_with_its_place(attention: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        made(attention)
    assert told in str(refused.value)


@pytest.mark.parametrize("name", [n for n in list_attentions() if 2 in attention_entry(n).ndim])
def test_every_attention_can_stand_wherever_its_role_may(name: str) -> None:
    parts = PLACES[attention_entry(name).cls.role]
    x = torch.randn(1, 1, 21, 13)
    for part in parts:
        at = part if part in SINGLE else f"{part}[-1]"
        model = made(f"{at}={name}", levels=2).train()
        assert model(x).shape == (1, 1, 21, 13), at
        assert len(model.places) == 1
        with torch.no_grad(), recording(model.eval()) as tape:
            model(x)
        assert all(r.place.startswith(model.places[0].module) for r in tape.records), at


TUNED = "bottleneck=smooth:threshold=0.9; skip[1]=hard; skip[0]=joint; decoder[0]=cbam"


def shaken(model: PlacedUNet) -> PlacedUNet:
    """Weights of every attention branch away from 0, where the threshold would do nothing."""
    torch.manual_seed(3)
    with torch.no_grad():
        for p in model.placed.parameters():
            p.add_(0.4 * torch.randn_like(p))
    return model


def test_what_a_mechanism_declares_is_tuned_at_its_place() -> None:
    model = shaken(made(TUNED))
    defaults = {t.name: t.default for t in model.tunables}
    gamma = float(module_of(model, "smooth").gamma.detach())
    assert defaults == {
        **dict.fromkeys(("level_1", "level_2", "level_3", "level_4"), 1.0),
        "threshold_3": 0.5,  # hard; a strength is the level by another name
        "threshold_4": 0.9,
        "rule_4": "paper",
        "gamma_4": gamma,
    }
    told = {t.name: t for t in model.tunables}
    assert told["threshold_4"].doc.startswith("smooth at bottleneck: ")
    assert told["gamma_4"].minimum <= gamma <= told["gamma_4"].maximum
    x = torch.randn(1, 1, *SIZE)
    assert torch.equal(model(x, **defaults), model(x))


def module_of(model: PlacedUNet, use: str) -> Any:
    (found,) = [p.module for p in model.placed if p.use == use]  # type: ignore[union-attr]
    return found


@pytest.mark.parametrize(
    ("use", "name", "attribute", "value"),
    [
        ("smooth", "threshold_4", "threshold", 0.0),
        ("smooth", "rule_4", "rule", "authors"),
        ("hard", "threshold_3", "threshold", 0.4),
    ],
)
def test_a_live_value_is_the_attribute_set_by_hand_bit_for_bit(
    use: str, name: str, attribute: str, value: Any
) -> None:
    model, x = shaken(made(TUNED)), torch.randn(1, 1, *SIZE)
    before = model(x)
    live = model(x, **{name: value})
    assert torch.equal(model(x), before)  # nothing stuck
    setattr(module_of(model, use), attribute, value)
    assert torch.equal(model(x), live)
    assert not torch.equal(live, before)


def test_adopted_values_become_the_modules_own() -> None:
    model, x = shaken(made(TUNED)), torch.randn(1, 1, *SIZE)
    gamma = model.tuning().values["gamma_4"]
    wanted = model.tuning().replace(threshold_4=0.0, rule_4="authors", gamma_4=7.0)
    live = model(x, threshold_4=0.0, rule_4="authors")
    model.adopt(wanted)
    assert model.tuning().values == {**wanted.values, "gamma_4": gamma}
    assert torch.equal(model(x), live)


def test_a_session_moves_a_placed_threshold_live() -> None:
    """Through the general path: encoder kept, a new value is a new answer and never a stale one."""
    model = shaken(made(TUNED))
    session = Session(model, "cpu", card=Card(preprocessing=Preprocessing(intensity="unit")))
    image = np.random.default_rng(1).random((1, 32, 48)).astype(np.float32)
    session.set_image(image)
    first = session.predict(0).logits.copy()
    encoded: list[int] = []
    model.encoder.blocks[0].register_forward_hook(lambda *_: encoded.append(1))
    for value in (0.0, 0.02, 0.0):
        live = session.retune(0, session.tuning.replace(threshold_4=value)).logits
        assert encoded == []
        by_hand = shaken(made(TUNED))
        module_of(by_hand, "smooth").threshold = value
        other = Session(by_hand, "cpu", card=Card(preprocessing=Preprocessing(intensity="unit")))
        other.set_image(image)
        np.testing.assert_array_equal(live, other.predict(0).logits)
        assert value or not np.array_equal(live, first)


def test_the_fusing_form_gets_a_second_map_where_there_is_one() -> None:
    """At ``up`` the deeper map asks the skip, at ``skip`` the skip asks the decoder's map."""
    model = shaken(made("up[1]=ann:variant=afnb; skip[0]=ann:variant=afnb; bottleneck=ann"))
    asked: dict[str, tuple[Tensor, ...]] = {}
    for placed in model.placed:
        where = str(placed.slot)  # type: ignore[union-attr]
        placed.module.register_forward_hook(  # type: ignore[union-attr]
            lambda _, inputs, __, where=where: asked.update({where: inputs})
        )
    x = torch.randn(1, 1, *PADDED)
    encoded = model.encode(x)
    model(x)
    assert {where: len(inputs) for where, inputs in asked.items()} == {
        "up[1]": 2,
        "skip[0]": 2,
        "bottleneck": 1,
    }
    assert torch.equal(asked["up[1]"][1], model._down(1, encoded.skips[0]))
    assert asked["skip[0]"][0].shape == asked["skip[0]"][1].shape
    assert not torch.equal(asked["skip[0]"][0], asked["skip[0]"][1])
    alone = made("up[1]=ann:variant=afnb")
    assert alone(x).shape == (1, 1, *PADDED)
