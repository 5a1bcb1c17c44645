from pathlib import Path

import pytest

from finery.jobs.v1.worker_pb2 import ReportRequest, ReportResponse, WorkerOutcome
from finery_shared.jobs.executor import Task
from finery_shared.jobs.reporter import Reporter


class Unheard(Reporter):
    """A reporter whose service is away; counts how often it tried."""

    tries = 0

    def _send(self, request: ReportRequest) -> ReportResponse | None:
        self.tries += 1
        return super()._send(request)


def test_a_worker_whose_service_is_gone_hands_in_its_end_patiently(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = Unheard(
        Task("trainingJobs/1", 1, "secret", "", str(tmp_path), str(tmp_path / "endpoint.json")), patience=1
    )
    reporter.start()
    assert reporter.finish(WorkerOutcome()) is False
    assert "giving up" in capsys.readouterr().err
    assert 2 <= reporter.tries <= 10  # about five a second: it shall not take the core that others work on
