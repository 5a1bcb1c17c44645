"""Listing more jobs than a service tells at a time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from finery.quantizer.v1 import quantizer_pb2 as export
from finery.quantizer.v1.quantizer_pb2_grpc import QuantizerServiceServicer, add_QuantizerServiceServicer_to_server
from finery.trainer.v1 import trainer_pb2 as training
from finery.trainer.v1.trainer_pb2_grpc import TrainerServiceServicer, add_TrainerServiceServicer_to_server
from finery_client.calls import Calls
from finery_client.endpoints import Endpoint
from finery_client.jobs import jobs_of

STORED = 2300


class Lists(TrainerServiceServicer, QuantizerServiceServicer):
    """Has numbered jobs; a page token is the number of the page's first one."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def _page(self, request: Any) -> tuple[range, str]:
        self.sizes.append(request.page_size)
        start = int(request.page_token or 0)
        end = min(start + min(request.page_size, 1000), STORED)
        return range(start, end), str(end) if end < STORED else ""

    def ListTrainingJobs(self, request: Any, context: Any) -> training.ListTrainingJobsResponse:
        numbers, token = self._page(request)
        jobs = [training.TrainingJob(name=str(number)) for number in numbers]
        return training.ListTrainingJobsResponse(training_jobs=jobs, next_page_token=token)

    def ListExportJobs(self, request: Any, context: Any) -> export.ListExportJobsResponse:
        numbers, token = self._page(request)
        jobs = [export.ExportJob(name=str(number)) for number in numbers]
        return export.ListExportJobsResponse(export_jobs=jobs, next_page_token=token)


@pytest.fixture
def lists() -> Iterator[tuple[Lists, str]]:
    servicer = Lists()
    server = grpc.server(ThreadPoolExecutor(4))
    add_TrainerServiceServicer_to_server(servicer, server)
    add_QuantizerServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.mark.parametrize("service", ["trainer", "quantizer"])
@pytest.mark.parametrize(
    ("limit", "found", "sizes"),
    [(20, 20, [20]), (1000, 1000, [1000]), (2100, 2100, [1000, 1000, 100]), (2**40, STORED, [1000, 1000, 1000])],
)
def test_as_many_as_were_asked_for(
    lists: tuple[Lists, str], service: str, limit: int, found: int, sizes: list[int]
) -> None:
    servicer, address = lists
    with Calls(Endpoint(service, address)) as calls:
        names = [job.name for job in jobs_of(service, calls).recent(limit)]
    assert names == [str(number) for number in range(found)]
    assert servicer.sizes == sizes
