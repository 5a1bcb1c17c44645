"""Gateway processes in front of real inference processes: the whole way of a request, with the fake engine at its end.

`python -m tests.integration.serving.serving DIRECTORY` serves the model `toy` until its input ends, and prints the
address first; FINERY_GATEWAY_* is the gateway's as ever.
"""

import sys
from pathlib import Path

import grpc

from finery.inference.v1 import deployments_pb2 as d
from finery.inference.v1.deployments_pb2_grpc import DeploymentServiceStub
from tests.fakes.toy_model import TOOL_CHATML, write_model
from tests.integration.gateway.processes import ROOT, Process, Processes, wait_until

INFERENCE_PYTHON = ROOT / ".venvs" / "inference" / "bin" / "python"


class Replica:
    """One inference process and what it has deployed."""

    def __init__(self, process: Process, models: Path) -> None:
        self.process = process
        self._models = models

    @property
    def address(self) -> str:
        return self.process.address()

    def deploy(self, name: str) -> None:
        """Serve a model under a name; returns when it is READY."""
        path = self._models / name
        if not path.exists():
            write_model(path, TOOL_CHATML)
        spec = d.DeploymentSpec(model={"model_id_or_path": str(path)}, served_model_name=name)
        with grpc.insecure_channel(self.address) as channel:
            DeploymentServiceStub(channel).CreateDeployment(d.CreateDeploymentRequest(spec=spec), timeout=30)
        wait_until(lambda: self.state(name) == d.DEPLOYMENT_STATE_READY)

    def state(self, name: str) -> int:
        """Where a deployment is in its life."""
        with grpc.insecure_channel(self.address) as channel:
            listed = DeploymentServiceStub(channel).ListDeployments(d.ListDeploymentsRequest(), timeout=30)
        return next((item.state for item in listed.deployments if item.model_id == name), 0)

    def stats(self, name: str = "toy") -> d.GetDeploymentStatsResponse:
        """What the engine says of its work."""
        with grpc.insecure_channel(self.address) as channel:
            stub = DeploymentServiceStub(channel)
            listed = stub.ListDeployments(d.ListDeploymentsRequest(), timeout=30).deployments
            resource = next(item.name for item in listed if item.model_id == name)
            return stub.GetDeploymentStats(d.GetDeploymentStatsRequest(name=resource), timeout=30)

    def running(self, name: str = "toy") -> int:
        """Requests that the engine works on."""
        return int(self.stats(name).running_requests)


class Serving:
    """All processes of one test."""

    def __init__(self, directory: Path) -> None:
        self._processes = Processes(directory)
        self._models = directory / "models"
        self._replicas = 0

    def replica(self, *models: str, rate: float = 0, **environment: str) -> Replica:
        """An inference process with the fake engine; ``rate`` is its tokens a second for each answer, 0 is any."""
        assert INFERENCE_PYTHON.exists(), "run `make env-inference` first"
        settings = {
            "FINERY_INFERENCE_ENGINE": "fake",
            "FINERY_INFERENCE_LISTEN": "127.0.0.1:0",
            "FINERY_INFERENCE_INSTANCE": str(self._replicas),
            "FINERY_INFERENCE_ALLOWED_ROOTS": str(self._models),
            "FINERY_INFERENCE_FAKE_TOKENS_PER_SECOND": str(rate),
        }
        self._replicas += 1
        process = self._processes.spawn("finery_inference", python=str(INFERENCE_PYTHON), **(settings | environment))
        replica = Replica(process, self._models)
        for model in models:
            replica.deploy(model)
        return replica

    def gateway(self, *replicas: Replica, **environment: str) -> Process:
        """A gateway in front of these."""
        return self._processes.gateway(*(replica.process for replica in replicas), **environment)

    def stop(self) -> None:
        """Kill what is left."""
        self._processes.stop()


def main() -> int:
    serving = Serving(Path(sys.argv[1]))
    try:
        gateway = serving.gateway(serving.replica("toy"))
        print(f"http://{gateway.address()}", flush=True)  # noqa: T201
        sys.stdin.read()
    finally:
        serving.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
