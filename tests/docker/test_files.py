"""No Docker engine runs here, so the files are read: pins, users, health checks, and that every name exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "docker"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


def instructions() -> list[tuple[str, str]]:
    """(instruction, argument) of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (FOLDER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, argument in instructions():
        if word == "FROM":
            name = argument.split(" AS ")[1]
            found[name] = []
        elif name:
            found[name].append((word, argument))
    return found


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    arguments = dict(argument.split("=", 1) for word, argument in instructions() if word == "ARG")
    for word, argument in instructions():
        if word == "FROM":
            image = re.sub(r"\$\{(\w+)\}", lambda found: arguments[found.group(1)], argument.split()[0])
            assert image in stages() or re.search(r":\d+\.\d+", image), image
    for service in compose["services"].values():
        if "image" in service:
            assert re.search(r":\d+\.\d+", service["image"]), service["image"]


@pytest.mark.parametrize("stage", ["cpu", "cuda", "mlflow"])
def test_stage_runs_without_rights_and_reports_its_health(stage: str) -> None:
    words = stages()[stage]
    users = [argument for word, argument in words if word == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    assert any(word == "HEALTHCHECK" for word, _ in words)
    last_run = max(number for number, (word, _) in enumerate(words) if word == "RUN")
    assert last_run < max(number for number, (word, _) in enumerate(words) if word == "USER")


def test_copied_files_exist_and_nothing_is_fetched_unpinned() -> None:
    for word, argument in instructions():
        assert word != "ADD"
        if word == "COPY":
            for source in argument.split()[:-1]:
                assert (REPOSITORY / source).exists(), source
        if word == "RUN" and "pip install" in argument:
            assert "==" in argument or "-c constraints.txt" in argument
        if word == "RUN" and "apt-get install" in argument:
            assert "--no-install-recommends" in argument
            assert "rm -rf /var/lib/apt/lists" in argument


def test_compose_names_agree(compose: dict[str, Any]) -> None:
    services, volumes = compose["services"], compose["volumes"]
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            assert other in services
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in volumes or source.startswith(("$", ".", "/")), source
        build = service.get("build")
        if build:
            assert (FOLDER / build["context"]).resolve() == REPOSITORY
            assert (REPOSITORY / build["dockerfile"]).is_file()
            assert build["target"] in stages()
        assert "image" in service or build, name


def test_every_server_has_a_health_check_and_stays_on_this_machine(compose: dict[str, Any]) -> None:
    for name in ("database", "objects"):
        assert "healthcheck" in compose["services"][name]
    for service in compose["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_mlflow_answers_to_its_name_in_the_network(compose: dict[str, Any]) -> None:
    words = compose["services"]["mlflow"]["command"]
    hosts = next(word for word in words if word.startswith("--allowed-hosts=")).split("=")[1].split(",")
    client = compose["services"]["medseg"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://")
    assert client in hosts
    assert "localhost:5000" in hosts
    assert "--serve-artifacts" in words


def test_the_object_store_has_its_bucket_before_the_server_starts(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["objects"]["profiles"] == services["bucket"]["profiles"] == ["s3"]
    assert services["bucket"]["image"] == services["objects"]["image"]
    assert not services["objects"]["image"].startswith("minio/")  # no longer published
    wanted = services["mlflow"]["depends_on"]["bucket"]
    assert wanted == {"condition": "service_completed_successfully", "required": False}
    assert services["bucket"]["depends_on"]["objects"]["condition"] == "service_healthy"
    bucket = re.search(r"-name (\w+)", services["bucket"]["command"][0])
    assert bucket
    assert f"s3://{bucket.group(1)}" in (FOLDER / "README.md").read_text()


def test_no_password_is_written_down(compose: dict[str, Any]) -> None:
    text = (FOLDER / "compose.yaml").read_text()
    for secret in re.findall(r"(?:PASSWORD|SECRET\w*|ACCESS_KEY\w*):\s*(\S+)", text):
        assert secret.startswith("${"), secret
    database = compose["services"]["database"]["environment"]
    assert database["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")
