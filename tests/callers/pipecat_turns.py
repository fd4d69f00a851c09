"""Speaks each line of standard input with pipecat's Rime HTTP service; prints one JSON line a turn.

Usage: pipecat_turns.py URL MODEL
"""

import asyncio
import json
import sys
import time

import aiohttp
from loguru import logger
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.rime.tts import RimeHttpTTSService
from pipecat.workers.runner import WorkerRunner

RATE = 24_000
# The service itself calls a turn silent after three seconds.
TURN_SECONDS_MAX = 30.0


class Ear(FrameProcessor):
    """Hears what passes: audio on its way down, errors on their way up."""

    def __init__(self, heard: asyncio.Queue):
        super().__init__()
        self._heard = heard

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, (TTSAudioRawFrame, ErrorFrame, TTSStoppedFrame)):
            await self._heard.put(frame)
        await self.push_frame(frame, direction)


async def turn(worker: PipelineWorker, heard: asyncio.Queue, text: str) -> dict:
    began = time.monotonic()
    turn = {"frames": 0, "seconds": 0.0, "first": None, "errors": [], "ended": False}
    await worker.queue_frame(TTSSpeakFrame(text))
    while not turn["ended"]:
        try:
            frame = await asyncio.wait_for(heard.get(), TURN_SECONDS_MAX)
        except asyncio.TimeoutError:
            break
        if isinstance(frame, TTSAudioRawFrame):
            turn["first"] = turn["first"] or time.monotonic() - began
            turn["frames"] += 1
            turn["seconds"] += len(frame.audio) / (2 * frame.sample_rate)
        elif isinstance(frame, ErrorFrame):
            turn["errors"].append(frame.error)
        else:
            turn["ended"] = True
    turn["took"] = time.monotonic() - began
    return turn


async def main(url: str, model: str) -> None:
    logger.remove()
    heard: asyncio.Queue = asyncio.Queue()
    async with aiohttp.ClientSession() as session:
        service = RimeHttpTTSService(
            api_key="none",
            aiohttp_session=session,
            sample_rate=RATE,
            settings=RimeHttpTTSService.Settings(model=model, voice="astra"),
        )
        service._base_url = url
        worker = PipelineWorker(
            Pipeline([Ear(heard), service, Ear(heard)]),
            params=PipelineParams(audio_out_sample_rate=RATE),
            cancel_on_idle_timeout=False,
            enable_rtvi=False,
        )
        started = asyncio.Event()

        @worker.event_handler("on_pipeline_started")
        async def _started(_worker, _frame):
            started.set()

        async def turns():
            await started.wait()
            print("ready", flush=True)
            while text := await asyncio.to_thread(sys.stdin.readline):
                print(json.dumps(await turn(worker, heard, text.strip())), flush=True)
            await worker.queue_frame(EndFrame())

        runner = WorkerRunner()
        await runner.add_workers(worker)
        await asyncio.gather(runner.run(), turns())


asyncio.run(main(*sys.argv[1:]))
