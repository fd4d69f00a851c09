"""Makes one call with grpcio for each JSON line of standard input; prints one JSON line a call.

Usage: grpcio_turns.py HOST:PORT

A line: {"text": ..., "streaming": false, "timeout": null, "cancel_after": null}; `cancel_after` counts messages.
"""

import json
import sys
import time

import grpc
from google.protobuf.message_factory import GetMessageClass
from rime_api import text_to_speech_pb2 as proto

SERVICE = proto.DESCRIPTOR.services_by_name["TextToSpeech"]


def bind(channel, name):
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
    request.audio_parameters.sampling_rate = 24000
    return request


def streamed(text: str):
    yield proto.StreamingSynthesisRequest(header=request(""))
    for sentence in text.split(". "):
        time.sleep(0.05)
        yield proto.StreamingSynthesisRequest(text_chunk=sentence + ". ")


def turn(channel, asked: dict) -> dict:
    heard = {"messages": 0, "bytes": 0, "code": "OK", "details": None, "reason": None}
    options = {"timeout": asked.get("timeout"), "metadata": [("x-key", "1"), ("x-blob-bin", b"\x00\x01")]}
    if asked.get("streaming"):
        call = bind(channel, "SynthesizeStreaming")(streamed(asked["text"]), **options)
    else:
        call = bind(channel, "Synthesize")(request(asked["text"]), **options)
    try:
        for message in call:
            heard["messages"] += 1
            heard["bytes"] += len(message.audio)
            if heard["messages"] == asked.get("cancel_after"):
                call.cancel()
    except grpc.RpcError:
        pass
    heard["code"] = call.code().name
    heard["details"] = call.details()
    heard["content_type"] = dict(call.initial_metadata()).get("x-rime-audio-content-type")
    trailing = dict(call.trailing_metadata() or ())
    heard["reason"] = trailing.get("x-rime-gate-reason")
    heard["has_details"] = "grpc-status-details-bin" in trailing
    return heard


def main(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(turn(channel, json.loads(line))), flush=True)


main(*sys.argv[1:])
