"""What is said before Run: no word about images that suit, a word about each that does not."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from napari_attnseg.cards import Card, read_card, shipped_checkpoints
from napari_attnseg.io.image import read_image
from napari_attnseg.io.nifti_mapped import map_nifti
from napari_attnseg.io.suitability import (
    Doubt,
    facts_of,
    facts_of_volume,
    suitability,
    trained_spacing,
)
from napari_attnseg.settings import Preprocessing

CT = Card(preprocessing=Preprocessing(intensity="window", low=-160, high=240))
PICTURES = Card(preprocessing=Preprocessing(intensity="percentile", low=1, high=99))
RNG = np.random.default_rng(0)
SHAPE = (13, 70, 90)
MM = (2.0, 1.0, 1.0)


def scan() -> np.ndarray:
    """Air, and a body of soft tissue with some bone."""
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, 10:60, 10:80] = RNG.normal(40, 60, (13, 50, 70))
    hu[:, 30:34, 30:34] = 700
    return hu


def told(
    pixels: np.ndarray, card: Card, spacing: tuple[float, ...] = MM, **more: Any
) -> list[tuple[str, str]]:
    facts = facts_of(pixels, spacing_mm=spacing, **{"placed": True, **more})
    return [(d.severity, d.sentence) for d in suitability(facts, card)]


def test_a_scan_suits_a_model_of_scans() -> None:
    assert told(scan(), CT) == []
    assert told(scan().astype(np.float32), CT) == []
    assert told(np.clip(scan(), -160, 240), CT) == [], "clipped to the window: all the same to it"
    assert told(scan(), CT, (5.0, 0.7, 0.7)) == []


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.clip((scan() + 160) / 400 * 255, 0, 255).astype(np.uint8), "8-bit picture"),
        (np.clip((scan() + 160.0) / 400, 0, 1), "from 0 to 1"),
        (scan() + 1024, "shifted"),
        (np.maximum(scan() + 1024 + RNG.integers(-9, 9, SHAPE), 0), "shifted"),
        (RNG.integers(0, 400, SHAPE), "no CT in HU"),
    ],
)
def test_values_that_are_no_hounsfield_units(pixels: np.ndarray, words: str) -> None:
    ((severity, sentence),) = told(pixels, CT)
    assert severity == "wrong"
    assert words in sentence
    assert "-160 to 240" in sentence


def test_doubtful_values() -> None:
    lukewarm = RNG.normal(0, 90, SHAPE).clip(-400, 400)
    lukewarm[0, 0, 0] = -400
    ((severity, sentence),) = told(lukewarm, CT)
    assert severity == "doubt"
    assert "lowest is -400" in sentence
    bones = np.where(scan() > -900, 1500, -1000)
    ((severity, sentence),) = told(bones, CT)
    assert (severity, "hardly any value" in sentence) == ("doubt", True)
    assert [s for s, _ in told(np.full(SHAPE, -3), CT)] == ["doubt"]
    assert [s for s, _ in told(np.full(SHAPE, np.nan), CT)] == ["wrong"]
    ((severity, sentence),) = told(scan()[:1], PICTURES)
    assert (severity, "down to -1000" in sentence) == ("doubt", True)
    colour = RNG.integers(0, 255, (1, 70, 90, 3))
    assert told(colour, CT, (), rgb=True)[0][0] == "wrong"
    assert told(colour, PICTURES, (), rgb=True) == []


def test_pixels_of_another_size_than_in_training() -> None:
    data = {"spacing_mm": [[1.5, 0.8, 0.8], [5.0, 1.0, 1.0]]}
    card = replace(CT, provenance={"data": data})
    assert trained_spacing(card) == ((1.5, 0.8, 0.8), (5.0, 1.0, 1.0))
    for fits in (0.41, 0.9, 1.99):
        assert told(scan(), card, (3.0, fits, fits)) == []
    for strange in (0.39, 2.01):
        ((severity, sentence),) = told(scan(), card, (3.0, strange, strange))
        assert severity == "doubt"
        assert f"{strange:.3g} x {strange:.3g} mm" in sentence
        assert "0.8 x 0.8 to 1 x 1 mm" in sentence
    works_at = replace(card, preprocessing=replace(CT.preprocessing, spacing_mm=(1.0, 1.0)))
    assert told(scan(), works_at, (3.0, 4.0, 4.0)) == [], "it is resampled to what the model knows"
    ((severity, sentence),) = told(scan(), works_at, ())
    assert (severity, "pixel size is unknown" in sentence) == ("doubt", True)
    for broken in (None, 3, [[1.0]], [["a", "b"], ["c", "d"]], [[0, 0], [1, 1]]):
        assert trained_spacing(replace(CT, provenance={"data": {"spacing_mm": broken}})) is None


def test_slices_that_do_not_stand_as_in_training() -> None:
    ((severity, sentence),) = told(scan(), CT, (0.8, 5.0, 0.8))
    assert severity == "doubt"
    assert "5 x 0.8 mm" in sentence
    ((severity, sentence),) = told(scan(), CT, (), placed=False)
    assert (severity, "how the patient lies" in sentence) == ("note", True)
    ((severity, sentence),) = told(scan() + 1024, PICTURES)
    assert (severity, "on its own" in sentence) == ("note", True)
    assert told(scan()[:, :20, 10:60], CT)[0][0] == "doubt", "too small"


def test_the_gravest_comes_first() -> None:
    found = told((scan() + 1024)[:, ::4], CT, (1.0, 4.0, 1.0), placed=False)
    assert [severity for severity, _ in found] == ["wrong", "doubt", "doubt", "note"]


@pytest.mark.parametrize("name", list(shipped_checkpoints()))
def test_no_word_about_the_shipped_samples_and_the_models_that_suit_them(name: str) -> None:
    pytest.importorskip("napari")
    from napari_attnseg.viewer import samples

    card = read_card(shipped_checkpoints()[name])
    if card.preprocessing.intensity == "window":
        volume = read_image(samples.sample_file("ct_phantom.nii.gz"))
        assert suitability(facts_of_volume(volume), card) == []
        return
    for make in (samples.nuclei, samples.coins, samples.tissue):
        data, settings, _ = make()[0]
        facts = facts_of(np.asarray(data)[None], rgb=bool(settings.get("rgb")))
        assert suitability(facts, card) == [], make.__name__


def test_no_word_about_real_images_and_their_model(shared_data: Path) -> None:
    card = read_card(shipped_checkpoints()["ct_organs_smooth_unet"])
    scans = sorted((shared_data / "ct_totalsegmentator").rglob("*example_ct*.nii.gz"))
    assert len(scans) == 2
    for path in scans:
        doubts = suitability(facts_of_volume(read_image(path)), card)
        assert [d for d in doubts if d.severity != "note"] == [], path.name
    mr = read_image(shared_data / "ct_totalsegmentator" / "example_mr_sm.nii.gz")
    assert "no CT" in suitability(facts_of_volume(mr), card)[0].sentence
    pictures = read_card(shipped_checkpoints()["nuclei_smooth_unet"])
    for path in sorted((shared_data / "dsb2018").rglob("images/*.png"))[:20]:
        doubts = suitability(facts_of_volume(read_image(path)), pictures)
        assert doubts == [], path.name


def test_the_wrong_sample_is_noticed() -> None:
    pytest.importorskip("napari")
    from napari_attnseg.viewer import samples

    cards = {name: read_card(path) for name, path in shipped_checkpoints().items()}
    volume = facts_of_volume(read_image(samples.sample_file("ct_phantom.nii.gz")))
    found = suitability(volume, cards["nuclei_smooth_unet"])
    assert "choose a model for CT" in found[0].sentence
    flat = facts_of(np.asarray(samples.nuclei()[0][0])[None])
    assert suitability(flat, cards["ct_organs_smooth_unet"])[0].severity == "wrong"


def test_it_is_quick_on_a_large_volume_in_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nib.Nifti1Image(np.broadcast_to(np.int16(-700), (512, 512, 600)), np.eye(4)).to_filename(path)
    volume = map_nifti(path, lambda n: tmp_path)
    assert volume is not None
    times = []
    for _ in range(3):
        began = time.thread_time()
        doubts = suitability(facts_of_volume(volume), CT)
        times.append(time.thread_time() - began)
    assert isinstance(doubts[0], Doubt)
    assert min(times) < 0.05


def test_the_shipped_ct_model_brings_pixels_to_the_size_it_knows() -> None:
    """Trained on one scan of 3 mm: a fine scan is resampled, only one without a size is told."""
    path = shipped_checkpoints()["ct_organs_smooth_unet"]
    card = read_card(path)
    assert trained_spacing(card) == ((3.0, 3.0, 3.0), (3.0, 3.0, 3.0))
    assert card.preprocessing.spacing_mm == (3.0, 3.0, 3.0)
    for spacing in (0.7, 1.5, 6.1):
        assert not any("trained on" in s for _, s in told(scan(), card, (5.0, spacing, spacing)))
    assert any("the model works at 3 x 3 mm" in s for _, s in told(scan(), card, ()))
    other = replace(card, preprocessing=replace(card.preprocessing, spacing_mm=None))
    for spacing, fits in ((0.8, False), (1.4, False), (1.5, True), (6.0, True), (6.1, False)):
        sentences = [s for _, s in told(scan(), other, (5.0, spacing, spacing))]
        assert any("was trained on 3 x 3 mm" in s for s in sentences) is not fits, spacing
    from napari_attnseg.models.checkpoint import load_checkpoint

    load_checkpoint(path)  # raises when its numbers are not those of the card's digest
