"""The encoder against arithmetic by hand, and published weights from local files."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from napari_attnseg.errors import CheckpointError, InputError
from napari_attnseg.models.encoders import BasicBlock, ResNet18, load_encoder_weights
from napari_attnseg.models.weights import read_state_dict


def published(width: float = 1.0) -> dict[str, torch.Tensor]:
    """A state dict as published ones are: all four stages and the classifier."""
    torch.manual_seed(0)
    state = ResNet18(3, width, 32).state_dict()
    return {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize(("stride", "channels"), [(8, 128), (16, 256), (32, 512)])
def test_stride_and_channels(stride: int, channels: int) -> None:
    encoder = ResNet18(1, 1.0, stride).eval()
    with torch.no_grad():
        features = encoder(torch.rand(1, 1, 64, 96))
        shapes = [
            (1, c, 64 // s, 96 // s) for c, s in zip(encoder.channels, encoder.strides, strict=True)
        ]
    assert [f.shape for f in features] == shapes
    assert (encoder.channels[-1], encoder.stride) == (channels, stride)


@pytest.mark.parametrize(("inside", "outside", "stride"), [(3, 3, 1), (3, 5, 2), (4, 4, 2)])
def test_a_block_by_its_formula(inside: int, outside: int, stride: int) -> None:
    torch.manual_seed(1)
    block = BasicBlock(inside, outside, stride).double().eval()
    with torch.no_grad():
        for name, buffer in block.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
        for p in block.parameters():
            p.copy_(torch.randn_like(p))
        x = torch.randn(2, inside, 7, 9, dtype=torch.float64)

        def bn(y: torch.Tensor, m: torch.nn.BatchNorm2d) -> torch.Tensor:
            mean, var, a, b = (
                t.view(1, -1, 1, 1) for t in (m.running_mean, m.running_var, m.weight, m.bias)
            )
            return (y - mean) / (var + 1e-5).sqrt() * a + b

        y = bn(F.conv2d(x, block.conv1.weight, None, stride, 1), block.bn1).clamp(min=0)
        y = bn(F.conv2d(y, block.conv2.weight, None, 1, 1), block.bn2)
        shortcut = x
        if block.downsample is not None:
            conv, norm = block.downsample
            shortcut = bn(F.conv2d(x, conv.weight, None, stride), norm)
        torch.testing.assert_close(block(x.clone()), (y + shortcut).clamp(min=0))
    assert (block.downsample is None) == (stride == 1 and inside == outside)


# --- published weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_published_weights_load_from_a_local_file(tmp_path: Path, suffix: str) -> None:
    state, path = published(), tmp_path / f"resnet18{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    encoder = ResNet18(3)
    report = load_encoder_weights(encoder, path)
    assert report.ignored == ("fc.bias", "fc.weight")
    assert not report.missing
    assert not report.adapted
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert report.text == "120 tensors loaded, 2 ignored (fc.bias, fc.weight)"


def test_absent_stages_are_ignored_and_reported(tmp_path: Path) -> None:
    torch.save({"state_dict": published()}, tmp_path / "r.pt")
    report = load_encoder_weights(ResNet18(3, stride=8), tmp_path / "r.pt")
    assert len(report.loaded) == 60
    assert any(name.startswith("layer4") for name in report.ignored)
    assert not report.missing


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    state = published()
    del state["layer4.1.conv2.weight"]
    torch.save(state, tmp_path / "r.pt")
    report = load_encoder_weights(ResNet18(3), tmp_path / "r.pt")
    assert report.missing == ("layer4.1.conv2.weight",)
    assert "1 left random (layer4.1.conv2.weight)" in report.text


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channel_counts_keep_the_answer_on_grey(tmp_path: Path, channels: int) -> None:
    torch.save(published(), tmp_path / "r.pt")
    colour, other = ResNet18(3, stride=8).eval(), ResNet18(channels, stride=8).eval()
    load_encoder_weights(colour, tmp_path / "r.pt")
    report = load_encoder_weights(other, tmp_path / "r.pt")
    assert report.adapted == f"first convolution adapted from 3 to {channels} input channels"
    grey = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        a, b = colour(grey.expand(-1, 3, -1, -1)), other(grey.expand(-1, channels, -1, -1))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_weights_of_another_width_change_nothing(tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "r.pt")
    encoder = ResNet18(3, 0.5)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"conv1.weight is \(64, 3, 7, 7\)"):
        load_encoder_weights(encoder, tmp_path / "r.pt")
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())


def test_a_foreign_network_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "vgg.pt")
    with pytest.raises(CheckpointError, match=r"no ResNet-18 weights \(no tensor conv1.weight\)"):
        load_encoder_weights(ResNet18(3), tmp_path / "vgg.pt")


class Trap:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_code_in_a_pickle_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"conv1.weight": Trap(mark)}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        read_state_dict(tmp_path / "evil.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Trap(mark), protocol=2))
    with pytest.raises(CheckpointError, match=r"old\.pt"):
        read_state_dict(tmp_path / "old.pt")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read"),
        (b"PK\x03\x04 not a zip", "cannot be read"),
        (None, "does not exist"),
    ],
)
def test_unreadable_weights(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "w.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        read_state_dict(path)


def test_weights_that_are_no_state_dict(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        read_state_dict(tmp_path / "w.pt")


def test_bad_strides() -> None:
    with pytest.raises(InputError, match="got stride=7"):
        ResNet18(3, stride=7)
