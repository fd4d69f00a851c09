"""Speaks turns with grpcio, on one channel. Usage: grpcio_turns.py synthesize|streaming ADDRESS [DEADLINE_SECONDS]"""

import asyncio
import sys

import grpc
from google.protobuf.message_factory import GetMessageClass
from rime_api import text_to_speech_pb2 as proto
from turns import Heard, speak

RATE = 24_000
SERVICE = proto.DESCRIPTOR.services_by_name["TextToSpeech"]
# Whatever metadata a caller has.
METADATA = [("x-key", "1"), ("x-blob-bin", b"\x00\x01")]


def bind(channel, name: str):
    method = SERVICE.methods_by_name[name]
    factory = channel.stream_stream if method.client_streaming else channel.unary_stream
    return factory(
        "/rime.TextToSpeech/" + name,
        request_serializer=GetMessageClass(method.input_type).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )


def request(text: str) -> proto.SynthesisRequest:
    request = proto.SynthesisRequest(speaker="luna", text=text)
    request.audio_parameters.audio_format = "audio/pcm"
    request.audio_parameters.sampling_rate = RATE
    return request


def streamed(text: str):
    """Word by word, as from a model that writes."""
    header = request("")
    header.split_strategy = proto.SPLIT_STRATEGY_ACCUMULATE_SENTENCE
    yield proto.StreamingSynthesisRequest(header=header)
    first, *others = text.split(" ")
    yield proto.StreamingSynthesisRequest(text_chunk=first)
    for word in others:
        yield proto.StreamingSynthesisRequest(text_chunk=" " + word)


def called(channel, method: str, text: str, deadline: float | None):
    if method == "streaming":
        return bind(channel, "SynthesizeStreaming")(streamed(text), timeout=deadline, metadata=METADATA)
    return bind(channel, "Synthesize")(request(text), timeout=deadline, metadata=METADATA)


async def turn(call, heard: Heard, interrupted: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for message in call:
            loop.call_soon_threadsafe(heard.audio, len(message.audio) / (2 * RATE))

    listening = asyncio.create_task(asyncio.to_thread(listen))
    leaving = asyncio.create_task(interrupted.wait())
    await asyncio.wait((listening, leaving), return_when=asyncio.FIRST_COMPLETED)
    if leaving.done():
        call.cancel()
    leaving.cancel()
    try:
        await listening
    except grpc.RpcError:
        if not interrupted.is_set():
            heard.errors.append(call.details())
    heard.status = call.code().name
    trailing = dict(call.trailing_metadata() or ())
    heard.more = {
        "content_type": dict(call.initial_metadata()).get("x-rime-audio-content-type"),
        "reason": trailing.get("x-rime-gate-reason"),
        "has_details": "grpc-status-details-bin" in trailing,
    }


async def main(method: str, address: str, deadline: str | None = None) -> None:
    seconds = float(deadline) if deadline else None
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        await speak(lambda text, *told: turn(called(channel, method, text, seconds), *told))


asyncio.run(main(*sys.argv[1:]))
