"""A bundle says nothing about where records of its training go: only the user's words and variable do."""

from __future__ import annotations

import http.server
import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from medseg.commands.fit import fit_bundle, resolve_config
from medseg.commands.fit_tracking import VARIABLE, tracking_at, users_address, without_addresses
from medseg.errors import ConfigError
from medseg.layout import Layout
from medseg.tracking.own_store import artifact_place, knows_run, set_foreign_store_aside
from medseg.training.trainer import make_trainer
from tests.bundle.samples import make_bundle


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine, and what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_POST = do_PUT = do_PATCH = do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def plant_store(store: Path, place: str) -> None:
    """A store as a stranger could send it: its experiment's files go to `place`."""
    store.mkdir(parents=True)
    with sqlite3.connect(store / "mlflow.db") as connection:
        connection.execute("create table experiments (experiment_id integer, name text, artifact_location text)")
        connection.execute("create table runs (run_uuid text, artifact_uri text)")
        connection.execute("insert into experiments values (1, 'tiny_mr_unet', ?)", (place,))
        connection.execute("insert into runs values ('abc', ?)", (f"{place}/abc",))
    connection.close()


def test_addresses_in_a_bundle_are_never_contacted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listener: tuple[str, list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    address, asked = listener
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    layout = make_bundle(tmp_path / "bundle", tmp_path / "data")
    train = json.loads(layout.train.read_text())
    train["train"]["trainer"] |= {"tracking_uri": address, "parent_run": None}
    layout.train.write_text(json.dumps(train))
    for file in (layout.metadata, layout.plan):
        content = json.loads(file.read_text())
        content |= {"tracking_uri": address, "homepage": address, "data_source": f"{address}/data.zip"}
        if file == layout.metadata:
            content |= {"schema": f"{address}/schema.json"}
            file.write_text(json.dumps(content))
    plant_store(layout.runs, f"mlflow-artifacts:/{address.removeprefix('http:')}/x")
    fit_bundle(layout.folder, fold=0)
    assert asked == []
    assert "train::trainer::tracking_uri); it is not used" in caplog.text
    assert (layout.runs / "mlflow_from_elsewhere_1.db").is_file()
    with sqlite3.connect(layout.runs / "mlflow.db") as connection:
        places = {row[0] for row in connection.execute("select artifact_uri from runs")}
    assert places
    assert all(place.startswith(artifact_place(layout.runs)) for place in places)


def test_the_users_address_is_told_from_the_bundles() -> None:
    bundle = {"train": {"trainer": {"tracking_uri": "http://stranger"}}}
    assert users_address(bundle, bundle, {}) is None
    assert users_address(bundle, bundle, {"train#trainer#tracking_uri": "http://stranger"}) == "http://stranger"
    mine = {"train": {"trainer": {"tracking_uri": "http://mine"}}}
    assert users_address(bundle, mine, {}) == "http://mine"  # from a stacked file
    assert users_address({}, mine, {}) == "http://mine"
    for reference in ("@elsewhere", "$'http://' + 'x'", "%file.json::x", 3):
        with pytest.raises(ConfigError, match="the address itself"):
            users_address(bundle, {"train": {"trainer": {"tracking_uri": reference}}}, {})


def test_no_address_is_left_at_any_depth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = {"a": [{"_target_": "X", "tracking_uri": "@u", "b": {"artifact_location": "s3://x", "lr": 1}}]}
    assert without_addresses(config) == {"a": [{"_target_": "X", "b": {"lr": 1}}]}
    assert "a::0::tracking_uri" in caplog.text
    layout = make_bundle(tmp_path / "bundle")
    overrides = {"train::trainer::tracking_uri": "http://mine"}
    assert "http://mine" not in json.dumps(resolve_config(layout.folder, overrides))


def test_the_variable_is_set_for_the_run_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "http://before")
    with tracking_at("http://mine"):
        assert os.environ[VARIABLE] == "http://mine"
    assert os.environ[VARIABLE] == "http://before"
    with tracking_at(None):
        assert os.environ[VARIABLE] == "http://before"


@pytest.mark.parametrize(
    ("setting", "value"),
    [("default_root_dir", "http://x/y"), ("logger", {"_target_": "X"}), ("profiler", "s3://x"), ("logger", [True])],
)
def test_lightning_gets_no_place_from_a_bundle(setting: str, value: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"train::trainer::{setting}"):
        make_trainer(1, bundle_root=str(tmp_path), device="cpu", tracking=False, **{setting: value})


def test_address_given_to_the_trainer_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m monai.bundle run` hands on what train.json says."""
    monkeypatch.delenv(VARIABLE, raising=False)
    trainer = make_trainer(1, bundle_root=str(tmp_path), device="cpu", tracking_uri="http://127.0.0.1:9")
    assert trainer.logger._tracking_uri == f"sqlite:///{Layout(tmp_path).runs}/mlflow.db"


def test_store_of_another_place_is_set_aside(tmp_path: Path) -> None:
    store = tmp_path / "own"
    plant_store(store, artifact_place(store))
    assert not set_foreign_store_aside(store)
    assert knows_run(store, "abc")
    assert not knows_run(store, "abd")
    for number, place in enumerate(("http://x", "file:///etc", "s3://bucket", f"{artifact_place(store)}x", "/tmp")):
        other = tmp_path / str(number)
        plant_store(other, place)
        assert set_foreign_store_aside(other)
        assert [path.name for path in other.iterdir()] == ["mlflow_from_elsewhere_1.db"]
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "mlflow.db").write_bytes(b"no database at all, but long enough to look at" * 20)
    assert set_foreign_store_aside(broken)
    assert not set_foreign_store_aside(tmp_path / "nothing")
