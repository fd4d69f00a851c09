"""Speaks turns with Rime's own SDK, over TLS. Usage: sdk_turns.py HOST:PORT

GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names the certificate to trust.
"""

import asyncio
import sys

from rimelabs_sdk import Rime, RimeError
from turns import Heard, speak

RATE = 24_000


async def turn(rime: Rime, text: str, heard: Heard, interrupted: asyncio.Event) -> None:
    stream = rime.tts.synthesize(text, voice="luna")

    async def listen() -> None:
        async for chunk in stream:
            heard.audio(len(chunk) / (2 * RATE))

    listening = asyncio.create_task(listen())
    leaving = asyncio.create_task(interrupted.wait())
    await asyncio.wait((listening, leaving), return_when=asyncio.FIRST_COMPLETED)
    if leaving.done():
        await stream.cancel()
    leaving.cancel()
    try:
        await listening
    except RimeError as error:
        heard.status = type(error).__name__
        if not interrupted.is_set():
            heard.errors.append(str(error))
    heard.more = {"request_id": stream.request_id}


async def main(endpoint: str) -> None:
    async with Rime(api_key="none", endpoint=endpoint) as rime:
        await speak(lambda *told: turn(rime, *told))


asyncio.run(main(*sys.argv[1:]))
