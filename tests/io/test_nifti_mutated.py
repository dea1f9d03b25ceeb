"""Headers that were hit by a fault: one sentence, a correct read, or a note; never a surprise.

The oracle is nibabel's own reading of the same bytes, which shares no step after the parsing of
the header with ours (it maps the file and scales by itself).
"""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from napari_attnseg.errors import InputError
from napari_attnseg.io.image import image_size, read_image, read_mask
from napari_attnseg.io.volume import Volume
from nifti_spaces import SHAPE, Space, affine_of, mm_affine, write

AFFINE = affine_of((1, 0, 2), (1, -1, 1), degrees=(5, -7, 3))
BASES = (
    Space(AFFINE, 2, 1, AFFINE),
    Space(AFFINE, 0, 1, AFFINE, dtype="uint8"),
    Space(AFFINE, 4, 0, AFFINE, dtype="float32", slope=2.0, inter=-3.0),
    Space(AFFINE, 0, 0, AFFINE, dtype="int32"),
    Space(AFFINE, 1, 1, AFFINE, order=">"),
    Space(AFFINE, 1, 1, AFFINE, two=True),
)
ODD = (0, 1, -1, 2, 3, 7, 8, 255, 32767, -32768, 65535)
ODD_FLOATS = (0.0, -1.0, np.nan, np.inf, -np.inf, 1e38, 1e-38, 352.5, 16.0, 1e9)


def mutate(raw: bytearray, space: Space, rng: np.random.Generator) -> str:
    """Hit one field with an odd value, or one to four bytes at random; says which."""
    kind = nib.Nifti2Header if space.two else nib.Nifti1Header
    layout = kind.template_dtype.newbyteorder(space.order)
    if rng.random() < 0.4:
        places = rng.integers(0, layout.itemsize, int(rng.integers(1, 5)))
        for place in places:
            raw[place] ^= int(rng.integers(1, 256))
        return f"bytes {places}"
    header = np.frombuffer(bytes(raw[: layout.itemsize]), layout).copy()
    numbers = [n for n in layout.names if layout[n].base.kind in "if"]
    name = numbers[rng.integers(len(numbers))]
    field = header[name].reshape(-1)
    at = int(rng.integers(field.size))
    if field.dtype.kind == "f":
        field[at] = ODD_FLOATS[rng.integers(len(ODD_FLOATS))]
    else:
        odd = ODD[rng.integers(len(ODD))]
        field[at] = np.array(odd).astype(field.dtype)
    header[name] = field.reshape(header[name].shape)
    raw[: layout.itemsize] = header.tobytes()
    return f"{name}[{at}] = {field[at]}"


def mutants(count: int, folder: Path) -> Iterator[tuple[str, Path, Path, Space]]:
    """(what was done, mutated file, the same not gzipped, the space it was)."""
    rng = np.random.default_rng(20)
    for number in range(count):
        space = BASES[number % len(BASES)]
        scan = folder / "scan.nii"
        write(scan, space)
        raw = bytearray(scan.read_bytes())
        done = mutate(raw, space, rng)
        scan.write_bytes(raw)
        path = scan
        if number // len(BASES) % 2:
            path = folder / "scan.nii.gz"
            path.write_bytes(gzip.compress(raw, 1))
        yield f"{number}: {done}", path, scan, space


def same(volume: Volume, data: np.ndarray, affine: np.ndarray) -> bool:
    """Whether a volume holds these values in this place."""
    found = volume.data.reshape(data.shape) if volume.data.size == data.size else volume.data
    return (
        found.shape == data.shape
        and np.allclose(found, data, rtol=1e-5, equal_nan=True)
        and np.array_equal(volume.geometry.affine, affine)
    )


def judge(done: str, path: Path, plain: Path, was: Volume) -> str:
    """``"refused"``, ``"unhurt"`` or ``"other"`` (the header's new word, as nibabel reads it)."""
    said = ""
    try:
        volume = read_image(path, 0)
    except InputError as error:
        said = str(error)
    if said:
        assert "\n" not in said, done
        assert path.name in said or "affine" in said, (done, said)
        return "refused"
    if same(volume, was.data, was.geometry.affine):
        return "unhurt"
    theirs = nib.load(plain)
    data = np.asarray(theirs.dataobj)
    data = data.reshape((*data.shape[:3], -1))[..., 0] if data.ndim > 3 else data
    if data.dtype.names:
        data = np.stack([data[c] for c in "RGB"], -1)
    affine = mm_affine(theirs)
    assert same(volume, data, affine), done
    if not np.array_equal(affine, theirs.affine):
        assert "measured and shown in millimetres" in volume.note, done
    if volume.data.shape != was.data.shape:  # the voxels stand elsewhere: never in silence
        assert "after the voxels" in volume.note, done
    return "other"


def run(count: int, folder: Path) -> dict[str, int]:
    folder.joinpath("whole").mkdir()
    originals = {}
    for space in BASES:
        write(folder / "whole" / "scan.nii", space)
        originals[id(space)] = read_image(folder / "whole" / "scan.nii")
    found = {"refused": 0, "unhurt": 0, "other": 0}
    for done, path, plain, space in mutants(count, folder):
        found[judge(done, path, plain, originals[id(space)])] += 1
    return found


def test_sixty_mutated_headers(tmp_path):
    found = run(60, tmp_path)
    assert min(found.values()) > 0


@pytest.mark.slow
def test_a_thousand_mutated_headers(tmp_path):
    found = run(1000, tmp_path)
    assert sum(found.values()) == 1000
    assert min(found.values()) > 100


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("two", [False, True])
@pytest.mark.parametrize("edge", [65535, 2**40])
def test_100_kb_that_claim_a_giant_are_refused_before_memory_is_taken(tmp_path, zipped, two, edge):
    space = replace(BASES[0], two=two)
    write(tmp_path / "a.nii", space)
    raw = bytearray(tmp_path.joinpath("a.nii").read_bytes())
    if two:
        raw[16:48] = struct.pack("<4q", 3, edge, edge, edge)
    else:
        raw[40:48] = struct.pack("<4H", 3, *[min(edge, 65535)] * 3)
    raw += np.random.default_rng(0).bytes(100_000 - len(raw))
    path = tmp_path / ("a.nii.gz" if zipped else "a.nii")
    path.write_bytes(gzip.compress(raw) if zipped else raw)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"claims .* but has only|no voxels|damaged"):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_a_truncated_gz_is_said_to_be_cut(tmp_path, share):
    write(tmp_path / "a.nii", BASES[0])
    whole = gzip.compress(tmp_path.joinpath("a.nii").read_bytes())
    path = tmp_path / "a.nii.gz"
    path.write_bytes(whole[: int(share * len(whole))])
    for read in (read_image, read_mask, image_size):
        if read is image_size and share > 0.5:
            continue  # the header is whole: the size is known
        with pytest.raises(InputError, match=r"damaged|cut short|truncated"):
            read(path)


@pytest.mark.parametrize("how", ["replaced", "overwritten", "removed"])
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch, how, read):
    """Between header and voxels the file really becomes another one of the same size."""
    from napari_attnseg.io import nifti

    path, other = tmp_path / "a.nii", tmp_path / "b.nii"
    write(path, replace(BASES[1], seed=1))
    write(other, replace(BASES[1], seed=2, second=affine_of((2, 1, 0), (1, 1, 1))))
    true_read = nifti._read_raw

    def late(*job):
        if how == "replaced":
            other.replace(path)
        elif how == "overwritten":
            path.write_bytes(other.read_bytes())
        else:
            path.unlink()
        return true_read(*job)

    monkeypatch.setattr(nifti, "_read_raw", late)
    with pytest.raises(InputError, match=r"a\.nii was replaced, changed or removed"):
        read(path)


def test_more_bytes_than_the_header_claims_are_told(tmp_path):
    path = tmp_path / "a.nii"
    values = write(path, BASES[0])
    assert read_image(path).note == ""
    path.write_bytes(path.read_bytes() + bytes(2000))
    volume = read_image(path)
    assert np.array_equal(volume.data, values)
    assert volume.note.startswith("2.0 KB after the voxels are left out")
    many = replace(BASES[0], shape=(*SHAPE, 3))
    write(path, many)
    assert [read_image(path, k).note for k in range(3)] == [f"volume {k} of 3" for k in range(3)]


def test_a_qform_that_is_no_rotation_is_refused_and_not_a_crash(tmp_path):
    path = tmp_path / "a.nii"
    write(path, BASES[1])
    raw = bytearray(path.read_bytes())
    raw[256:268] = struct.pack("<3f", 1.0, 1.0, 1.0)
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"header of a\.nii is damaged"):
        read_image(path)


def test_type_and_bits_that_contradict_each_other_are_refused(tmp_path):
    path = tmp_path / "a.nii"
    write(path, BASES[0])
    raw = bytearray(path.read_bytes())
    raw[70:72] = struct.pack("<h", 2)  # uint8, while bitpix says 16
    path.write_bytes(raw)
    with pytest.raises(InputError, match="has 8 bits, its header says 16"):
        read_image(path)
