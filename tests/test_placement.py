"""Placements in words and as JSON."""

from __future__ import annotations

import json

import pytest

from napari_attnseg.errors import InputError
from napari_attnseg.placement import Placement, parse_placements, write_placements

SELECTED = {
    "skip": "skip[0] skip[1] skip[2] skip[3]",
    "skip[1:]": "skip[1] skip[2] skip[3]",
    "skip[:-1]": "skip[0] skip[1] skip[2]",
    "skip[1:2]": "skip[1]",
    "encoder[-1]": "encoder[3]",
    "up[0]": "up[0]",
    "bottleneck": "bottleneck",
    "decoder[0].pre": "decoder[0].pre",
    "decoder[2].post": "decoder[2]",
    "head": "head",
}


@pytest.mark.parametrize("at", SELECTED)
def test_selectors_name_places(at: str) -> None:
    (placement,) = parse_placements(f"{at}=se")
    assert " ".join(map(str, placement.slots(4))) == SELECTED[at]


def test_words_and_json_say_the_same() -> None:
    words = parse_placements("skip[1:]=cbam:reduction=8,kernel=7; bottleneck=nonlocal:mode=dot")
    plain = [
        {"at": "skip[1:]", "use": "cbam", "args": {"reduction": 8, "kernel": 7}},
        {"at": "bottleneck", "use": "nonlocal", "args": {"mode": "dot"}},
    ]
    assert words == parse_placements(json.dumps(plain))
    assert words[1].args == {"mode": "dot"}


@pytest.mark.parametrize(
    "value",
    [8, 0.5, True, None, "dot", "true", "a, b; c", 'say "x"', "7", "back\\slash", [1, 3, 6]],
)
def test_every_plain_value_comes_back(value: object) -> None:
    placements = (Placement("skip", "some", {"first": value, "second": 1}), Placement("head", "x"))
    assert parse_placements(write_placements(placements)) == placements


def test_nothing_is_placed_by_nothing() -> None:
    assert parse_placements("  ;; ") == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("skip[9]=se", "skip[0] to skip[3]"),
        ("skip[7:]=se", "names no place"),
        ("nowhere=se", "encoder[i]"),
        ("bottleneck[0]=se", "one bottleneck only"),
        ("skip[0].pre=se", "only decoder[i]"),
        ("skip[]=se", "skip[1:]"),
        ("skip=", "PLACE=NAME"),
        ("se", "PLACE=NAME"),
        ("skip=se:", "PLACE=NAME"),
        ("skip=se:8", "ARGUMENT=VALUE"),
        ("[1]", '"args"'),
        ('[{"at": "skip"}]', '"args"'),
    ],
)
def test_what_cannot_be_placed_is_refused(text: str, told: str) -> None:
    with pytest.raises(InputError) as refused:
        _ = [placement.slots(4) for placement in parse_placements(text)]
    assert told in str(refused.value)
