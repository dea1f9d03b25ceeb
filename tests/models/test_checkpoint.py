"""Checkpoints round-trip; damaged, foreign and newer ones get one sentence and never run code."""

from __future__ import annotations

import errno
import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from napari_attnseg import create_model, load_checkpoint, save_checkpoint
from napari_attnseg.cards import CARD_KEY, Card, read_card
from napari_attnseg.errors import CheckpointError
from napari_attnseg.settings import Preprocessing, Tuning


def make_model(**kw):
    torch.manual_seed(0)
    options = {"width": 0.125, "stride": 8, "rule": "authors", **kw}
    model = create_model("smooth_unet", in_channels=1, classes=1, **options)
    with torch.no_grad():
        model.attention.gamma.fill_(0.6)
    return model.eval()


CARD = Card(
    preprocessing=Preprocessing(intensity="window", low=-160, high=240),
    class_names=("background", "liver"),
    class_colors=("#000000", "#ff8800"),
    tuning=Tuning.of(cut=0.4, threshold=0.3, rule="paper", gamma=0.6),
    title="Test",
    text="Not for clinical use.",
    provenance={"command": "napari-attnseg train", "seed": 3},
    metrics={"dice": 0.9},
)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "m.safetensors", make_model(), CARD)
    return tmp_path / "m.safetensors"


def rewrite(path: Path, **changes: object) -> None:
    """The same tensors under a changed card (``None`` removes an entry)."""
    data = read_card(path).to_json() | changes
    data = {k: v for k, v in data.items() if v is not None}
    save_file(load_file(path), path, {CARD_KEY: json.dumps(data)})


def refused(path: Path) -> str:
    """The sentence with which loading is refused."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_round_trip(saved: Path) -> None:
    model = make_model()
    loaded = load_checkpoint(saved)
    x = torch.rand(1, 1, 33, 47)
    with torch.no_grad():
        same = loaded.model(x, threshold=0.1, rule="authors")
        assert torch.equal(same, model(x, threshold=0.1, rule="authors"))
    assert not loaded.model.training
    assert loaded.path == saved
    for name in ("preprocessing", "class_names", "class_colors", "tuning", "title", "text"):
        assert getattr(loaded.card, name) == getattr(CARD, name)
    assert loaded.card.provenance == CARD.provenance
    assert loaded.card.metrics == CARD.metrics


def test_what_saving_fills_in(saved: Path) -> None:
    card, model = read_card(saved), make_model()
    assert card.spec == model.spec.to_json()
    assert card.parameters == sum(p.numel() for p in model.parameters())
    assert len(card.digest) == 64
    values = {t["name"]: t["default"] for t in card.tunables}
    assert values == {"threshold": 0.3, "rule": "paper", "gamma": 0.6}


def test_the_cards_tuning_is_the_loaded_models(saved: Path) -> None:
    model = load_checkpoint(saved).model
    assert (model.attention.threshold, model.attention.rule) == (0.3, "paper")


def test_a_card_without_tuning_gets_the_models(tmp_path: Path) -> None:
    card = save_checkpoint(tmp_path / "m.safetensors", make_model(threshold=0.15), Card())
    assert card.tuning.get("threshold") == 0.15
    assert card.tuning.get("rule") == "authors"


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.safetensors" for i in range(6)]
    for path in files:
        save_checkpoint(path, make_model(), CARD)
    assert len({path.read_bytes() for path in files}) == 1


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1000, -1])
def test_truncated(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    assert "m.safetensors is damaged" in refused(saved)


def test_something_appended(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"x")
    assert "longer than its header says" in refused(saved)


def test_a_flipped_bit_in_the_numbers(saved: Path) -> None:
    raw = bytearray(saved.read_bytes())
    raw[-50] ^= 1
    saved.write_bytes(raw)
    assert "its numbers are not those that were saved" in refused(saved)


class Trap:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("protocol", [2, 4, 5, "zip"])
def test_a_pickle_named_safetensors_is_named_and_never_opened(
    tmp_path: Path, protocol: int | str
) -> None:
    mark, path = tmp_path / "ran", tmp_path / "m.safetensors"
    if protocol == "zip":
        torch.save({"x": Trap(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(mark), protocol=protocol))
    assert "is a Python pickle" in refused(path)
    assert not mark.exists()


def test_a_newer_version(saved: Path) -> None:
    rewrite(saved, format=2)
    assert "card format 2, but this version reads up to 1; update" in refused(saved)


def test_tensors_alone_have_no_card(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
    assert "no model card" in refused(tmp_path / "m.safetensors")


@pytest.mark.parametrize("name", ["preprocessing", "tuning", "format"])
def test_an_incomplete_card(saved: Path, name: str) -> None:
    rewrite(saved, **{name: None})
    assert "is damaged: its model card" in refused(saved)


def test_an_unknown_model(saved: Path) -> None:
    rewrite(saved, spec={"name": "future_net", "in_channels": 1, "classes": 1})
    assert "names a model this installation cannot build: got model 'future_net'" in refused(saved)


@pytest.mark.parametrize("spec", [{}, {"name": "smooth_unet", "in_channels": "x", "classes": 1}])
def test_a_broken_spec(saved: Path, spec: dict) -> None:
    rewrite(saved, spec=spec)
    assert "cannot build" in refused(saved)


def test_tensors_of_another_network(saved: Path) -> None:
    spec = dict(read_card(saved).spec)
    rewrite(saved, spec={**spec, "options": {**spec["options"], "width": 0.25}})
    assert "does not fit its own card" in refused(saved)
    rewrite(saved, spec={**spec, "options": {**spec["options"], "stride": 16}})
    assert "its card does not describe its network" in refused(saved)


@pytest.mark.parametrize(
    "header",
    [
        b"not json at all",
        b"[1, 2]",
        b'{"w": 3}',
        b'{"w": {"data_offsets": []}}',
        b'{"__metadata__": 3}',
    ],
)
def test_a_header_of_nonsense(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    assert "is damaged" in refused(path)


def test_absurd_header_lengths_allocate_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    assert "its header is longer than the file" in refused(path)


def test_neither_file_nor_shipped_name() -> None:
    assert "neither a checkpoint file nor a shipped name" in refused(Path("no_such_model"))


# --- writing --------------------------------------------------------------------------------------


def test_no_space_leaves_the_old_file_and_nothing_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(saved, make_model(), Card(title="new"))
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        save_checkpoint(tmp_path / "f" / "m.safetensors", make_model(), CARD)
