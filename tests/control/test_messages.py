"""Messages survive the wire; frames refuse noise."""

from __future__ import annotations

import io
import json
import math
from dataclasses import fields, is_dataclass

import pytest

from napari_attnseg.control import frames
from napari_attnseg.control.frames import read_frame, write_frame
from napari_attnseg.control.messages import (
    MESSAGES,
    EpochDone,
    ImageRef,
    Predict,
    Train,
    decode,
    encode,
)
from napari_attnseg.settings import RECIPES, Tuning


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_every_message_with_defaults_round_trips(name: str) -> None:
    message = MESSAGES[name]()
    assert decode(encode(message)) == message


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_messages_are_frozen_and_numbered(name: str) -> None:
    cls = MESSAGES[name]
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert fields(cls)[0].name == "id"


def test_nested_values_round_trip() -> None:
    image = ImageRef("k", "/x/ä b.npy", True, (True, False, True), (3.0, 0.5, 0.5))
    tuning = Tuning.of(0.25, threshold=2.0, rule="authors", gamma=-0.5)
    message = Predict(7, image, "tiny", "cpu", tuning, (3, 2, 4), "/out")
    assert decode(encode(message)) == message


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_training_requests_round_trip(recipe: str) -> None:
    message = Train(3, RECIPES[recipe], image=ImageRef("k", "p"), preview_z=4)
    assert decode(encode(message)) == message


def test_not_a_number_crosses() -> None:
    back = decode(encode(EpochDone(1, loss=math.nan)))
    assert isinstance(back, EpochDone)
    assert math.isnan(back.loss)


def test_unknown_types_and_fields_are_refused() -> None:
    with pytest.raises(KeyError):
        decode(json.dumps({"type": "Nonsense"}).encode())
    with pytest.raises(TypeError):
        decode(json.dumps({"type": "Note", "nonsense": 1}).encode())


def test_frames_follow_each_other() -> None:
    stream = io.BytesIO()
    for payload in (b"", b"abc", bytes(70000)):
        write_frame(stream, payload)
    stream.seek(0)
    assert [read_frame(stream) for _ in range(4)] == [b"", b"abc", bytes(70000), None]


@pytest.mark.parametrize("cut", [1, 3, 4, 6])
def test_a_stream_that_ends_within_a_frame_is_the_end(cut: int) -> None:
    stream = io.BytesIO()
    write_frame(stream, b"abcdef")
    assert read_frame(io.BytesIO(stream.getvalue()[:cut])) is None


def test_a_length_out_of_noise_is_the_end() -> None:
    assert read_frame(io.BytesIO(b"\xff\xff\xff\xffrest")) is None
    assert frames.MAX_FRAME < 0xFFFFFFFF


class Trickle(io.RawIOBase):
    """A raw stream that takes three bytes at a time, as a full pipe may."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)[:3]  # type: ignore[call-overload]
        self.taken += part
        return len(part)


def test_partial_writes_are_completed() -> None:
    stream = Trickle()
    write_frame(stream, b"0123456789")  # type: ignore[arg-type]
    assert read_frame(io.BytesIO(stream.taken)) == b"0123456789"
