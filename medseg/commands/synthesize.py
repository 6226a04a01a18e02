"""`medseg synthesize`: label maps and images that belong together, and a plan for a generator that learns to make them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.bars import progress_bar
from medseg.datasets import Dataset, load_case, open_dataset
from medseg.errors import ConfigError, DataError
from medseg.io.datalist import Case
from medseg.io.geometry import spacing_of
from medseg.io.synthetic import synthetic_among
from medseg.synthesis.marked_folder import SyntheticFolder
from medseg.types import FilePath

log = logging.getLogger(__name__)


def real_cases(data: FilePath, names: Sequence[str] = ()) -> tuple[Dataset, list[Case]]:
    """A data set and its labelled cases, all of them real.

    Args:
        data: its folder.
        names: of those to take; all by default.

    Raises:
        DataError: some are synthetic, or a name is not there.
    """
    dataset = open_dataset(data)
    cases = [case for case in dataset.cases if case.label is not None]
    if unknown := sorted(set(names) - {case.name for case in cases}):
        raise DataError(
            f"{data}: has no labelled case {unknown[0]!r}; it has {', '.join(c.name for c in cases[:5])}, ..."
        )
    cases = [case for case in cases if not names or case.name in names]
    if marked := synthetic_among(case.images[0] for case in cases):
        raise DataError(f"{data}: {len(marked)} cases such as {marked[0]} are synthetic; name a folder of real ones")
    return dataset, cases


def synthesize_pairs(
    method: str, data: FilePath, output: FilePath, *, count: int, seed: int = 0, cases: Sequence[str] = ()
) -> list[str]:
    """Write pairs made out of real ones; returns their names.

    Args:
        method: a key of `medseg.synthesis.pairs.METHODS`.
        data: a labelled data set.
        output: a new folder.
        count: pairs; each takes the next real case.
        seed: of the whole set; pair n is the same whatever the count is.
        cases: names of the real cases to take; all by default.

    Raises:
        ConfigError: count below 1. DataError: the data or the output folder.
    """
    from medseg.synthesis.pairs import new_pair

    if count < 1:
        raise ConfigError(f"--count is {count}; expected at least 1")
    dataset, real = real_cases(data, cases)
    made = SyntheticFolder(Path(output), method, {"seed": seed})
    made.begin(dataset)
    with progress_bar("making", count, unit="pair") as advance:
        for number in range(count):
            case = real[number % len(real)]
            image, label = load_case(case, dataset)
            random = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, number])))
            new, new_label = new_pair(method, image.array, label.array, spacing_of(image.affine), random)
            made.add(number, new, new_label, image.affine, {"source": case.name})
            advance(number + 1)
    return list(made.cases)
