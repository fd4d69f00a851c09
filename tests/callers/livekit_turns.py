"""Speaks each line of standard input with LiveKit's Rime plugin over HTTP; prints one JSON line a turn.

Usage: livekit_turns.py URL MODEL
"""

import asyncio
import json
import logging
import sys
import time

from livekit.agents import APIError
from livekit.agents.utils import http_context
from livekit.plugins import rime


async def turn(tts: rime.TTS, text: str) -> dict:
    began = time.monotonic()
    heard = {"frames": 0, "seconds": 0.0, "first": None, "error": None, "status": None}
    try:
        async with tts.synthesize(text) as stream:
            async for event in stream:
                if heard["first"] is None:
                    heard["first"] = time.monotonic() - began
                heard["frames"] += 1
                heard["seconds"] += event.frame.duration
    except APIError as error:
        heard["error"] = type(error).__name__
        heard["status"] = getattr(error, "status_code", None)
        # The library raises what the last try raised, or an error that names it as its cause.
        cause = error.__cause__
        if heard["status"] in (None, -1) and cause is not None:
            heard["status"] = getattr(cause, "status_code", None)
    heard["took"] = time.monotonic() - began
    return heard


async def main(url: str, model: str) -> None:
    logging.disable(logging.CRITICAL)
    async with http_context.open():
        tts = rime.TTS(base_url=url, model=model, api_key="none")
        print("ready", flush=True)
        while text := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await turn(tts, text.strip())), flush=True)
        await tts.aclose()


asyncio.run(main(*sys.argv[1:]))
