"""Cards: plain data both ways, found by name, read without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from napari_attnseg import cards
from napari_attnseg.cards import Card, read_card, resolve_checkpoint, shipped_checkpoints
from napari_attnseg.errors import CheckpointError
from napari_attnseg.settings import Preprocessing, Tuning


def test_plain_data_both_ways() -> None:
    card = Card(
        spec={"name": "smooth_unet", "classes": 4},
        preprocessing=Preprocessing(channels=3, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)),
        class_names=("background", "a", "b", "c"),
        tuning=Tuning.of(cut=0.3, threshold=0.2, rule="authors"),
        tunables=({"name": "threshold"},),
        metrics={"dice": 0.5},
    )
    data = card.to_json()
    assert json.loads(json.dumps(data)) == data
    assert Card.from_json(data) == card
    assert card.classes == 4


def test_names_that_a_later_version_adds_are_dropped() -> None:
    assert Card.from_json({**Card().to_json(), "invented_later": 1}) == Card()


def test_reading_a_card_needs_no_torch(tiny_checkpoint: Path) -> None:
    code = (
        "import sys; from napari_attnseg.cards import read_card; "
        f"print(read_card({str(tiny_checkpoint)!r}).title, "
        "sorted({'torch', 'numpy', 'safetensors'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "tiny []"


def test_shipped_checkpoints_have_names_and_cards() -> None:
    for name, path in shipped_checkpoints().items():
        assert path.name == f"{name}.safetensors"
        assert read_card(path).title
        assert resolve_checkpoint(name) == path


def test_resolve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"")
    monkeypatch.setattr(cards, "shipped_checkpoints", lambda: {"nice": Path("/p/nice.safetensors")})
    assert resolve_checkpoint(path) == path
    assert resolve_checkpoint(str(path)) == path
    assert resolve_checkpoint("nice") == Path("/p/nice.safetensors")
    with pytest.raises(CheckpointError, match=r"got nicer, which is neither .* \(nice\)"):
        resolve_checkpoint("nicer")


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither a checkpoint file"):
        resolve_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_card(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_card(tmp_path)
