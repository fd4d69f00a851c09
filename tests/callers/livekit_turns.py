"""Speaks turns with LiveKit's Rime plugin. Usage: livekit_turns.py http|ws3|v1|v1-json ADDRESS"""

import asyncio
import logging
import sys

from livekit.agents import APIError
from livekit.agents.utils import http_context
from livekit.plugins import rime
from turns import Heard, speak


def voice(transport: str, address: str) -> rime.TTS:
    match transport:
        case "http":
            return rime.TTS(base_url=f"http://{address}/", model="coda", api_key="none")
        case "ws3":
            return rime.TTS(base_url=f"ws://{address}", model="coda", api_key="none")
    protocol = "json" if transport == "v1-json" else "binary"
    url = f"ws://{address}/ws"
    return rime.TTS(websocket_url=url, websocket_protocol=protocol, model="coda", api_key="none")


def stream(tts: rime.TTS, text: str):
    if not tts.capabilities.streaming:
        return tts.synthesize(text)
    stream = tts.stream()
    stream.push_text(text)
    stream.end_input()
    return stream


async def listen(sound, heard: Heard) -> None:
    async for event in sound:
        heard.audio(event.frame.duration)


async def turn(tts: rime.TTS, text: str, heard: Heard, interrupted: asyncio.Event) -> None:
    try:
        # An agent that is interrupted closes its stream, as the end of this block does.
        async with stream(tts, text) as sound:
            listening = asyncio.create_task(listen(sound, heard))
            leaving = asyncio.create_task(interrupted.wait())
            await asyncio.wait((listening, leaving), return_when=asyncio.FIRST_COMPLETED)
            if leaving.done():
                listening.cancel()
                return
            leaving.cancel()
            await listening
    except APIError as error:
        # The library raises what the last try raised, or an error that names it as its cause.
        cause = error.__cause__ or error
        heard.errors.append(type(error).__name__)
        heard.status = getattr(cause, "status_code", getattr(error, "status_code", None))


async def main(transport: str, address: str) -> None:
    logging.disable(logging.CRITICAL)
    async with http_context.open():
        tts = voice(transport, address)
        await speak(lambda *told: turn(tts, *told))
        await tts.aclose()


asyncio.run(main(*sys.argv[1:]))
