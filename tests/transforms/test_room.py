"""Memory for the network's grid is asked for before it is taken, in prediction and in training."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from medseg import free_memory as memory
from medseg.errors import ResourceError
from medseg.training.prepare import preprocess_case
from medseg.transforms import room
from medseg.transforms.nnunet_preprocessing import NnunetPreprocessing
from medseg.transforms.preprocessing import Preprocessing
from tests.volumes import make_case

IMAGE = np.ones((1, 40, 40, 40), np.float32)
WRONG_UNIT = np.diag([1000.0, 1000.0, 1000.0, 1.0])  # mm written for micrometres


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing([1.0, 1.0, 1.0], [{"kind": "zscore"}]),
        NnunetPreprocessing([1.0, 1.0, 1.0], ["ZScoreNormalization"], [False], [{}]),
    ],
)
def test_a_grid_that_no_machine_holds_is_refused_before_it_is_made(preprocessing: Preprocessing) -> None:
    began = time.monotonic()
    words = (
        r"grid of 40000 x 40000 x 40000 voxels \(the image has 40 x 40 x 40\) needs \d+\.\d GiB .* check the spacing"
    )
    with pytest.raises(ResourceError, match=words):
        preprocessing.apply(IMAGE, WRONG_UNIT)
    assert time.monotonic() - began < 5
    if isinstance(preprocessing, Preprocessing):
        with pytest.raises(ResourceError, match="needs"):
            preprocessing.apply_label(np.zeros((40, 40, 40), np.uint8), WRONG_UNIT)


def test_training_names_the_case(tmp_path: Path) -> None:
    case = make_case(tmp_path, "huge", spacing=(1000.0, 1000.0, 1000.0))
    build = preprocess_case(Preprocessing([1.0, 1.0, 1.0], [{"kind": "zscore"}]), {0: "background", 1: "ball"})
    with pytest.raises(ResourceError, match=r"case 'huge': the network's grid of \d+ x"):
        build(case)


def test_threads_that_need_much_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Preprocessing([1.0, 1.0, 1.0], [{"kind": "zscore"}]).grid_map(IMAGE, np.eye(4))
    needed = 4 * 3 * 40**3
    monkeypatch.setattr(room, "ASK_ABOVE_BYTES", 0)
    monkeypatch.setattr(room, "free_memory", lambda: needed)
    inside, most = [0], [0]

    def work() -> None:
        with room.room_for_image(grid, 1):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == [1]
    assert room._taken == 0


def test_free_memory_is_the_least_of_machine_container_and_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = memory.free_memory()
    assert 0 < whole < 2**50
    monkeypatch.setattr(memory, "_address_space_free", lambda: 5)
    assert memory.free_memory() == 5
    monkeypatch.setattr(memory, "_container_free", lambda: -3)
    assert memory.free_memory() == 0
