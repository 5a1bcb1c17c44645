"""The service in this process, over gRPC; its workers never start."""

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from finery.jobs.v1.jobs_pb2 import JobState
from finery.quantizer.v1 import quantizer_pb2 as pb
from finery.quantizer.v1.quantizer_pb2_grpc import QuantizerServiceStub
from finery_quantizer.bootstrap import QuantizerApplication
from finery_quantizer.settings import QuantizerSettings
from finery_shared.errors import FineryError, Reason
from finery_shared.rpc import from_rpc_error, open_channel
from tests.unit.quantizer.models import publish_adapter, write_adapter, write_model


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[QuantizerServiceStub]:
    settings = QuantizerSettings(
        listen="127.0.0.1:0", home=tmp_path / "home", allowed_roots=(tmp_path,), max_running_jobs=0
    )
    application = QuantizerApplication(settings)
    channel = open_channel(await application.start())
    yield QuantizerServiceStub(channel)
    await channel.close()
    await application.stop()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    base = write_model(tmp_path / "tiny-chat")
    return publish_adapter(write_adapter(tmp_path / "checkpoint-5", base), base, "tiny-chat")


async def refused(call: object) -> FineryError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    return from_rpc_error(caught.value, "the quantizer")


async def test_a_created_job_is_queued_with_its_defaults_filled_in(
    stub: QuantizerServiceStub, checkpoint: Path
) -> None:
    spec = pb.ExportSpec(ckpt_dir=str(checkpoint), merge_lora=True, quant_bits=4)
    request = pb.CreateExportJobRequest(spec=spec, request_id=str(uuid.uuid4()))
    job = (await stub.CreateExportJob(request)).export_job
    assert job.name.startswith("exportJobs/")
    assert job.status.state == JobState.JOB_STATE_QUEUED
    assert (job.spec.quant_n_samples, job.spec.quant_seqlen, job.spec.dataset_seed) == (256, 2048, 42)
    assert job.spec.quant_method == "awq"
    assert list(job.spec.datasets) == ["general-zh", "general-en"]
    assert (await stub.CreateExportJob(request)).export_job.name == job.name
    request.spec.quant_bits = 0
    assert (await refused(stub.CreateExportJob(request))).reason is Reason.REQUEST_ID_REUSED
    listed = (await stub.ListExportJobs(pb.ListExportJobsRequest())).export_jobs
    assert [j.name for j in listed] == [job.name]


async def test_a_queued_job_is_cancelled_watched_and_deleted(stub: QuantizerServiceStub, checkpoint: Path) -> None:
    spec = pb.ExportSpec(ckpt_dir=str(checkpoint), merge_lora=True)
    job = (await stub.CreateExportJob(pb.CreateExportJobRequest(spec=spec))).export_job
    await stub.CancelExportJob(pb.CancelExportJobRequest(name=job.name))
    async with asyncio.timeout(10):
        states = [r.event.status.state async for r in stub.WatchExportJob(pb.WatchExportJobRequest(name=job.name))]
    assert states[0] == JobState.JOB_STATE_QUEUED
    assert states[-1] == JobState.JOB_STATE_CANCELLED
    assert not (await stub.ListExportMetrics(pb.ListExportMetricsRequest(name=job.name))).metrics
    await stub.DeleteExportJob(pb.DeleteExportJobRequest(name=job.name))
    assert (await refused(stub.GetExportJob(pb.GetExportJobRequest(name=job.name)))).reason is Reason.JOB_NOT_FOUND


async def test_what_is_wrong_is_told_at_create(stub: QuantizerServiceStub, checkpoint: Path) -> None:
    async def refusal(**fields: object) -> FineryError:
        spec = pb.ExportSpec(**{"ckpt_dir": str(checkpoint), "merge_lora": True, "quant_bits": 4, **fields})  # type: ignore[arg-type]
        return await refused(stub.CreateExportJob(pb.CreateExportJobRequest(spec=spec)))

    error = await refusal(ckpt_dir="/etc")
    assert error.reason is Reason.PATH_NOT_ALLOWED
    assert "FINERY_QUANTIZER_ALLOWED_ROOTS" in error.message
    assert (await refusal(quant_method="gptq")).reason is Reason.UNSUPPORTED
    assert (await refusal(output_dir="/srv/out")).reason is Reason.PATH_NOT_ALLOWED
    (checkpoint / "manifest.json").unlink()
    assert (await refusal()).reason is Reason.MANIFEST_MISSING


def test_the_service_never_imports_torch() -> None:
    code = (
        "import sys, finery_quantizer.__main__, finery_quantizer.worker;"
        "print([m for m in ('torch', 'transformers', 'datasets', 'awq') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_workers_read_the_settings_of_their_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = QuantizerSettings(home=tmp_path, allowed_roots=(tmp_path / "a", tmp_path / "b"), max_perplexity_ratio=2)
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert QuantizerSettings.load() == settings


def test_a_bad_setting_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINERY_QUANTIZER_MAX_PERPLEXITY_RATIO", "0.5")
    with pytest.raises(FineryError, match="FINERY_QUANTIZER_MAX_PERPLEXITY_RATIO"):
        QuantizerSettings.load()
