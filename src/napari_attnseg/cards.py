"""Model cards: what a checkpoint is, read from its header with the standard library alone.

A checkpoint is a safetensors file: 8 bytes little-endian header length, a JSON header (tensor
names, types, shapes and byte ranges, and the metadata in which the card lies as JSON), then the
numbers. Reading a card never touches the numbers and never unpickles anything.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from napari_attnseg.errors import CheckpointError
from napari_attnseg.settings import Preprocessing, Tuning

FORMAT = 1
"""Version of the card's layout that this code writes; older ones are read, newer refused."""
CARD_KEY = "attnseg_card"
"""Name of the card in the safetensors metadata."""
MAX_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Card:
    """Everything a person or a dock needs to know about a checkpoint.

    ``spec``: ``ModelSpec`` as plain data. ``class_names``: background first. ``class_colors``:
    one ``"#rrggbb"`` per class, or empty. ``tuning``: the values at which the model was trained
    or validated. ``tunables``: ``asdict`` of each :class:`~napari_attnseg.settings.Tunable`.
    ``provenance``: command, data, split, seed, versions, date, settings. ``metrics``: name to
    figure on the test part. ``parameters``: numbers in the network. ``digest``: SHA-256 of all
    tensors. The last two and ``tunables`` are filled in by ``save_checkpoint``.
    """

    format: int = FORMAT
    spec: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ("background", "foreground")
    class_colors: tuple[str, ...] = ()
    tuning: Tuning = field(default_factory=Tuning)
    tunables: tuple[Mapping[str, Any], ...] = ()
    title: str = ""
    text: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    parameters: int = 0
    digest: str = ""

    @property
    def classes(self) -> int:
        """Output channels of the network: 1 for one foreground class."""
        return int(self.spec.get("classes", 1))

    def to_json(self) -> dict[str, Any]:
        """Plain data (lists for tuples); the inverse of :meth:`from_json`."""
        data = asdict(self)
        data["preprocessing"] = self.preprocessing.to_json()
        data["tuning"] = self.tuning.to_json()
        plain: dict[str, Any] = json.loads(json.dumps(data))
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Card:
        """Build from plain data; raises ``KeyError``/``TypeError``/``ValueError`` if it is not
        a card. Unknown names are dropped: a later minor version may add some."""
        known = {f.name for f in fields(cls)}
        d = {name: value for name, value in data.items() if name in known}
        d["preprocessing"] = Preprocessing.from_json(d["preprocessing"])
        d["tuning"] = Tuning.from_json(d["tuning"])
        for name in ("class_names", "class_colors", "tunables"):
            d[name] = tuple(d.get(name, ()))
        return cls(**d)


def read_header(path: Path) -> dict[str, Any]:
    """The JSON header of a safetensors file, checked against the file's length.

    Raises ``CheckpointError`` with one sentence for a missing, foreign, damaged or truncated
    file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(9)
            _refuse_foreign(path, head, size)
            length = struct.unpack("<Q", head[:8])[0]
            if length > min(MAX_HEADER, size - 8):
                raise CheckpointError(_broken(path, "its header is longer than the file"))
            raw = (head[8:] + file.read(max(0, length - 1)))[:length]
    except FileNotFoundError as error:
        raise CheckpointError(f"got {path}, which does not exist; expected a file") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        header = json.loads(raw)
        ends = [int(v["data_offsets"][1]) for k, v in header.items() if k != "__metadata__"]
        metadata = header.get("__metadata__", {})
        if not isinstance(metadata, dict):
            raise TypeError("metadata is not a table")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(_broken(path, "its header is not a safetensors header")) from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        what = "truncated" if size < expected else "longer than its header says"
        raise CheckpointError(_broken(path, f"it has {size:,} bytes of {expected:,} ({what})"))
    return dict(header)


def _broken(path: Path, why: str) -> str:
    return f"{path.name} is damaged: {why}; download or copy the checkpoint again"


def _refuse_foreign(path: Path, head: bytes, size: int) -> None:
    """Name the usual strangers: pickles (old and zipped) and files too short to be anything."""
    if head[:4] == b"PK\x03\x04" or (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"):
        raise CheckpointError(
            f"{path.name} is a Python pickle (a PyTorch .pt file), which can run code when opened; "
            "expected a .safetensors checkpoint written by this program"
        )
    if len(head) < 8:
        raise CheckpointError(_broken(path, f"it has only {len(head)} bytes"))
    fits = struct.unpack("<Q", head[:8])[0] <= size - 8
    if head[8:] not in (b"", b"{") and not fits:  # neither a header nor its length
        raise CheckpointError(
            f"{path.name} is not a napari-attnseg checkpoint, it is a file of another kind; "
            "choose a .safetensors file written by `napari-attnseg train` or the Train dock"
        )


def read_card(path: str | Path) -> Card:
    """The card of a checkpoint, from its header alone (no torch, no numbers).

    Raises ``CheckpointError`` for anything that is not a whole checkpoint of a known version.
    """
    path = Path(path)
    raw = read_header(path).get("__metadata__", {}).get(CARD_KEY)
    if raw is None:
        raise CheckpointError(
            f"{path.name} holds tensors but no model card, so its architecture is unknown; "
            "expected a checkpoint written by `napari-attnseg train` or save_checkpoint"
        )
    try:
        data = json.loads(raw)
        version = int(data["format"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(_broken(path, "its model card cannot be read")) from error
    if version > FORMAT:
        raise CheckpointError(
            f"{path.name} has card format {version}, but this version reads up to {FORMAT}; "
            "update napari-attnseg"
        )
    try:
        return Card.from_json(data)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(_broken(path, f"its model card is incomplete ({error})")) from error


def shipped_checkpoints() -> dict[str, Path]:
    """Name to file of the checkpoints that ship with the package, sorted by name."""
    inside = Path(str(resources.files("napari_attnseg"))) / "sample_data" / "checkpoints"
    beside = Path(__file__).resolve().parents[2] / "sample_data" / "checkpoints"
    for folder in (inside, beside):
        found = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
        found = [path for path in found if not path.name.endswith(f".state{SUFFIX}")]
        if found:
            return {path.name.removesuffix(SUFFIX): path for path in found}
    return {}


def resolve_checkpoint(path_or_name: str | Path) -> Path:
    """A file as it is, or a shipped checkpoint by name; raises ``CheckpointError`` otherwise."""
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return path
    shipped = shipped_checkpoints()
    if str(path_or_name) in shipped:
        return shipped[str(path_or_name)]
    names = ", ".join(shipped) or "none in this installation"
    raise CheckpointError(
        f"got {path_or_name}, which is neither a checkpoint file nor a shipped name ({names})"
    )
