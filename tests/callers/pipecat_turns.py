"""Speaks turns with pipecat's Rime services. Usage: pipecat_turns.py http|ws3|v1|v1-json ADDRESS"""

import asyncio
import sys
from dataclasses import dataclass

import aiohttp
from loguru import logger
from pipecat.frames.frames import (
    ControlFrame,
    EndFrame,
    ErrorFrame,
    InterruptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.rime.tts import RimeHttpTTSService, RimeTTSService
from pipecat.services.rime.tts_v1 import RimeV1TTSService
from pipecat.services.tts_service import TTSService
from pipecat.workers.runner import WorkerRunner
from turns import Heard, speak

RATE = 24_000
# A service calls a turn silent after three seconds, so that each ends much sooner than this.
TURN_SECONDS_MAX = 60.0


@dataclass
class TurnOver(ControlFrame):
    """Follows a turn through the pipeline: a service lets it pass once it has done with what came before."""


class Ear(FrameProcessor):
    """Hears frames of some kinds as they pass."""

    def __init__(self, heard: asyncio.Queue, *kinds: type):
        super().__init__()
        self._heard = heard
        self._kinds = kinds

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, self._kinds):
            await self._heard.put(frame)
        await self.push_frame(frame, direction)


def voice(transport: str, address: str, session: aiohttp.ClientSession) -> TTSService:
    common = {"api_key": "none", "sample_rate": RATE}
    match transport:
        case "http":
            settings = RimeHttpTTSService.Settings(model="coda", voice="astra")
            service = RimeHttpTTSService(aiohttp_session=session, settings=settings, **common)
            # It has no parameter for its address.
            service._base_url = f"http://{address}/"
            return service
        case "ws3":
            settings = RimeTTSService.Settings(model="coda", voice="astra")
            return RimeTTSService(url=f"ws://{address}/ws3", settings=settings, **common)
    settings = RimeV1TTSService.Settings(model="coda", voice="astra")
    protocol = "json" if transport == "v1-json" else "binary"
    url = f"ws://{address}/ws"
    return RimeV1TTSService(
        websocket_url=url, websocket_protocol=protocol, settings=settings, **common
    )


async def turn(
    worker: PipelineWorker,
    service: TTSService,
    ear: asyncio.Queue,
    text: str,
    heard: Heard,
    interrupted: asyncio.Event,
) -> None:
    async def interrupt() -> None:
        await interrupted.wait()
        await worker.queue_frame(InterruptionFrame())

    # Errors between two turns, as of a connection that is lost, are no turn's.
    while not ear.empty():
        ear.get_nowait()
    # Of an earlier turn, one may come that an interruption overtook.
    mark = TurnOver()
    await worker.queue_frames([TTSSpeakFrame(text), mark])
    interrupting = asyncio.create_task(interrupt())
    over = False
    while not over:
        frame = await asyncio.wait_for(ear.get(), TURN_SECONDS_MAX)
        if isinstance(frame, TTSAudioRawFrame):
            heard.audio(len(frame.audio) / (2 * frame.sample_rate))
        elif isinstance(frame, ErrorFrame):
            heard.errors.append(frame.error)
        else:
            over = frame is mark or isinstance(frame, InterruptionFrame)
    interrupting.cancel()
    heard.usable = service.is_usable


async def main(transport: str, address: str) -> None:
    logger.remove()
    ear: asyncio.Queue = asyncio.Queue()
    async with aiohttp.ClientSession() as session:
        service = voice(transport, address, session)
        worker = PipelineWorker(
            # Errors go up, the rest goes down.
            Pipeline([Ear(ear, ErrorFrame), service, Ear(ear, TTSAudioRawFrame, InterruptionFrame, TurnOver)]),
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
            await speak(lambda *told: turn(worker, service, ear, *told))
            await worker.queue_frame(EndFrame())

        runner = WorkerRunner()
        await runner.add_workers(worker)
        await asyncio.gather(runner.run(), turns())


asyncio.run(main(*sys.argv[1:]))
