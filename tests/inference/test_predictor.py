"""The streaming predictor: equal to the plain way, and the same labels whatever the memory, the order and the grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medseg.errors import ConfigError, DataError, ResourceError
from medseg.inference import Execution, LabelSettings, Predictor, SlidingWindowInferer
from medseg.inference.windows.ensemble import averaged
from medseg.inference.windows.memory import StepDown, plan_memory, slab_bytes
from medseg.inference.windows.mirroring import mirrored
from medseg.inference.windows.slab import plan_windows
from medseg.io import Header, Volume
from medseg.transforms.preprocessing import Preprocessing
from medseg.transforms.restoring import restore_label

NONE = [{"kind": "none"}]
OBLIQUE = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])


def volume_of(array: np.ndarray, affine: np.ndarray | None = None) -> Volume:
    affine = np.eye(4) if affine is None else affine
    return Volume(array.astype(np.float32), affine, Header.of_array(array.shape, affine))


@pytest.fixture(scope="module")
def scan() -> Volume:
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(30, 26, 48)), 1.5)
    affine = np.eye(4)
    affine[:3, :3] = OBLIQUE @ np.diag([-1.0, 1.2, 0.9])
    return volume_of(noise[None], affine)


EAGER = Execution(engine="eager")


class Identity(torch.nn.Module):
    """Logits that are the image: class 1 wins where it is positive."""

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(windows), windows], dim=1)


def predictor(network: torch.nn.Module, spacing=None, roi=(12, 12, 12), **options) -> Predictor:
    execution = {"engine": "eager"} | {key: options.pop(key) for key in list(options) if hasattr(Execution, key)}
    recipe = Preprocessing(spacing, [{"kind": "zscore"}])
    return Predictor(network, recipe, LabelSettings(roi, **options), Execution(**execution))


@pytest.mark.parametrize("spacing", [None, [1.4, 1.4, 1.4], [0.8, 1.0, 1.1]], ids=str)
@pytest.mark.parametrize("roi", [(12, 12, 12), (8, 40, 10)], ids=str)
def test_equals_full_logits_then_restore(network, scan: Volume, spacing, roi) -> None:
    made = predictor(network, spacing, roi)
    prepared = made.prepare(scan)
    with torch.no_grad():
        logits = SlidingWindowInferer(roi)(torch.from_numpy(prepared.image)[None], network)[0]
    expected = restore_label(logits, prepared.grid)
    label = made.segment(prepared)
    assert label.shape == scan.array.shape[1:]
    assert len(np.unique(label)) > 2
    assert (label != expected).mean() <= 1e-4


def test_labels_do_not_depend_on_the_slab(network, scan: Volume) -> None:
    labels = [predictor(network, [1.1, 1.1, 1.1], slab_planes=n).predict(scan) for n in (None, 13, 17, 25, 1000)]
    for other in labels[1:]:
        np.testing.assert_array_equal(labels[0], other)


def test_labels_repeat_and_do_not_depend_on_order(network, scan: Volume) -> None:
    made = predictor(network, [1.1, 1.1, 1.1])
    other = volume_of(scan.array[:, ::-1, :, :20].copy(), scan.affine)
    first = made.predict(scan)
    made.predict(other)
    for _ in range(3):
        np.testing.assert_array_equal(made.predict(scan), first)


def near_ties(predict_logits, change: float = 1e-4) -> np.ndarray:
    top = np.sort(predict_logits, axis=0)
    return top[-1] - top[-2] <= change


@pytest.mark.parametrize("options", [{"sw_batch_size": 3}, {"threads": 2}], ids=str)
def test_batch_and_threads_change_near_ties_only(network, scan: Volume, options: dict) -> None:
    threads = options.pop("threads", None)
    before = torch.get_num_threads()
    made = predictor(network)
    expected = made.predict(scan)
    prepared = made.prepare(scan)
    with torch.no_grad():
        logits = SlidingWindowInferer((12, 12, 12))(torch.from_numpy(prepared.image)[None], network)[0].numpy()
    try:
        torch.set_num_threads(threads or before)
        label = predictor(network, **options).predict(scan)
    finally:
        torch.set_num_threads(before)
    differs = prepared.grid.turn(label != expected)
    assert not (differs & ~near_ties(logits)).any()
    assert differs.sum() <= max(1, differs.size * 1e-6)


def test_identity_network_reproduces_the_volume() -> None:
    """Through windows, blending and turned axes, the sign of each voxel comes back to its place."""
    values = np.random.default_rng(1).normal(size=(1, 33, 21, 40))
    values[np.abs(values) < 1e-3] = 1.0
    affine = np.array([[0, 0, -1.0, 9], [-2.0, 0, 0, 5], [0, 1.5, 0, 1], [0, 0, 0, 1]])
    made = Predictor(Identity(), Preprocessing(None, NONE), LabelSettings((10, 12, 14)), EAGER)
    np.testing.assert_array_equal(made.predict(volume_of(values, affine)), values[0] > 0)


def test_landmark_returns_in_48_orientations() -> None:
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1.0, -1.0), repeat=3):
            affine = np.eye(4)
            affine[:3, :3] = OBLIQUE @ (np.eye(3)[:, list(axes)] * np.array(flips))
            values = -np.ones((1, 9, 11, 13))
            values[0, 2, 7, 5] = 1.0
            made = Predictor(Identity(), Preprocessing(None, NONE), LabelSettings((6, 6, 6)), EAGER)
            found = np.argwhere(made.predict(volume_of(values, affine)))
            assert found.tolist() == [[2, 7, 5]]


def test_ramp_crosses_zero_where_it_does_however_windows_lie() -> None:
    """A seam would bend the plane; every row changes sign at the same place, on the finer source grid too."""
    ramp = np.broadcast_to((np.arange(60) - 31.3)[None, :, None, None], (1, 60, 24, 24))
    for roi in [(12, 12, 12), (16, 9, 24), (60, 24, 24)]:
        made = Predictor(Identity(), Preprocessing([2.0, 2.0, 2.0], NONE), LabelSettings(roi), EAGER)
        label = made.predict(volume_of(ramp))
        np.testing.assert_array_equal(label, np.broadcast_to((np.arange(60) > 31.3)[:, None, None], label.shape))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 20, 7), (7, 7, 7), (3, 50, 2), (12, 12, 12)], ids=str)
def test_volumes_smaller_than_the_window(network, shape) -> None:
    label = predictor(network).predict(volume_of(np.random.default_rng(0).normal(size=(1, *shape))))
    assert label.shape == shape


def test_sixteen_bit_slab_gives_nearly_the_same(network, scan: Volume) -> None:
    full, half = (predictor(network, slab_type=kind).predict(scan) for kind in ("float32", "float16"))
    assert (full == half).mean() >= 0.999


def test_probabilities_are_the_softmax_of_what_the_labels_come_from(network, scan: Volume) -> None:
    made = predictor(network, [1.4, 1.4, 1.4], keep_probabilities=True)
    label = made.predict(scan)
    shares = made.probabilities
    assert shares is not None
    assert shares.shape == (4, *label.shape)
    np.testing.assert_allclose(shares.astype(np.float32).sum(axis=0), 1.0, atol=4e-3)
    top = np.sort(shares.astype(np.float32), axis=0)
    clear = top[-1] - top[-2] > 2e-3
    np.testing.assert_array_equal(shares.argmax(axis=0)[clear], label[clear])


def test_two_dimensional_network_sees_slices(scan: Volume) -> None:
    torch.manual_seed(0)
    flat = torch.nn.Conv2d(1, 3, 3, padding=1).eval()
    made = predictor(flat, roi=(16, 12))
    prepared = made.prepare(scan)
    with torch.no_grad():
        slices = torch.from_numpy(prepared.image).permute(3, 0, 1, 2)
        logits = SlidingWindowInferer((16, 12))(slices, flat).permute(1, 2, 3, 0)
    expected = restore_label(logits.contiguous(), prepared.grid)
    assert (made.predict(scan) != expected).mean() <= 1e-4


def test_mirroring_is_the_mean_of_eight(network) -> None:
    window = torch.randn(1, 1, 6, 7, 8)
    with torch.no_grad():
        parts = []
        for count in range(4):
            for axes in itertools.combinations((2, 3, 4), count):
                parts.append(network(window.flip(axes)).flip(axes))
        torch.testing.assert_close(mirrored(network, (0, 1, 2))(window), torch.stack(parts).mean(0))
    assert mirrored(network, ()) is network
    with pytest.raises(ValueError, match="0, 1, 2"):
        mirrored(network, (3,))


def test_ensemble_is_the_mean_in_one_pass(scan: Volume) -> None:
    torch.manual_seed(3)
    nets = [torch.nn.Conv3d(1, 3, 3, padding=1).eval() for _ in range(3)]
    window = torch.randn(2, 1, 5, 5, 5)
    with torch.no_grad():
        each = torch.stack([net(window) for net in nets])
        torch.testing.assert_close(averaged(nets)(window), each.mean(0))
        torch.testing.assert_close(averaged(nets, "probabilities")(window), each.softmax(2).mean(0))
        merged = torch.nn.Conv3d(1, 3, 3, padding=1)
        for name, value in merged.named_parameters():
            value.copy_(torch.stack([dict(net.named_parameters())[name] for net in nets]).mean(0))
    made = Predictor(nets, Preprocessing(None, [{"kind": "zscore"}]), LabelSettings((12, 12, 12)), EAGER)
    one = predictor(merged.eval()).predict(scan)  # the mean of linear networks is the network of the means
    assert (made.predict(scan) != one).mean() <= 1e-4


def test_label_values_are_those_of_the_bundle(scan: Volume) -> None:
    label = predictor(Identity(), label_values=[0, 300]).predict(scan)
    assert label.dtype == np.uint16
    assert set(np.unique(label)) == {0, 300}


def test_constant_windows_are_computed_once(network) -> None:
    calls = []

    class Counting(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            calls.append(windows.shape[0])
            return network(windows)

    array = np.zeros((1, 12, 12, 120))
    array[..., :20] = np.random.default_rng(0).normal(size=(1, 12, 12, 20))
    air = volume_of(array)
    recipe = Preprocessing(None, NONE)
    label = Predictor(Counting(), recipe, LabelSettings((12, 12, 12)), EAGER).predict(air)
    assert sum(calls) == 5  # four windows with tissue, one for all the air
    with torch.no_grad():
        logits = SlidingWindowInferer((12, 12, 12))(torch.from_numpy(air.array)[None], network)[0]
    np.testing.assert_array_equal(label, restore_label(logits, recipe.apply(air.array, air.affine).grid))


def test_progress_counts_every_window(network, scan: Volume) -> None:
    seen = []
    predictor(network).predict(scan, lambda done, total: seen.append((done, total)))
    total = plan_windows(scan.array.shape[1:], (12, 12, 12), (0.5, 0.5, 0.5)).count
    assert seen == [(n + 1, total) for n in range(total)]


def test_nan_logits_are_an_error_by_name(scan: Volume) -> None:
    class Broken(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            return torch.cat([windows, windows / 0.0 * 0.0], dim=1)

    with pytest.raises(DataError, match="NaN or infinite logits"):
        predictor(Broken()).predict(scan)


def test_memory_is_planned_and_stepped_down() -> None:
    plan = plan_windows((64, 64, 200), (32, 32, 32), (0.5, 0.5, 0.5))
    assert plan.axis == 2
    step = StepDown(torch.device("cpu"), 1, None, "auto")
    whole = slab_bytes(plan, 100, 200, torch.float32)
    least = slab_bytes(plan, 100, None, torch.float32)
    assert least < whole / 5
    assert plan_memory(plan, 100, step, least).dtype == torch.float32
    halved = plan_memory(plan, 100, step, int(least * 0.6))
    assert halved.dtype == torch.float16
    assert halved.planes == 33
    assert "16 bits" in halved.sentences[0]
    with pytest.raises(MemoryError, match="MiB are needed"):
        plan_memory(plan, 100, step, least // 10)
    assert plan_memory(plan, 2, step, None).planes == 200  # small: one reduction for all


def test_shortage_steps_down_and_finishes(network, scan: Volume) -> None:
    expected = predictor(network).predict(scan)
    calls = []

    class Hungry(torch.nn.Module):
        def forward(self, windows: torch.Tensor) -> torch.Tensor:
            calls.append(windows.shape[0])
            if windows.shape[0] > 1:
                raise MemoryError("out of memory")
            return network(windows)

    made = predictor(Hungry(), sw_batch_size=4)
    label = made.predict(scan)
    assert (label != expected).mean() <= 1e-5
    assert any("one window at a time" in sentence for sentence in made.steps)
    assert made.describe()["stepped_down"] == made.steps


def test_too_little_memory_says_how_much_is_needed(network, scan: Volume) -> None:
    with pytest.raises(ResourceError, match="MiB are needed"):
        predictor(network, memory_limit=1000).predict(scan)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "fastest"}, "eager, openvino, compile"),
        ({"precision": "int3"}, "fp32, bf16, fp16"),
        ({"precision": "fp16"}, "CPUs"),
        ({"slab_type": "int8"}, "float16"),
    ],
)
def test_unknown_settings_list_what_there_is(network, scan: Volume, options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        predictor(network, **options).predict(scan)
