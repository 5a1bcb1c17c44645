"""The service in this process, over gRPC; its workers never start."""

import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from finery.artifacts.v1.artifacts_pb2 import ModelSource
from finery.jobs.v1.jobs_pb2 import JobState
from finery.trainer.v1 import trainer_pb2 as pb
from finery.trainer.v1.trainer_pb2_grpc import TrainerServiceStub
from finery_shared.errors import FineryError, Reason
from finery_shared.rpc import from_rpc_error, open_channel
from finery_trainer.bootstrap import TrainerApplication
from finery_trainer.settings import TrainerSettings
from tests.unit.trainer.directories import write_small_files


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[TrainerServiceStub]:
    settings = TrainerSettings(
        listen="127.0.0.1:0", home=tmp_path / "home", allowed_roots=(tmp_path,), max_running_jobs=0
    )
    application = TrainerApplication(settings)
    channel = open_channel(await application.start())
    yield TrainerServiceStub(channel)
    await channel.close()
    await application.stop()


@pytest.fixture
def spec(tmp_path: Path) -> pb.TrainingSpec:
    model = write_small_files(tmp_path / "my-chat")
    return pb.TrainingSpec(
        model=ModelSource(model_id_or_path=str(model)),
        datasets=["general-en#10"],
        output_dir=str(tmp_path / "output"),
    )


async def refused(call: object) -> FineryError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return from_rpc_error(caught.value, "the trainer")


async def test_a_created_job_is_queued_with_its_defaults_filled_in(
    stub: TrainerServiceStub, spec: pb.TrainingSpec
) -> None:
    request = pb.CreateTrainingJobRequest(spec=spec, request_id=str(uuid.uuid4()))
    job = (await stub.CreateTrainingJob(request)).training_job
    assert job.name.startswith("trainingJobs/")
    assert job.status.state == JobState.JOB_STATE_QUEUED
    assert job.spec.model.model_type == "my-chat"
    assert (job.spec.lora.rank, job.spec.lora.alpha, list(job.spec.lora.target_modules)) == (8, 32, ["DEFAULT"])
    assert (job.spec.optimization.batch_size, job.spec.optimization.gradient_accumulation_steps) == (1, 16)
    assert not job.spec.optimization.HasField("max_steps")
    assert (await stub.CreateTrainingJob(request)).training_job.name == job.name
    request.spec.optimization.batch_size = 2
    assert (await refused(stub.CreateTrainingJob(request))).reason is Reason.REQUEST_ID_REUSED
    listed = (await stub.ListTrainingJobs(pb.ListTrainingJobsRequest())).training_jobs
    assert [one.name for one in listed] == [job.name]
    assert (await stub.GetTrainingJob(pb.GetTrainingJobRequest(name=job.name))).training_job == job


async def test_a_queued_job_is_cancelled_at_once_and_then_forgotten(
    stub: TrainerServiceStub, spec: pb.TrainingSpec
) -> None:
    name = (await stub.CreateTrainingJob(pb.CreateTrainingJobRequest(spec=spec))).training_job.name
    delete = pb.DeleteTrainingJobRequest(name=name)
    assert (await refused(stub.DeleteTrainingJob(delete))).reason is Reason.JOB_NOT_FINISHED
    cancelled = (await stub.CancelTrainingJob(pb.CancelTrainingJobRequest(name=name))).training_job
    assert cancelled.status.state == JobState.JOB_STATE_CANCELLED
    watched = [r.event async for r in stub.WatchTrainingJob(pb.WatchTrainingJobRequest(name=name))]
    assert [event.status.state for event in watched] == [JobState.JOB_STATE_QUEUED, JobState.JOB_STATE_CANCELLED]
    assert list((await stub.ListTrainingMetrics(pb.ListTrainingMetricsRequest(name=name))).metrics) == []
    await stub.DeleteTrainingJob(delete)
    assert (await refused(stub.GetTrainingJob(pb.GetTrainingJobRequest(name=name)))).reason is Reason.JOB_NOT_FOUND


async def test_bad_input_is_refused_and_nothing_is_stored(
    stub: TrainerServiceStub, spec: pb.TrainingSpec, tmp_path: Path
) -> None:
    spec.optimization.learning_rate = -1
    error = await refused(stub.CreateTrainingJob(pb.CreateTrainingJobRequest(spec=spec)))
    assert (error.reason, error.metadata["field"]) == (Reason.INVALID_ARGUMENT, "learning_rate")
    spec.optimization.ClearField("learning_rate")
    spec.datasets.append("self-cognition")
    error = await refused(stub.CreateTrainingJob(pb.CreateTrainingJobRequest(spec=spec)))
    assert error.reason is Reason.PLACEHOLDER_SURVIVED
    assert not (await stub.ListTrainingJobs(pb.ListTrainingJobsRequest())).training_jobs
    assert not (tmp_path / "output").exists()


def test_the_service_imports_no_torch() -> None:
    code = "import sys, finery_trainer.bootstrap; print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
