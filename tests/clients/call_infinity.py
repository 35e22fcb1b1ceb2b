"""Run infinity-client. Each call is a model and texts, one request each, all at once."""

import asyncio

from calling import serve_calls
from infinity_client import Client
from infinity_client.api.default import classify, health, models
from infinity_client.models import ClassifyInput, ClassifyResult


async def run(url, model, texts):
    async with Client(base_url=f"{url}/infinity", raise_on_unexpected_status=True) as client:
        assert (await health.asyncio(client=client)).to_dict()["unix"] > 0
        assert (await models.asyncio(client=client)).data
        bodies = [ClassifyInput(input_=[text], model=model) for text in texts]
        results = await asyncio.gather(*(classify.asyncio(client=client, body=body) for body in bodies))
    return [
        result.data[0][0].score if isinstance(result, ClassifyResult) else result.detail[0].msg for result in results
    ]


serve_calls(lambda url, arguments: asyncio.run(run(url, *arguments)))
