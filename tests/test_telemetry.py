"""Nothing reports usage to anyone: neither medseg nor the packages it opens."""

import os
import subprocess
import sys

import pytest

SPY = """
import socket
tried = []
def refuse(self, address, *rest):
    tried.append(address)
    raise OSError("no network in this test")
socket.socket.connect = refuse
socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda host, *rest, **more: refuse(None, host)
"""


def run(code: str) -> str:
    """Output of a fresh process in which every connection is refused and noted; it is nobody's continuous integration."""
    quiet = ("CI", "TF_BUILD", "JENKINS_URL", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY", "GITHUB_ACTIONS")
    environment = {key: value for key, value in os.environ.items() if key not in quiet}
    done = subprocess.run(
        [sys.executable, "-c", SPY + code], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout.strip()


def test_mlflow_is_told_not_to_report() -> None:
    code = """
import medseg
import mlflow
from mlflow.telemetry.utils import is_telemetry_disabled
print(is_telemetry_disabled(), tried)
"""
    assert run(code) == "True []"


def test_openvino_reports_nothing_when_it_is_imported() -> None:
    pytest.importorskip("openvino")
    code = """
import time
from medseg.inference.engines import import_openvino
openvino = import_openvino()
openvino.convert_model
import openvino.tools.ovc as ovc
time.sleep(1)
print(type(ovc.telemetry).__module__, tried)
"""
    assert run(code) == "openvino.tools.ovc.telemetry_stub []"
