"""What a worker of a cohort does, whoever started it: load the model once, predict one case after the other."""

from __future__ import annotations

import os
from dataclasses import dataclass

import medseg
from medseg import errors
from medseg.bundle.load import Trust, load_bundle
from medseg.cases.batch import CaseResult
from medseg.cases.one_by_one import OneByOne
from medseg.cases.outputs import OutputOptions
from medseg.errors import MedsegError
from medseg.inference.settings import PredictOptions
from medseg.io import Case

from .predict_job import make_job


@dataclass(frozen=True)
class Order:
    """What a worker is told before its first case.

    Args:
        bundle: folder, as the worker sees it.
        outputs, options, trust, anyway: as of `predict_bundle`.
        count: cases of the cohort.
        threads: CPU threads of a worker; None leaves them alone.
        request: the hash of all that decides the labels, as the driver has it.
    """

    bundle: str
    outputs: OutputOptions
    options: PredictOptions
    trust: Trust
    anyway: bool
    count: int
    threads: int | None
    request: str


@dataclass(frozen=True)
class Refused:
    """The model cannot be loaded, or is another one: an error of ours by its type and text."""

    kind: str
    text: str

    def error(self) -> MedsegError:
        """The error itself."""
        kind = getattr(errors, self.kind, MedsegError)
        return kind(self.text) if issubclass(kind, MedsegError) else MedsegError(f"{self.kind}: {self.text}")


class CaseWorker:
    """Predicts one case a call."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._cases: OneByOne | None = None

    def run(self, case: Case, ahead: Case | None) -> CaseResult | Refused:
        """The case's result; what is wrong with the model itself comes back as `Refused`."""
        try:
            if self._cases is None:
                self._cases = self._open()
            return self._cases.run(case, ahead)
        except MedsegError as error:
            return Refused(type(error).__name__, str(error.args[0]) if error.args else str(error))

    def _open(self) -> OneByOne:
        order = self.order
        if order.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(order.threads)
            import torch

            torch.set_num_threads(order.threads)
        bundle = load_bundle(order.bundle, trust=order.trust).of_shown_files()
        job = make_job(bundle, order.outputs, order.options, anyway=order.anyway, count=order.count)
        if job.request_hash != order.request:
            raise errors.BundleError(
                f"{order.bundle}: is another bundle on {os.uname().nodename} than where the run was started, or medseg "
                f"{medseg.__version__} reads it in another way; put the same bundle and version on all machines"
            )
        return OneByOne(job)


def of_answer(answer: object) -> CaseResult:
    """A worker's answer, or the error that it stands for.

    Raises:
        MedsegError: the model cannot be loaded.
    """
    if isinstance(answer, Refused):
        raise answer.error()
    assert isinstance(answer, CaseResult)
    return answer
