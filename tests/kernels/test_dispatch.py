"""Choosing a backend: nothing stands in for the GPU's kernels in silence, and tensors of one call are in one place."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from medseg_kernels import AxisTable, axis_table, dispatch, stitch_labels, stitch_window, window_attention
from medseg_kernels.gated_linear_recurrence.op import BACKENDS as RECURRENCE
from medseg_kernels.selective_scan.op import BACKENDS as SCAN
from medseg_kernels.short_conv.op import BACKENDS as CONV


class OnGpu:
    """What dispatch looks at of a tensor that is on a GPU."""

    def __init__(self, index: int = 0) -> None:
        self.device, self.dtype = torch.device("cuda", index), torch.float32


BACKENDS = {
    "triton": dispatch.Backend("triton", lambda *tensors: "no triton today"),
    "cpu": dispatch.Backend("cpu", dispatch.refuse_cpu),
    "reference": dispatch.Backend("reference", lambda *tensors: None),
}


def choose(*tensors: Any, requested: str | None = None) -> str:
    return dispatch.choose("some_op", BACKENDS, requested, *tensors)


def test_falling_back_on_a_gpu_warns_once_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEDSEG_BACKEND", raising=False)
    dispatch._warn_slow_on_gpu.cache_clear()
    with pytest.warns(UserWarning, match="some_op runs on the GPU in its slower reference form: no triton today"):
        assert choose(OnGpu()) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(OnGpu()) == "reference"
        assert choose(torch.zeros(1)) in ("cpu", "reference")
        dispatch._warn_slow_on_gpu.cache_clear()
        assert choose(OnGpu(), requested="reference") == "reference"


def test_tensors_on_two_devices_are_refused_before_a_launch() -> None:
    with pytest.raises(ValueError, match="some_op: tensor 2 is on cuda:1; expected cuda:0, where the first one is"):
        choose(OnGpu(0), None, OnGpu(1))
    assert "expected one GPU" in str(dispatch.refuse_triton(OnGpu(0), OnGpu(1)))  # type: ignore[arg-type]


@pytest.mark.skipif(dispatch.triton_missing() is not None, reason="triton is not installed")
@pytest.mark.parametrize(
    ("backends", "shapes", "what"),
    [
        (SCAN, [(65536, 1, 1, 1)], "B is 65536"),
        (CONV, [(32768, 1, 1), (2, 1, 1)], r"B \* R is 65536"),
        (RECURRENCE, [(32768, 1, 2, 1)], r"B \* H is 65536"),
    ],
)
def test_more_rows_than_a_grid_holds_are_refused(backends: Any, shapes: list[tuple[int, ...]], what: str) -> None:
    tensors = [torch.empty(1).expand(shape) for shape in shapes]
    with pytest.raises(dispatch.BackendError, match=f"{what}, and a grid holds 65535"):
        dispatch.choose("some_op", backends, "triton", *tensors)


def test_a_seed_elsewhere_or_of_another_type_is_refused() -> None:
    qkv = torch.zeros(1, 2, 2, 2, 3, 1, 4)
    with pytest.raises(ValueError, match="device of seed is meta, expected that of qkv, cpu"):
        window_attention(qkv, 2, 0, dropout=0.5, seed=torch.zeros(1, dtype=torch.int64, device="meta"))
    with pytest.raises(ValueError, match=r"seed is \(2,\) torch.int64, expected one number in an int64 tensor"):
        window_attention(qkv, 2, 0, dropout=0.5, seed=torch.zeros(2, dtype=torch.int64))


def test_stitch_names_the_tensor_that_is_elsewhere() -> None:
    values, weight, window = torch.zeros(2, 3, 3, 3), torch.zeros(3, 3, 3), torch.zeros(2, 2, 2, 2)
    share = torch.ones(2, 2, 2)
    with pytest.raises(ValueError, match="window: found on meta; expected cpu, where values is"):
        stitch_window(values, weight, window.to("meta"), share, [0, 0, 0])
    with pytest.raises(ValueError, match="offset: found on meta; expected cpu"):
        stitch_window(values, weight, window, share, [0, 0, 0], offset=share.to("meta"))
    tables: list[AxisTable] = [axis_table(3, 5)] * 3
    with pytest.raises(ValueError, match="weight: found on meta; expected cpu"):
        stitch_labels(values, weight.to("meta"), *tables)
