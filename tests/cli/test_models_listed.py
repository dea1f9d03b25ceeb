"""``models`` tells what can be trained: title, size and options."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from napari_attnseg.cli import app
from napari_attnseg.models.base import list_models, model_options


def test_architectures_with_their_titles_sizes_and_options() -> None:
    found = CliRunner().invoke(app, ["models"])
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.split()[:1] == ["unet"])
    assert lines[at].split(maxsplit=3) == ["unet", "31.04", "M", "U-Net"]
    assert lines[at + 1].split() == [
        "encoder=plain",
        "width=1.0",
        "levels=4",
        "norm=true",
        "ndim=2",
    ]


def test_as_json() -> None:
    data = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert data["models"] == list_models()
    about = data["architectures"]["attention_unet"]
    assert about["paper"].startswith("Oktay et al.")
    assert about["choices"] == {"gating": ["fine", "coarse"]}
    assert [p["stride"] for p in about["places"]] == [1, 2, 4, 8]
    assert set(about["choices"]) <= set(model_options("attention_unet"))
