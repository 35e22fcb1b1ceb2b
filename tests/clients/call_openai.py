"""Run OpenAI's client. Each call is a format, a model and texts, one request each, all at once."""

import asyncio

from calling import serve_calls
from openai import AsyncOpenAI


async def classify(client, model, text):
    body = {"model": model, "input": text, "use_activation": False}
    response = await client.post("/classify", body=body, cast_to=object)
    return response["data"][0]["probs"][-1]


async def embed(client, model, text):
    response = await client.embeddings.create(model=model, input=[text])
    return response.data[0].embedding[0]


async def run(url, form, model, texts):
    base_url, one = (url, classify) if form == "vllm" else (f"{url}/v1", embed)
    async with AsyncOpenAI(base_url=base_url, api_key="none") as client:
        return await asyncio.gather(*(one(client, model, text) for text in texts))


serve_calls(lambda url, arguments: asyncio.run(run(url, *arguments)))
