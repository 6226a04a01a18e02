"""Sites that exchange features and gradients train exactly the network that one process would."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from medseg.collaboration.cut import Defence, Recorded, bytes_each_way, sent_levels
from medseg.collaboration.exchange import begin, train
from medseg.errors import ConfigError, DataError
from tests.collaboration.split_samples import PATIENTS, ROI, make_patients, one_piece, settings_of, sites_of, whole_of

TWO = (("flair", "t1c"), {"flair": [1, 2, 3, 4], "t1c": [0, 1, 2, 3, 4]})
THREE = (("mr", "ct", "pet"), {"mr": [2, 3, 4], "ct": [1, 2, 3, 4], "pet": [0, 1, 2, 3, 4]})
GRIDS = {"ct": 28, "mr": 24}
CT = {1: 32, 2: 64, 3: 96, 4: 96}  # channels of the levels that CT sends


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    root = tmp_path_factory.mktemp("patients")
    return {
        2: make_patients(root / "two", TWO[0], label="t1c"),
        3: make_patients(root / "three", THREE[0], label="pet", grids=GRIDS),
    }


@pytest.mark.parametrize(("number", "optimizer"), [(2, "sgd"), (2, "adamw"), (3, "sgd"), (3, "adamw")])
def test_twenty_steps_across_sites_equal_one_network_in_one_process(
    data: dict[int, Path], number: int, optimizer: str
) -> None:
    sites, sent = TWO if number == 2 else THREE
    rate = 1e-3 if optimizer == "adamw" else 1e-2
    label, others = sites_of(settings_of(sites, sent, optimizer=optimizer, learning_rate=rate), data[number])
    first = {name: value.clone() for name, value in whole_of(label, others).items()}
    losses = train(label, others, begin(label, others, PATIENTS))
    wanted, wanted_losses = one_piece(label, others)
    found = whole_of(label, others)
    assert set(found) == set(wanted)
    assert max(float((found[name] - wanted[name]).abs().max()) for name in wanted) == 0.0
    assert losses == wanted_losses
    assert len(losses) == 20
    assert max(float((found[name] - first[name]).abs().max()) for name in wanted) > 1e-4


def test_half_precision_on_the_wire_moves_the_loss_by_less_than_a_hundredth(data: dict[int, Path]) -> None:
    settings = settings_of(*TWO, optimizer="adamw")
    exact, rounded = sites_of(settings, data[2]), sites_of(settings, data[2], wire="float16")
    losses = [train(label, others, begin(label, others, PATIENTS)) for label, others in (exact, rounded)]
    differences = [abs(a - b) for a, b in zip(*losses, strict=True)]
    assert 0 < max(differences) < 0.01


def test_nothing_crosses_but_cuts_gradients_names_geometry_and_numbers_and_their_size_is_the_formula(
    data: dict[int, Path],
) -> None:
    settings = settings_of(*THREE, steps=2)
    label, others = sites_of(settings, data[3])
    log: list[tuple[str, str, str]] = []
    recorded = {name: Recorded(other, name, log) for name, other in others.items()}
    train(label, recorded, begin(label, recorded, PATIENTS))
    crop = "{case: str, epoch: int, index: int, center: [3 x float]}"
    geometry = "{case: str, shape: [3 x int], affine: [4 x [4 x float]]}"
    mr = "float32[2, 64, 2, 2, 2], float32[2, 96, 2, 2, 2], float32[2, 96, 2, 2, 2]"
    ct = f"float32[2, 32, 4, 4, 4], {mr}"
    assert sorted(set(log)) == sorted({
        *((f"to {name}", "hello", "[]") for name in others),
        *((f"from {name}", "hello", "{cases: [3 x str], steps: []}") for name in others),
        *((f"to {name}", "geometry", f"[[3 x {geometry}], bool]") for name in others),
        *((f"from {name}", method, "int") for name in others for method in ("geometry", "restore", "backward", "finish")),
        *((f"to {name}", "restore", "[int]") for name in others),
        *((f"to {name}", "forward", f"[int, [2 x {crop}]]") for name in others),
        ("from ct", "forward", f"[{ct}]"), ("to ct", "backward", f"[int, [{ct}]]"),
        ("from mr", "forward", f"[{mr}]"), ("to mr", "backward", f"[int, [{mr}]]"),
        *((f"to {name}", "finish", "[]") for name in others),
    })  # fmt: skip
    images = [text for _, _, text in log if "8, 8, 8" in text or "20, 20, 20" in text]
    assert not images
    features = others["ct"].forward(2, [vars(crop) | {"center": list(crop.center)} for crop in label.crops(2)])
    message = safetensors.torch.save({str(level): tensor for level, tensor in enumerate(features)})
    printed = bytes_each_way(CT, settings.config["network_def"]["strides"], ROI, 2, "float32")
    assert abs(len(message) - printed) / printed < 0.05
    assert bytes_each_way(CT, settings.config["network_def"]["strides"], ROI, 2, "float16") == printed // 2


@pytest.mark.parametrize(("steps", "kills", "every"), [(12, 10, 1), (7, 2, 3)])
def test_a_training_killed_again_and_again_ends_bit_for_bit_as_an_uninterrupted_one(
    data: dict[int, Path], tmp_path: Path, steps: int, kills: int, every: int
) -> None:
    settings = settings_of(*TWO, steps=steps)
    defence = Defence(dropout=0.2)
    label, others = sites_of(settings, data[2], folders=tmp_path / "whole", defence=defence)
    losses = train(label, others, begin(label, others, PATIENTS))
    secret = (tmp_path / "whole" / "flair" / "state" / "secret.pt").read_bytes()
    place = tmp_path / "killed" / "flair" / "state" / "secret.pt"
    place.parent.mkdir(parents=True)
    place.write_bytes(secret)
    draw = random.Random(0)
    causes: list[str] = []
    while True:
        again, parts = sites_of(settings, data[2], folders=tmp_path / "killed", defence=defence)
        for half in (again.half, parts["flair"].half):
            half.every = every
        first = begin(again, parts, PATIENTS)
        assert first % every == 0
        dying = {
            name: Dies(other, draw.randrange(1, 5) if len(causes) < kills else 10**6) for name, other in parts.items()
        }
        try:
            resumed = train(again, dying, first)
            break
        except DataError as error:
            causes.append(str(error))
    assert len(causes) == kills
    assert all("site 'flair', step" in cause for cause in causes)
    assert resumed == losses
    for name, other in {"label": again.half, "flair": parts["flair"].half}.items():
        wanted = label.half if name == "label" else others["flair"].half
        for key, value in wanted.part.state_dict().items():
            assert torch.equal(value, other.part.state_dict()[key]), (name, key)


class Dies:
    """A site whose process ends in the call with this number, before it answers or after it did the work."""

    def __init__(self, party: Any, call: int) -> None:
        self.party, self.left = party, call

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.left -= 1
            if self.left == 0 and self.party.half.done % 2:
                raise ConnectionError("the process is gone")
            answer = getattr(self.party, name)(*arguments)
            if self.left == 0:
                raise ConnectionError("the process is gone")
            return answer

        return call


def test_a_lost_reply_is_asked_for_again_and_the_step_is_made_once(data: dict[int, Path]) -> None:
    settings = settings_of(*TWO, steps=4)
    label, others = sites_of(settings, data[2])
    losses = train(label, others, begin(label, others, PATIENTS))
    again, parts = sites_of(settings, data[2])
    lossy = {name: LosesReplies(other) for name, other in parts.items()}
    assert train(again, lossy, begin(again, lossy, PATIENTS)) == losses
    assert lossy["flair"].lost > 6
    assert parts["flair"].half.done == 4


class LosesReplies:
    """A site whose first answer to every call is lost on the way."""

    def __init__(self, party: Any) -> None:
        self.party, self.lost = party, 0
        self.seen: set[tuple[str, int | None]] = set()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            answer = getattr(self.party, name)(*arguments)
            key = (name, arguments[0] if arguments and isinstance(arguments[0], int) else None)
            if key not in self.seen:
                self.seen.add(key)
                self.lost += 1
                raise TimeoutError("no answer")
            return answer

        return call


def test_wrong_sites_and_jobs_are_refused_in_one_line(data: dict[int, Path]) -> None:
    settings = settings_of(*TWO, steps=1)
    label, others = sites_of(settings, data[2])
    with pytest.raises(DataError, match=r"site 'flair' has no patient 'p9' \(1 of 2"):
        begin(label, others, ["p0", "p9"])
    with pytest.raises(ConfigError, match=r"asks for level 1, its site.json lets only \[2\] go"):
        type(others["flair"])("flair", others["flair"].images, settings, levels=[2])
    with pytest.raises(DataError, match="its reference geometry was not told"):
        others["flair"].forward(0, [{"case": "p0", "epoch": 0, "index": 0, "center": [1.0, 1.0, 1.0]}])
    with pytest.raises(ConfigError, match="noise without clip has no scale"):
        Defence(noise=1.0)
    with pytest.raises(ConfigError, match="finest level sent is 3"):
        sent_levels(3, 3)
    assert json.dumps(sent_levels(5)) == "[2, 3, 4]"
