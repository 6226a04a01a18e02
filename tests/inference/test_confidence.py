"""What is kept of a prediction beside its labels: labels stay bit-equal, sums and maps say what whole probabilities say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.inference.predictor import Predictor
from medseg.inference.settings import Execution, LabelSettings
from medseg.inference.windows.confidence import LogitSamples, Votes
from medseg.io import Volume
from medseg.io.header import Header
from medseg.transforms.preprocessing import Preprocessing

SHAPE, SPACING = (22, 19, 17), 1.3


@pytest.fixture(scope="module")
def scan() -> Volume:
    affine = np.diag([SPACING] * 3 + [1.0])
    values = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    return Volume(values, affine, Header.of_array(SHAPE, affine))


def made(seed: int = 0, *, members: int = 1, axes: tuple[int, ...] = (), **execution: object) -> Predictor:
    torch.manual_seed(seed)
    networks = [torch.nn.Conv3d(1, 3, 5, padding=2).eval() for _ in range(members)]
    with torch.no_grad():
        for network in networks:
            network.weight.mul_(8)
    recipe = Preprocessing([1.0] * 3, [{"kind": "zscore"}])
    settings = LabelSettings((12, 12, 12), mirror_axes=axes)
    return Predictor(networks, recipe, settings, Execution(engine="eager", **execution))  # type: ignore[arg-type]


def test_labels_are_bit_equal_with_and_without(scan: Volume) -> None:
    for members, axes in ((1, ()), (3, ()), (1, (0, 2))):
        plain = made(members=members, axes=axes).predict(scan)
        watched = made(members=members, axes=axes, confidence=True, temperature=1.7)
        np.testing.assert_array_equal(watched.predict(scan), plain)
        assert "agreement" in watched.confidence
        assert len(watched.confidence["agreement"]) == (3 if members > 1 or axes else 0)


def test_sums_and_map_are_those_of_the_whole_probabilities(scan: Volume) -> None:
    one = made(keep_probabilities=True, confidence=True, temperature=1.0)
    label = one.predict(scan)
    p = one.probabilities.astype(np.float64)  # type: ignore[union-attr]
    for output in range(3):
        mask = label == output
        assert one.confidence["size"][output] == mask.sum()
        assert one.confidence["inside"][output] == pytest.approx(p[output][mask].sum(), rel=2e-3)
        assert one.confidence["total"][output] == pytest.approx(p[output].sum(), rel=2e-3)
        assert one.confidence["doubt"][output] == pytest.approx((p[output] * (1 - p[output])).sum(), rel=1e-2)
    entropy = -(p * np.log(np.maximum(p, 1e-9))).sum(0) / np.log(3)
    assert one.uncertainty is not None
    assert one.uncertainty.dtype == np.uint8
    assert np.abs(one.uncertainty - 255 * entropy).max() < 3
    hot = made(temperature=5.0)
    hot.predict(scan)
    assert hot.uncertainty is not None
    assert hot.uncertainty.mean() > one.uncertainty.mean()


def test_samples_are_the_logits_of_their_voxels(scan: Volume) -> None:
    one = made(keep_probabilities=True)
    chosen = np.zeros(SHAPE, dtype=bool)
    places = np.array([[0, 0, 0], [21, 18, 16], [5, 9, 3]])
    chosen[tuple(places.T)] = True
    samples = LogitSamples(chosen)
    one.segment(one.prepare(scan), watchers=[samples])
    assert samples.values is not None
    shares = torch.from_numpy(samples.values).softmax(1).numpy()
    expected = one.probabilities[(slice(None), *np.argwhere(chosen).T)].T  # type: ignore[index]
    np.testing.assert_allclose(shares, expected, atol=2e-3)


def test_votes_are_the_mean_pairwise_dice() -> None:
    torch.manual_seed(0)
    labels = [torch.randint(0, 3, (2, 6, 6, 6)) for _ in range(4)]
    votes = Votes()
    votes.count(labels, 3)
    for output in range(3):
        masks = [label == output for label in labels]
        pairs = [(a, b) for i, a in enumerate(masks) for b in masks[i + 1 :]]
        pooled = sum(2 * int((a & b).sum()) for a, b in pairs) / sum(int(a.sum() + b.sum()) for a, b in pairs)
        assert votes.agreement()[output] == pytest.approx(pooled)
    assert len(Votes().agreement()) == 0
