"""Masks made again from the file alone: real images, shipped models, formats, refusals."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from napari_attnseg.cards import shipped_checkpoints
from napari_attnseg.cli import main
from napari_attnseg.engine.reproduce import Reproduced, reproduce
from napari_attnseg.engine.session import Session
from napari_attnseg.errors import AttnSegError, CheckpointError, InputError
from napari_attnseg.io.comment import comment_of
from napari_attnseg.io.export import write_mask
from napari_attnseg.io.image import read_image
from napari_attnseg.io.provenance import complete, digest_of, edits, unpacked
from napari_attnseg.io.volume import Volume

PHANTOM = Path(__file__).resolve().parents[2] / "sample_data" / "ct_phantom.nii.gz"
MODEL = "nuclei_smooth_unet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A photograph of coins, and its mask in three formats; a few slices of the CT phantom."""
    import nibabel as nib
    from skimage.data import coins

    place = tmp_path_factory.mktemp("reproduce")
    Image.fromarray(coins()[:130, :170]).save(place / "coins.png")
    made(place / "coins.png", place / "coins_mask.png", MODEL, threshold=0.3)
    made(place / "coins.png", place / "coins_mask.tif", MODEL, threshold=0.3)
    scan: Any = nib.load(PHANTOM)
    nib.save(scan.slicer[:, :, 12:15], place / "scan.nii.gz")
    made(place / "scan.nii.gz", place / "scan_mask.nii.gz", "ct_organs_smooth_unet")
    return place


def made(
    image: Path, mask: Path, model: str, change: Any = lambda ids: None, **values: Any
) -> np.ndarray:
    """Segment ``image`` and write the mask as the command line does."""
    session, source = Session(model), read_image(image)
    session.set_image(source)
    tuning = session.tuning.replace(**values)
    ids = np.stack([answer.labels for _, answer in session.run(tuning=tuning)])
    told = session.provenance(tuning)
    if changed := change(ids):
        told |= changed
    write_mask(mask, ids, source, provenance=told)
    assert ids.any()
    return ids


@pytest.mark.parametrize("mask", ["coins_mask.png", "coins_mask.tif", "scan_mask.nii.gz"])
def test_every_format_is_made_again_bit_for_bit(folder: Path, mask: str) -> None:
    found = reproduce(folder / mask)
    assert found.equal
    assert (found.different, found.edited, found.edited_different) == (0, 0, 0)
    assert found.voxels == read_image(folder / found.image).view.size
    assert found.image in ("coins.png", "scan.nii.gz")


def test_the_file_says_everything_and_nothing_private(folder: Path) -> None:
    told = comment_of(folder / "scan_mask.nii.gz")["provenance"]
    assert told["source"]["file"] == "scan.nii.gz"
    assert told["source"]["digest"] == digest_of(read_image(folder / "scan.nii.gz"))
    assert {"model", "model_digest", "spec", "tuning", "preprocessing", "device", "tile"} <= set(
        told
    )
    assert {"python", "torch", "numpy", "nibabel", "napari-attnseg"} <= set(told["versions"])
    assert told["date"] == "2023-11-14T22:13:20+00:00"  # that of the tests
    assert told["tuning"]["threshold"] > 0
    text = json.dumps(told)
    for private in (str(folder), str(Path.home()), str(PHANTOM.parent)):
        assert private not in text


def test_a_changed_pixel_is_reported_with_its_slice(folder: Path, tmp_path: Path) -> None:
    def flip(ids: np.ndarray) -> None:
        ids[2, 40, 41] ^= 1

    made(folder / "scan.nii.gz", tmp_path / "m.nii.gz", "ct_organs_smooth_unet", flip)
    found = reproduce(tmp_path / "m.nii.gz", image=folder / "scan.nii.gz")
    assert not found.equal
    assert (found.different, found.slices) == (1, (2,))


def test_hand_edits_are_told_apart(folder: Path, tmp_path: Path) -> None:
    def paint(ids: np.ndarray) -> dict[str, Any]:
        mask = np.zeros(ids.shape, bool)
        mask[0, 10:14, 20:29] = True
        before = ids[mask].copy()
        ids[mask] = 1
        paint.differ = int((before != 1).sum())  # type: ignore[attr-defined]
        return {"edits": edits(enumerate(mask), mask[0].size)}

    made(folder / "coins.png", tmp_path / "m.png", MODEL, paint)
    found = reproduce(tmp_path / "m.png", image=folder / "coins.png")
    assert found.equal
    assert (found.edited, found.edited_different) == (36, paint.differ)  # type: ignore[attr-defined]
    assert found.edited_different


def test_another_image_is_refused(folder: Path, tmp_path: Path) -> None:
    pixels = np.array(Image.open(folder / "coins.png"))
    pixels[3, 4] ^= 1
    Image.fromarray(pixels).save(tmp_path / "coins.png")
    with pytest.raises(InputError, match="not the image that the mask was made from"):
        reproduce(folder / "coins_mask.png", image=tmp_path / "coins.png")
    (tmp_path / "m.png").write_bytes((folder / "coins_mask.png").read_bytes())
    (tmp_path / "coins.png").unlink()
    with pytest.raises(InputError, match="--image FILE"):
        reproduce(tmp_path / "m.png")


def test_another_model_is_refused(folder: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="another model than the one that made"):
        reproduce(folder / "coins_mask.png", model=str(tiny_checkpoint))
    made(folder / "coins.png", folder / "own_mask.png", str(tiny_checkpoint), cut=0.4)
    with pytest.raises(CheckpointError, match="--model FILE"):
        reproduce(folder / "own_mask.png")
    assert reproduce(folder / "own_mask.png", model=str(tiny_checkpoint)).equal
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(shipped_checkpoints()[MODEL].read_bytes())
    assert reproduce(folder / "coins_mask.png", model=str(renamed)).equal


def test_the_right_voxels_in_another_place_are_refused(folder: Path, tmp_path: Path) -> None:
    """Another program moved the mask by 5 mm; or it stored the same mask the other way round."""
    import nibabel as nib

    mask: Any = nib.load(folder / "scan_mask.nii.gz")
    ids, moved = np.asarray(mask.dataobj), mask.affine.copy()
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(ids, moved, mask.header), tmp_path / "moved.nii.gz")
    with pytest.raises(InputError, match=r"moved\.nii\.gz does not lie where its image lies"):
        reproduce(tmp_path / "moved.nii.gz", image=folder / "scan.nii.gz")
    turn = np.diag([-1.0, 1, 1, 1])
    turn[0, 3] = len(ids) - 1
    turned = nib.Nifti1Image(ids[::-1], mask.affine @ turn, mask.header)
    nib.save(turned, tmp_path / "turned.nii.gz")
    assert reproduce(tmp_path / "turned.nii.gz", image=folder / "scan.nii.gz").equal


def test_masks_that_say_nothing_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("m.png", "m.tif"):
        ids = np.ones((5, 7), np.uint8)
        Image.fromarray(ids).save(tmp_path / "m.png")
        tifffile.imwrite(tmp_path / "m.tif", ids)
        with pytest.raises(InputError, match="does not say how it was made"):
            reproduce(tmp_path / name)
    with pytest.raises(AttnSegError):
        reproduce(tmp_path / "absent.png")
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(AttnSegError):
        reproduce(tmp_path / "no.png")


def test_the_command_says_it_and_exits_by_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["napari-attnseg", "reproduce", *words])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    assert run(str(folder / "coins_mask.png")) == 0
    assert "equal, bit for bit" in capsys.readouterr().out
    assert run(str(folder / "coins_mask.tif"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["equal"] is True

    def flip(ids: np.ndarray) -> None:
        ids[0, 5, 6:9] ^= 1

    made(folder / "coins.png", folder / "flipped_mask.png", MODEL, flip)
    assert run(str(folder / "flipped_mask.png")) == 1
    assert "3 of 22,100 voxels differ" in capsys.readouterr().out


def test_digests_follow_pixels_and_space_alone(tmp_path: Path) -> None:
    pixels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    same = Volume(pixels), Volume(np.stack([pixels] * 3, -1), rgb=True), Volume(pixels[:, ::1])
    assert len({digest_of(v) for v in same}) == 1
    other = (
        Volume(pixels),
        Volume(pixels.T.copy()),
        Volume(pixels.astype(np.uint16)),
        Volume(pixels, pixel_mm=(1.0, 0.5, 0.5)),
        Volume(pixels ^ 1),
        Volume(np.stack([pixels, pixels, pixels ^ 1], -1), rgb=True),
    )
    assert len({digest_of(v) for v in other}) == len(other)


def test_the_date_is_now_unless_it_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    date = datetime.fromisoformat(complete({}, None)["date"])
    assert abs((datetime.now(UTC) - date).total_seconds()) < 5
    assert complete({"date": "then"}, None)["date"] == "then"


def test_runs_come_back_and_damage_is_told() -> None:
    rng = np.random.default_rng(0)
    for share in (0.01, 0.5, 1.0):
        mask = rng.random((3, 7, 11)) < share
        mask[1] = False
        told = edits(enumerate(mask), 77)
        assert told is not None
        np.testing.assert_array_equal(unpacked(told["where"], mask.size), np.flatnonzero(mask))
        with pytest.raises(ValueError, match=r"outside|overlap"):
            unpacked(told["where"], 50)
    assert edits(enumerate(np.zeros((2, 3, 4), bool)), 12) is None


def test_steps_that_were_asked_for_are_repeated(folder: Path, tmp_path: Path) -> None:
    from napari_attnseg.io.tidying import FILL_3D, KEEP_LARGEST, tidy

    def after(ids: np.ndarray) -> dict[str, Any]:
        tidied = tidy(ids, (KEEP_LARGEST, FILL_3D))
        assert (tidied != ids).any()
        ids[:] = tidied
        return {"postprocess": [KEEP_LARGEST, FILL_3D]}

    made(folder / "coins.png", tmp_path / "m.tif", MODEL, after)
    found: Reproduced = reproduce(tmp_path / "m.tif", image=folder / "coins.png")
    assert found.equal
