"""Pages with volumes whose every voxel is known, for a browser to show."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel
import numpy as np

from medseg.evaluation import Evaluation, ScoreSettings, score_case
from medseg.evaluation.report.page import write_report
from medseg.evaluation.report.sections import Scene, cases_section, overlays_section, scores_section, showcase
from medseg.evaluation.result import CaseScores

STORED = ("RAS", "LPS", "PIR", "oblique")


def stored_as(array: np.ndarray, affine: np.ndarray, how: str) -> tuple[np.ndarray, np.ndarray]:
    """The same patient with other array axes; "oblique" turns the patient by 20 degrees about the feet-head axis."""
    if how == "oblique":
        angle = np.radians(20)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        return array, turn @ affine
    axes = nibabel.orientations
    way = axes.ornt_transform(axes.axcodes2ornt("RAS"), axes.axcodes2ornt(how))
    return nibabel.apply_orientation(array, way), affine @ axes.inv_ornt_aff(way, array.shape)


def page_of(path: Path, scenes: list[Scene], labels: Mapping[int, str]) -> str:
    """Write a page of overlays; its address."""
    return write_report(path, "Seen", [overlays_section(scenes, labels)]).as_uri()


def blobs(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A noisy image with two organs, a prediction that is off by a few voxels, the reference."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))

    def ball(x: float, y: float, radius: float) -> np.ndarray:
        return ((grid - np.array([x, y, 0.0])[:, None, None, None]) ** 2).sum(0) < radius**2

    image = 100 * np.exp(-(grid**2).sum(0)) + random.normal(size=shape) * 5
    reference = np.zeros(shape, np.uint8)
    reference[ball(0.4, 0.0, 0.25)], reference[ball(-0.4, 0.1, 0.2)] = 1, 2
    image += 40 * (reference == 1) - 30 * (reference == 2)
    return image.astype(np.float32), np.roll(reference, 1 + seed % 4, axis=seed % 3), reference


def forty_cases(path: Path, shape: tuple[int, int, int] = (160, 140, 80)) -> str:
    """The page of an evaluation of 40 cases, as `medseg evaluate` writes it; its address."""
    regions = {"liver": (1,), "spleen": (2,)}
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = (-80, -70, -60)
    cases = []
    for number in range(40):
        _, prediction, reference = blobs(number, (32, 28, 16))
        cases.append(
            CaseScores(f"case_{number:02d}", score_case(reference, prediction, spacing=(5, 5, 10), regions=regions))
        )
    evaluation = Evaluation(cases, regions, ScoreSettings())
    scenes = []
    for role, case in showcase(evaluation, 5):
        image, prediction, reference = blobs(int(case.name[-2:]), shape)
        scenes.append(Scene(case.name, image, prediction, reference, affine, case, role=role))
    table = cases_section(evaluation, pictured={scene.name for scene in scenes})
    sections = [overlays_section(scenes, {1: "liver", 2: "spleen"}), table, scores_section(evaluation)]
    return write_report(path, "Evaluation", sections, subtitle="40 cases").as_uri()
