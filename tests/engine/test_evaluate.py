"""``evaluate`` and ``sweep`` over files on disk."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from napari_attnseg.engine.evaluate import evaluate, judge_all, read_pair, summarize
from napari_attnseg.engine.metrics import count, dice, figures
from napari_attnseg.engine.session import Session
from napari_attnseg.engine.sweep import THRESHOLDS, plot, sweep, to_markdown
from napari_attnseg.errors import InputError

RNG = np.random.default_rng(6)
Pairs = list[tuple[Path, Path]]


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Three small images of different size with random masks."""
    made = []
    for i, shape in enumerate([(31, 45), (24, 24), (17, 40)]):
        image, mask = tmp_path / f"{i}.png", tmp_path / f"{i}_mask.png"
        Image.fromarray(RNG.integers(0, 256, shape).astype(np.uint8)).save(image)
        Image.fromarray((RNG.random(shape) > 0.5).astype(np.uint8) * 255).save(mask)
        made.append((image, mask))
    return made


def by_hand(session: Session, pairs: Pairs) -> list[float]:
    found = []
    for image, mask in pairs:
        session.set_image(np.asarray(Image.open(image)))
        reference = (np.asarray(Image.open(mask)) > 0).astype(np.uint8)
        found.append(dice(count(session.predict().labels, reference)))
    return found


def test_evaluate_means_over_images(tiny_checkpoint: Path, pairs: Pairs) -> None:
    result = evaluate(tiny_checkpoint, pairs, "cpu")
    expected = by_hand(Session(tiny_checkpoint, "cpu"), pairs)
    assert result["n"] == 3
    assert result["dice"] == pytest.approx(np.mean(expected))
    assert [row["dice"] for row in result["per_image"]] == pytest.approx(expected)
    assert [row["name"] for row in result["per_image"]] == ["0.png", "1.png", "2.png"]
    names = {"dice", "iou", "miou", "precision", "recall", "accuracy", "specificity", "f1", "auc"}
    assert names <= result.keys()
    assert names == result["pooled"].keys()
    assert json.loads(json.dumps(result)) == result


def test_pooled_figures_are_of_all_pixels(tiny_checkpoint: Path, pairs: Pairs) -> None:
    session = Session(tiny_checkpoint, "cpu")
    judged = list(judge_all(session, pairs))
    total = judged[0].counts + judged[1].counts + judged[2].counts
    assert total.total == 31 * 45 + 24 * 24 + 17 * 40
    pooled = summarize(judged)["pooled"]
    assert {k: pooled[k] for k in figures(total)} == figures(total)


def test_evaluate_follows_the_tuning(tiny_checkpoint: Path, pairs: Pairs) -> None:
    session = Session(tiny_checkpoint, "cpu")
    all_in = evaluate(session, pairs, tuning=session.tuning.replace(cut=0.0))
    assert all_in["recall"] == 1.0
    assert all_in["specificity"] == 0.0


def test_a_volume_counts_as_one_image(tiny_checkpoint: Path, tmp_path: Path) -> None:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    data = RNG.integers(-100, 300, (20, 17, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "ct.nii.gz")
    mask = (RNG.random(data.shape) > 0.5).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, affine), tmp_path / "ct_seg.nii.gz")
    result = evaluate(tiny_checkpoint, [(tmp_path / "ct.nii.gz", tmp_path / "ct_seg.nii.gz")])
    assert result["n"] == 1
    session = Session(tiny_checkpoint, "cpu")
    session.set_image(tmp_path / "ct.nii.gz")
    labels = np.stack([p.labels for _, p in session.run()])
    view = mask.transpose(2, 1, 0)
    assert result["dice"] == pytest.approx(dice(count(labels, view)))


def test_size_mismatch_names_both_files(tiny_checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b.png is \(1, 8, 9\) but a.png is \(1, 9, 8\)"):
        evaluate(tiny_checkpoint, [(tmp_path / "a.png", tmp_path / "b.png")])
    with pytest.raises(InputError, match="at least one pair"):
        evaluate(tiny_checkpoint, [])


def test_sweep_takes_one_encoder_pass_per_image(tiny_checkpoint: Path, pairs: Pairs) -> None:
    session = Session(tiny_checkpoint, "cpu")
    rows = sweep(session, pairs)
    assert [row["threshold"] for row in rows] == list(THRESHOLDS)
    counts = session.pipeline.chain.counts
    assert counts["encode"] == counts["attend"] == 3
    for row in (rows[0], rows[-1]):
        same = evaluate(
            tiny_checkpoint, pairs, "cpu", session.tuning.replace(threshold=row["threshold"])
        )
        for name in ("dice", "iou", "precision", "recall", "accuracy", "f1"):
            assert row[name] == pytest.approx(same[name], abs=1e-12)


def test_sweep_says_how_much_of_the_mask_moves(tiny_checkpoint: Path, pairs: Pairs) -> None:
    session = Session(tiny_checkpoint, "cpu")
    session.set_image(np.asarray(Image.open(pairs[0][0])))
    step = np.asarray(session.predict().step)
    middle = float(np.median(step))
    a = session.predict(0, session.tuning.replace(threshold=middle)).labels
    b = session.predict(0, session.tuning.replace(threshold=2.0)).labels
    rows = sweep(session, pairs[:1], thresholds=(middle, 2.0))
    assert rows[0]["changed"] == pytest.approx((a != b).sum() / (b > 0).sum())
    assert rows[1]["changed"] == 0


def test_table_and_plot(tmp_path: Path) -> None:
    base = {"dice": 0.9, "accuracy": 0.8, "precision": 0.7, "recall": 0.6, "f1": 0.9, "n": 3}
    rows = [
        {"threshold": 0.1, "iou": 0.5, "changed": 0.12345, **base},
        {"threshold": 0.2, "iou": 0.6, "changed": 0.0, **base},
        {"threshold": 2.0, "iou": 0.4, "changed": 0.0, **base},
    ]
    lines = to_markdown(rows).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| 0.1 | 0.5000 |")
    assert "**0.6000**" in lines[3]
    assert lines[4].startswith("| 2 (plain)")
    assert "12.35 %" in lines[2]
    plot(rows, tmp_path / "sweep.png")
    assert Image.open(tmp_path / "sweep.png").size[0] > 800


def test_a_mask_stored_the_other_way_round_is_turned(tmp_path: Path) -> None:
    ids = (RNG.random((7, 11, 3)) > 0.5).astype(np.uint8)
    turned = np.diag([-1.0, 1.0, 1.0, 1.0])
    turned[0, 3] = len(ids) - 1  # the same places in millimetres
    nib.save(nib.Nifti1Image(ids.astype(np.float32), np.eye(4)), tmp_path / "image.nii")
    nib.save(nib.Nifti1Image(ids, np.eye(4)), tmp_path / "same.nii")
    nib.save(nib.Nifti1Image(np.ascontiguousarray(ids[::-1]), turned), tmp_path / "turned.nii")
    for name in ("same.nii", "turned.nii"):
        volume, reference = read_pair(tmp_path / "image.nii", tmp_path / name)
        np.testing.assert_array_equal(reference, volume.view)
