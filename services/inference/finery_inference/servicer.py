"""The two gRPC services: they translate, and hand on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import grpc

from finery.inference.v1 import deployments_pb2 as dpb
from finery.inference.v1 import inference_pb2 as ipb
from finery.inference.v1.deployments_pb2_grpc import DeploymentServiceServicer
from finery.inference.v1.inference_pb2_grpc import InferenceServiceServicer
from finery_inference import convert
from finery_inference.deployments.adapter_manager import AdapterManager
from finery_inference.deployments.manager import DeploymentManager
from finery_inference.generation.generator import Generator

Context = grpc.aio.ServicerContext[Any, Any]


class DeploymentServicer(DeploymentServiceServicer):
    """DeploymentService."""

    def __init__(self, manager: DeploymentManager, adapters: AdapterManager) -> None:
        self._manager = manager
        self._adapters = adapters

    async def CreateDeployment(  # noqa: D102
        self, request: dpb.CreateDeploymentRequest, context: Context
    ) -> dpb.CreateDeploymentResponse:
        spec = convert.deployment_spec(request.spec)
        deployment = await self._manager.create(spec, convert.request_id(request.request_id))
        return dpb.CreateDeploymentResponse(deployment=convert.deployment_message(deployment))

    async def GetDeployment(self, request: dpb.GetDeploymentRequest, context: Context) -> dpb.GetDeploymentResponse:  # noqa: D102
        deployment = self._manager.get(request.name)
        return dpb.GetDeploymentResponse(deployment=convert.deployment_message(deployment))

    async def ListDeployments(  # noqa: D102
        self, request: dpb.ListDeploymentsRequest, context: Context
    ) -> dpb.ListDeploymentsResponse:
        deployments, token = convert.page(self._manager.list(), request.page_size, request.page_token)
        messages = [convert.deployment_message(deployment) for deployment in deployments]
        return dpb.ListDeploymentsResponse(deployments=messages, next_page_token=token)

    async def DeleteDeployment(  # noqa: D102
        self, request: dpb.DeleteDeploymentRequest, context: Context
    ) -> dpb.DeleteDeploymentResponse:
        await self._manager.delete(request.name)
        return dpb.DeleteDeploymentResponse()

    async def WatchDeployments(  # noqa: D102
        self, request: dpb.WatchDeploymentsRequest, context: Context
    ) -> AsyncGenerator[dpb.WatchDeploymentsResponse, None]:
        async with aclosing(self._manager.watch()) as snapshots:
            async for snapshot in snapshots:
                yield convert.snapshot_message(snapshot)

    async def CreateAdapter(self, request: dpb.CreateAdapterRequest, context: Context) -> dpb.CreateAdapterResponse:  # noqa: D102
        spec, request_id = convert.adapter_spec(request.spec), convert.request_id(request.request_id)
        adapter = await self._adapters.create(request.parent, spec, request_id)
        return dpb.CreateAdapterResponse(adapter=convert.adapter_message(adapter))

    async def GetAdapter(self, request: dpb.GetAdapterRequest, context: Context) -> dpb.GetAdapterResponse:  # noqa: D102
        return dpb.GetAdapterResponse(adapter=convert.adapter_message(self._adapters.get(request.name)))

    async def ListAdapters(self, request: dpb.ListAdaptersRequest, context: Context) -> dpb.ListAdaptersResponse:  # noqa: D102
        adapters, token = convert.page(self._adapters.list(request.parent), request.page_size, request.page_token)
        messages = [convert.adapter_message(adapter) for adapter in adapters]
        return dpb.ListAdaptersResponse(adapters=messages, next_page_token=token)

    async def DeleteAdapter(self, request: dpb.DeleteAdapterRequest, context: Context) -> dpb.DeleteAdapterResponse:  # noqa: D102
        await self._adapters.delete(request.name)
        return dpb.DeleteAdapterResponse()

    async def GetDeploymentStats(  # noqa: D102
        self, request: dpb.GetDeploymentStatsRequest, context: Context
    ) -> dpb.GetDeploymentStatsResponse:
        return convert.stats_message(await self._manager.named(request.name).engine.stats())


class InferenceServicer(InferenceServiceServicer):
    """InferenceService."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    async def Generate(  # noqa: D102
        self, request: ipb.GenerateRequest, context: Context
    ) -> AsyncGenerator[ipb.GenerateResponse, None]:
        async with aclosing(self._generator.generate(convert.generation_request(request))) as events:
            async for event in events:
                yield convert.generate_response(event)

    async def Tokenize(self, request: ipb.TokenizeRequest, context: Context) -> ipb.TokenizeResponse:  # noqa: D102
        token_ids, longest = await self._generator.tokenize(request.model, convert.prompt(request))
        return ipb.TokenizeResponse(token_ids=token_ids, max_model_len=longest)
