"""Speaks each line of standard input with Rime's own SDK, over TLS; prints one JSON line a turn.

Usage: sdk_turns.py HOST:PORT

GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names the certificate to trust.
"""

import asyncio
import json
import sys

from rimelabs_sdk import Rime, RimeError


async def turn(rime: Rime, text: str) -> dict:
    heard = {"chunks": 0, "bytes": 0, "error": None, "message": None}
    stream = rime.tts.synthesize(text, voice="luna")
    try:
        async for chunk in stream:
            heard["chunks"] += 1
            heard["bytes"] += len(chunk)
    except RimeError as error:
        heard["error"] = type(error).__name__
        heard["message"] = str(error)
    heard["request_id"] = stream.request_id
    return heard


async def main(endpoint: str) -> None:
    async with Rime(api_key="none", endpoint=endpoint) as rime:
        print("ready", flush=True)
        while text := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await turn(rime, text.strip())), flush=True)


asyncio.run(main(*sys.argv[1:]))
