"""Stitching: every form computes what plain torch computes, whatever the ring, the type and the grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from medseg_kernels import AxisTable, NonFiniteLogitsError, axis_table, resample_argmax, stitch_labels, stitch_window
from tests.kernels.interpreter import run_cases

BACKENDS = ["cpu", "reference"]
GRIDS = [((7, 6, 5), (14, 9, 5)), ((9, 8, 7), (4, 8, 20)), ((1, 5, 3), (1, 13, 3)), ((6, 6, 6), (6, 6, 6))]


def interpolate_argmax(logits: torch.Tensor, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels by plain torch, and where the two largest logits are further apart than rounding."""
    fine = functional.interpolate(logits[None].float(), size=shape, mode="trilinear", align_corners=False)[0]
    top = fine.topk(2, dim=0).values
    return fine.argmax(dim=0), (top[0] - top[1]) > 1e-4


def blended(windows: list[tuple[torch.Tensor, list[int]]], importance: torch.Tensor, shape) -> torch.Tensor:
    """Weighted mean of windows on the whole grid, the plain way."""
    total, weight = torch.zeros(windows[0][0].shape[0], *shape), torch.zeros(shape)
    for window, start in windows:
        box = tuple(slice(s, s + n) for s, n in zip(start, importance.shape, strict=True))
        total[(slice(None), *box)] += window.float() * importance
        weight[box] += importance
    return total / weight


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("classes", [2, 5, 300])
@pytest.mark.parametrize(("source", "target"), GRIDS, ids=str)
def test_resample_argmax_is_interpolate_then_argmax(source, target, classes: int, backend: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(classes, *source)
    expected, clear = interpolate_argmax(logits, target)
    labels = resample_argmax(logits, target, backend=backend)
    assert labels.dtype == (torch.uint8 if classes <= 256 else torch.int16)
    assert clear.float().mean() > 0.9
    assert torch.equal(labels[clear].long(), expected[clear])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_logits_are_read_exactly(dtype: torch.dtype, backend: str) -> None:
    logits = torch.randn(4, 6, 5, 7).to(dtype)
    expected, clear = interpolate_argmax(logits, (9, 10, 7))
    assert torch.equal(resample_argmax(logits, (9, 10, 7), backend=backend)[clear].long(), expected[clear])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("window_type", [torch.float32, torch.bfloat16, torch.float16])
def test_a_ring_holds_what_a_whole_volume_would(axis: int, window_type: torch.dtype, backend: str) -> None:
    """Windows march along one axis through a slab of six planes; labels are read as soon as planes are complete."""
    torch.manual_seed(axis)
    roi, step, count = 5, 3, 5
    shape = [6, 5, 4]
    shape[axis] = roi + step * (count - 1)
    extent = list(shape)
    extent[axis] = roi + 1
    size = list(extent)
    size[axis] = roi
    importance = torch.rand(size) + 0.1
    windows = []
    for number in range(count):
        start = [0, 0, 0]
        start[axis] = number * step
        windows.append((torch.randn(3, *size).to(window_type), start))
    target = tuple(2 * n for n in shape)
    expected, clear = interpolate_argmax(blended(windows, importance, shape), target)
    tables = [axis_table(n, m) for n, m in zip(shape, target, strict=True)]
    values, weight, done, first = torch.zeros(3, *extent), torch.zeros(extent), 0, 0
    for number, (window, start) in enumerate(windows):
        stitch_window(values, weight, window, importance, start, backend=backend)
        complete = shape[axis] if number + 1 == count else (number + 1) * step
        end = int((tables[axis].index[1] < complete).sum())
        parts = [table.part(done, end) if a == axis else table for a, table in enumerate(tables)]
        labels = stitch_labels(values, weight, *parts, backend=backend)
        want, sure = (t.narrow(axis, done, end - done) for t in (expected, clear))
        assert torch.equal(labels[sure].long(), want[sure])
        keep = int(tables[axis].index[0][end]) if end < target[axis] else complete
        for plane in range(first, min(keep, complete)):
            values.narrow(axis + 1, plane % extent[axis], 1).zero_()
            weight.narrow(axis, plane % extent[axis], 1).zero_()
        done, first = end, min(keep, complete)
    assert done == target[axis]


def test_forms_agree_bit_for_bit_whatever_the_threads() -> None:
    logits = torch.randn(7, 20, 21, 22)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(resample_argmax(logits, (31, 33, 40), backend="cpu"))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_half_slab_saturates_instead_of_overflowing(backend: str) -> None:
    values, weight = torch.zeros(2, 2, 2, 2, dtype=torch.float16), torch.zeros(2, 2, 2)
    window = torch.tensor([60000.0, 1.0]).reshape(2, 1, 1, 1).expand(2, 2, 2, 2)
    for _ in range(3):
        stitch_window(values, weight, window, torch.ones(2, 2, 2), [0, 0, 0], backend=backend)
    assert float(values.max()) == 65504.0
    tables = [axis_table(2, 3)] * 3
    assert int(stitch_labels(values, weight, *tables, backend=backend).max()) == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_relative_to_the_largest_a_half_slab_keeps_close_logits_apart(backend: str) -> None:
    torch.manual_seed(3)
    importance = torch.rand(6, 6, 6) + 0.1
    starts = ([0, 0, 0], [2, 1, 3], [3, 3, 3])
    shared = 10 * torch.randn(40, 12, 12, 12)  # windows agree, but for noise, as those of a trained network do
    labels = {}
    for kind, relative in ((torch.float32, False), (torch.float16, True), (torch.float16, False)):
        torch.manual_seed(4)
        values, weight = torch.zeros(40, 9, 9, 9, dtype=kind), torch.zeros(9, 9, 9)
        for start in starts:
            place = tuple(slice(first, first + 6) for first in start)
            window = 30 + 0.002 * shared[(slice(None), *place)] + 1e-4 * torch.randn(40, 6, 6, 6)
            offset = window.amax(dim=0) if relative else None
            stitch_window(values, weight, window, importance, start, offset=offset, backend=backend)
        labels[kind, relative] = stitch_labels(values, weight, *[axis_table(9, 9)] * 3, backend=backend)
    exact, covered = labels[torch.float32, False], weight > 0
    share = {key: float((found == exact)[covered].float().mean()) for key, found in labels.items()}
    assert share[torch.float16, True] >= 0.995
    assert share[torch.float16, False] < 0.95, "the test asks for more than float16 gives by itself"


@pytest.mark.parametrize("slab_type", [torch.float32, torch.float16])
@pytest.mark.parametrize("window_type", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_damaged_logit_is_found_wherever_it_lies_in_a_row(
    value: float, window_type: torch.dtype, slab_type: torch.dtype
) -> None:
    """The backend a CPU gets, whatever its compiler makes of whole vectors and of what a row leaves after them."""
    unseen = []
    for length in range(1, 37):
        importance, lower = torch.ones(1, 1, length), torch.zeros(1, 1, length)
        for bad in (slice(None), *range(0, length, 3), length - 1):
            window = torch.rand(1, 1, 1, length).to(window_type)
            window[..., bad] = value
            for offset in (None, lower):
                slab = torch.zeros(1, 1, 1, 48, dtype=slab_type)
                try:
                    stitch_window(slab, torch.zeros(1, 1, 48), window, importance, [0, 0, 0], offset=offset)
                except NonFiniteLogitsError:
                    continue
                unseen.append((length, bad, offset is not None))
    assert unseen == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_damaged_logits_are_an_error(value: float, backend: str) -> None:
    window = torch.zeros(2, 3, 3, 3)
    window[1, 2, 0, 1] = value
    with pytest.raises(NonFiniteLogitsError, match="NaN or infinite"):
        stitch_window(
            torch.zeros(2, 3, 3, 3), torch.zeros(3, 3, 3), window, torch.ones(3, 3, 3), [0, 0, 0], backend=backend
        )
    with pytest.raises(NonFiniteLogitsError, match="NaN or infinite"):
        stitch_window(
            *(torch.zeros(2, 3, 3, 3), torch.zeros(3, 3, 3), window, torch.ones(3, 3, 3), [0, 0, 0]),
            offset=window.amax(dim=0), backend=backend,
        )  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("target", [(9, 11, 7), (6, 5, 7)])
def test_rounding_makes_near_logits_a_tie(backend: str, target: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    values = torch.randn(5, 6, 5, 7).half()
    tables = [axis_table(n, m) for n, m in zip(values.shape[1:], target, strict=True)]
    found = stitch_labels(values, None, *tables, rounded=True, backend=backend)
    fine = functional.interpolate(values.double()[None], size=target, mode="trilinear")[0].half().float()
    assert (found != fine.argmax(0)).sum() <= 1  # float32 sums may round otherwise than float64 ones
    near = torch.tensor([1.0, 1.0004, 0.0]).half().reshape(3, 1, 1, 1).expand(3, 2, 1, 1).contiguous()
    near[0, 1], near[1, 1] = 1.001, 1.0
    tables = [axis_table(2, 4), axis_table(1, 1), axis_table(1, 1)]
    assert stitch_labels(near, None, *tables, rounded=True, backend=backend).flatten().tolist()[0] == 0
    with pytest.raises(ValueError, match="rounded=True"):
        stitch_labels(near.float(), None, *tables, rounded=True, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_lower_class_wins_a_tie(backend: str) -> None:
    assert int(resample_argmax(torch.ones(4, 2, 2, 2), (5, 2, 2), backend=backend).max()) == 0


def test_wrong_arguments_are_named() -> None:
    values, weight, ones = torch.zeros(2, 4, 4, 4), torch.zeros(4, 4, 4), torch.ones(3, 3, 3)
    window = torch.zeros(2, 3, 3, 3)
    for match, call in [
        ("values", lambda: stitch_window(values.double(), weight, window, ones, [0, 0, 0])),
        ("weight", lambda: stitch_window(values, weight[:3], window, ones, [0, 0, 0])),
        ("window", lambda: stitch_window(values, weight, window[:1], ones, [0, 0, 0])),
        ("importance", lambda: stitch_window(values, weight, window, ones[:2], [0, 0, 0])),
        ("start", lambda: stitch_window(values, weight, window, ones, [0, -1, 0])),
        ("reaches further", lambda: stitch_labels(values, weight, *[axis_table(5, 5)] * 3)),
        ("no backend|unknown backend", lambda: resample_argmax(values, (4, 4, 4), backend="cuda")),
        ("at least one voxel", lambda: axis_table(0, 4)),
        ("n > 0", lambda: stitch_labels(values, weight, *[axis_table(4, 4).part(0, 0)] * 3)),
    ]:
        with pytest.raises(ValueError, match=match):
            call()


def test_tables_are_those_of_interpolate() -> None:
    for source, target in [(3, 7), (10, 4), (1, 5), (6, 6)]:
        ramp = torch.arange(float(source))
        table = axis_table(source, target)
        ours = torch.lerp(ramp[table.index[0].long()], ramp[table.index[1].long()], table.fraction)
        theirs = functional.interpolate(ramp[None, None], size=target, mode="linear", align_corners=False)[0, 0]
        torch.testing.assert_close(ours, theirs)
    assert isinstance(axis_table(3, 3), AxisTable)


def test_ops_have_fakes_and_compile() -> None:
    from medseg_kernels.stitch import op

    values, weight = torch.rand(3, 4, 4, 4), torch.ones(4, 4, 4)
    tables = [part for _ in range(3) for part in (axis_table(4, 6).index, axis_table(4, 6).fraction)]
    torch.library.opcheck(op._stitch_labels, (values, weight, *tables, False, "cpu"))
    for offset in (None, torch.rand(2, 2, 2)):
        arguments = (values, weight, torch.rand(3, 2, 2, 2), torch.ones(2, 2, 2), offset, [1, 1, 1], "cpu")
        torch.library.opcheck(op._stitch_add, arguments)


def test_triton_kernels_compute_the_same_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    found = run_cases(Path(__file__).with_name("interpreter_cases.py"))
    assert max(found.pop("voxels of another label").values()) <= 1
    assert found == {"sums are close": True, "NaN is refused": True}
