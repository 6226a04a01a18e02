"""Cases as they come, one call each: what a worker of a cohort does. The next one can be read while one is computed."""

from __future__ import annotations

import gc
import time
from concurrent.futures import Future, ThreadPoolExecutor

from medseg.io import Case

from .batch import CaseResult, Job, Reading, Segmenter, compute_case, failed_case, read_case


class OneByOne:
    """Predicts single cases with a model that is loaded once.

    Args:
        job: what `run_cases` needs, too.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.segmenter: Segmenter | None = None
        self._reader = ThreadPoolExecutor(1, "read")
        self._ahead: tuple[Case, Future[Reading | Exception | None]] | None = None

    def run(self, case: Case, ahead: Case | None = None) -> CaseResult:
        """Predict a case and write its files.

        Args:
            case: this one.
            ahead: the one that is likely to be asked for next; it is read in the meantime.

        Raises:
            MedsegError: the model cannot be loaded, which would be so for every case.
        """
        began = time.perf_counter()
        box: list[Reading | Exception | None] = [self._taken(case)]
        if ahead is not None:
            self._ahead = ahead, self._reader.submit(read_case, ahead, self.job)
        if self.segmenter is None and isinstance(box[0], Reading):
            self.segmenter = self.job.segmenter()
            gc.freeze()
        try:
            if isinstance(box[0], Exception):
                raise box[0]
            if box[0] is None:
                return CaseResult(case.name, "skipped")
            assert self.segmenter is not None
            return compute_case(case, box, self.segmenter, began, self.job)()
        except Exception as error:
            return failed_case(case, error)
        finally:
            gc.collect()

    def _taken(self, case: Case) -> Reading | Exception | None:
        if self._ahead is not None:
            named, reading = self._ahead
            self._ahead = None
            found = reading.result()
            if named == case:
                return found
        return read_case(case, self.job)
