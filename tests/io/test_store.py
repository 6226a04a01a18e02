from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest

from medseg.errors import DataError, ResourceError
from medseg.io.datalist import Case
from medseg.io.store import DamagedStoreError, Store, StoredArrays, sample_foreground
from tests.volumes import make_case

pytestmark = pytest.mark.requirement("R8")


class Builder:
    """Builds arrays that tell which case they are of, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, case: Case) -> StoredArrays:
        self.calls += 1
        value = float(case.name[-1])
        label = np.zeros((5, 4, 3), np.int8)
        label[1:3, 1, 1] = 1
        return StoredArrays(
            np.full((2, 5, 4, 3), value, np.float32), label, sample_foreground(label), {"note": case.name}
        )


@pytest.fixture
def cases(tmp_path: Path) -> list[Case]:
    return [make_case(tmp_path / "data", f"c{i}", seed=i) for i in range(3)]


def test_a_case_is_built_once_and_read_back_whole(tmp_path: Path, cases: list[Case]) -> None:
    store, build = Store({"a": 1}, tmp_path / "s"), Builder()
    store.ensure_all(cases, build, workers=2)
    store.ensure_all(cases, build)
    assert build.calls == 3
    arrays = store.open(cases[2])
    assert arrays.image.shape == (2, 5, 4, 3)
    assert float(arrays.image[0, 0, 0, 0]) == 2.0
    assert arrays.properties == {"note": "c2"}
    assert arrays.foreground.tolist() == [[1, 1, 1, 1], [1, 2, 1, 1]]
    assert isinstance(arrays.image, np.memmap)


def test_another_recipe_is_another_place(tmp_path: Path, cases: list[Case]) -> None:
    Store({"a": 1}, tmp_path).ensure(cases[0], Builder())
    with pytest.raises(DamagedStoreError, match="nothing complete"):
        Store({"a": 2}, tmp_path).open(cases[0])


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no_record", "bad_record"])
def test_damage_is_noticed_and_the_case_rebuilt_with_one_warning(
    tmp_path: Path, cases: list[Case], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, build = Store({}, tmp_path / "s"), Builder()
    store.ensure(cases[1], build)
    folder = store.case_folder(cases[1])
    image = folder / "image.npy"
    content = bytearray(image.read_bytes())
    if damage == "flip":
        content[-7] ^= 1
        image.write_bytes(content)
    elif damage == "cut":
        image.write_bytes(content[:-10])
    elif damage == "empty":
        image.write_bytes(b"")
    elif damage == "no_record":
        (folder / "case.json").unlink()
    else:
        (folder / "case.json").write_text('{"version": 1')
    with caplog.at_level(logging.WARNING):
        arrays = store.ensure(cases[1], build)
    assert build.calls == 2
    assert float(arrays.image[1, 4, 3, 2]) == 1.0
    assert len(caplog.records) == 1
    assert "'c1'" in caplog.text


def test_a_changed_source_is_preprocessed_again_and_a_touched_one_is_not(tmp_path: Path, cases: list[Case]) -> None:
    store, build = Store({}, tmp_path / "s"), Builder()
    store.ensure(cases[0], build)
    os.utime(cases[0].images[0], (time.time() + 5, time.time() + 5))
    store.ensure(cases[0], build)
    assert build.calls == 1
    make_case(tmp_path / "data", "c0", seed=99)
    store.ensure(cases[0], build)
    assert build.calls == 2


def test_a_vanished_source_is_named(tmp_path: Path, cases: list[Case]) -> None:
    store = Store({}, tmp_path / "s")
    store.ensure(cases[0], Builder())
    cases[0].images[0].unlink()
    with pytest.raises(DataError, match=r"case 'c0'.*is gone"):
        store.open(cases[0])


def test_a_failing_case_raises_its_own_error_and_leaves_nothing_half_written(tmp_path: Path, cases: list[Case]) -> None:
    def build(case: Case) -> StoredArrays:
        if case.name == "c1":
            raise DataError("case 'c1': broken")
        return Builder()(case)

    store = Store({}, tmp_path / "s")
    with pytest.raises(DataError, match="case 'c1': broken"):
        store.ensure_all(cases, build)
    assert not list(store.folder.glob(".building-*"))
    assert float(store.ensure(cases[0], Builder()).image[0, 0, 0, 0]) == 0.0


def test_no_name_or_path_of_a_case_enters_the_store(tmp_path: Path) -> None:
    case = make_case(tmp_path / "Jane_Canary", "Jane_Canary_7")
    store = Store({}, tmp_path / "s")
    store.ensure(
        case, lambda case: StoredArrays(np.zeros((1, 2, 2, 2), np.float32), None, np.zeros((0, 4), np.int32), {})
    )
    for path in (tmp_path / "s").rglob("*"):
        assert "Canary" not in path.name
        assert path.is_dir() or b"Canary" not in path.read_bytes()


def test_a_store_that_cannot_be_written_says_where_and_what_to_do(tmp_path: Path, cases: list[Case]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot store"):
        Store({}, tmp_path / "file").ensure(cases[0], Builder())


def test_foreground_is_a_bounded_sample_of_every_label() -> None:
    label = np.zeros((40, 40, 40), np.int16)
    label[:, :, :20] = 3
    label[0, 0, 39] = 5
    rows = sample_foreground(label, most=100)
    assert (rows[:, 0] == 3).sum() == 100
    assert rows[rows[:, 0] == 5].tolist() == [[5, 0, 0, 39]]
    assert all(label[tuple(row[1:])] == row[0] for row in rows)
