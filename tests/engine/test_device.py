"""Devices: choice, report, self-test, and the way down when memory is out."""

from __future__ import annotations

import contextlib
import json

import pytest
import torch

from napari_attnseg.engine import device as dev
from napari_attnseg.errors import DeviceError

CPU = torch.device("cpu")


def test_list_ends_with_the_cpu_and_says_free_memory() -> None:
    last = dev.list_devices()[-1]
    assert last["name"] == "cpu"
    assert 0 < last["free_bytes"] <= last["total_bytes"]


def test_auto_is_the_first_of_the_list() -> None:
    assert str(dev.choose_device("auto")) == dev.list_devices()[0]["name"]


def test_absent_device_is_named_with_those_present() -> None:
    with pytest.raises(DeviceError, match=r"cuda:9.*cpu"):
        dev.choose_device("cuda:9")


def test_threads_are_capped() -> None:
    before = torch.get_num_threads()
    try:
        assert dev.cap_threads(1) == torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_one_thread_is_given_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with contextlib.suppress(ZeroDivisionError), dev.one_thread():
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_self_test_of_the_cpu_passes() -> None:
    test = dev.self_test("cpu")
    assert test.ok
    assert test.max_error == 0


def test_self_test_finds_a_wrong_device(monkeypatch: pytest.MonkeyPatch) -> None:
    right = dev._probes()
    calls = iter([torch.ones(3), torch.tensor([1.0, 1.0, 1.1])])
    monkeypatch.setattr(dev, "_probes", lambda: right | {"convolution": lambda d: next(calls)})
    test = dev.self_test("cpu")
    assert not test.ok
    assert test.max_error == pytest.approx(0.1)
    assert "DISAGREES" in test.message
    assert "convolution" in test.message


def test_self_test_takes_nan_for_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([torch.ones(3), torch.full((3,), torch.nan)])
    monkeypatch.setattr(dev, "_probes", lambda: {"attention": lambda d: next(calls)})
    assert not dev.self_test("cpu").ok


def test_self_test_survives_a_device_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(device: torch.device) -> torch.Tensor:
        raise RuntimeError("no kernel image\nlong trace")

    monkeypatch.setattr(dev, "_probes", lambda: {"convolution": probe})
    assert dev.self_test("cpu").message == "convolution failed on cpu: no kernel image"


def test_report_is_plain_data_and_readable() -> None:
    report = dev.diagnose("cpu")
    assert json.loads(json.dumps(report)) == report
    text = dev.report_text(report)
    assert torch.__version__ in text
    assert "passed" in text
    absent = dev.diagnose("cuda:7")
    assert not absent["ok"]
    assert "cuda:7" in dev.report_text(absent)


@pytest.mark.parametrize(
    ("driver", "build", "works", "words"),
    [
        (None, None, False, "No NVIDIA driver"),
        ("570.1", None, False, "pip install --force-reinstall torch"),
        ("450.1", "13.0", False, "update the NVIDIA driver"),
        ("570.1", "12.8", True, ""),
    ],
)
def test_advice(
    driver: str | None, build: str | None, works: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev, "_mps", lambda: False)
    text = dev.advice(driver, build, works)
    assert words in text if words else text == ""


def out_of_memory() -> RuntimeError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_ladder_goes_down_step_by_step() -> None:
    seen: list[dev.Rung] = []
    notes: list[str] = []

    def work(rung: dev.Rung) -> str:
        seen.append(rung)
        if rung.device.type != "cpu":
            raise out_of_memory()
        return "answer"

    rungs = dev.ladder(torch.device("meta"))  # stands for any device that is not the CPU
    answer, rung = dev.with_memory_ladder(work, rungs, notes)
    assert answer == "answer"
    assert rung == rungs[3] == dev.Rung(CPU)
    assert [r.block_bytes for r in seen] == [None, *dev.BLOCKS, None]
    assert len(notes) == 3
    assert "running on the CPU" in notes[-1]


def test_ladder_ends_with_a_sentence() -> None:
    def work(rung: dev.Rung) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B")

    with pytest.raises(DeviceError, match="smaller image"):
        dev.with_memory_ladder(work, dev.ladder(CPU), [])


def test_other_errors_pass_through() -> None:
    def work(rung: dev.Rung) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        dev.with_memory_ladder(work, dev.ladder(CPU), [])


@pytest.mark.parametrize(
    ("words", "short"),
    [
        ("could not create a primitive", True),  # a CPU convolution whose scratch does not fit
        ("could not create a primitive descriptor for a convolution forward", False),
        ("std::bad_alloc", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_lack_of_memory_has_many_words(words: str, short: bool) -> None:
    assert dev.is_out_of_memory(RuntimeError(words)) == short
    assert not dev.is_out_of_memory(ValueError(words))
