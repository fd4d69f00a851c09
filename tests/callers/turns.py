"""What the callers have in common: turns come in on standard input, and what was heard of each goes out.

A line `say TEXT` is a turn that is spoken to its end; `interrupt TEXT` one that its caller stops at the first audio, and
`leave TEXT` one that it stops at the next line, whatever that says. Each is answered by one line of JSON, before which a line
`audio` tells of its first audio, if there is any; the first line is `ready`.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class Heard:
    """What became of a turn."""

    frames: int = 0
    seconds: float = 0.0
    # What the library said of it, in order.
    errors: list[str] = field(default_factory=list)
    # The status of the error that ended it, where there is one, as the library calls it.
    status: int | str | None = None
    # What else the library says of a turn.
    more: dict = field(default_factory=dict)
    # Whether the library would take another turn.
    usable: bool = True
    # Set by the first audio of a turn that is to be interrupted by it.
    _interrupted_by_audio: asyncio.Event | None = None

    def audio(self, seconds: float) -> None:
        self.frames += 1
        self.seconds += seconds
        if self.frames == 1:
            print("audio", flush=True)
        if self._interrupted_by_audio:
            self._interrupted_by_audio.set()

    def as_json(self) -> str:
        return json.dumps({name: value for name, value in vars(self).items() if name[0] != "_"})


async def speak(turn: Callable[[str, Heard, asyncio.Event], Awaitable[None]]) -> None:
    """Speaks turns until standard input ends. A turn that is still spoken when the event comes is interrupted."""
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        verb, _, text = line.strip().partition(" ")
        interrupted = asyncio.Event()
        heard = Heard(_interrupted_by_audio=interrupted if verb == "interrupt" else None)
        spoken = asyncio.create_task(turn(text, heard, interrupted))
        if verb == "leave":
            await asyncio.to_thread(sys.stdin.readline)
            interrupted.set()
        await spoken
        print(heard.as_json(), flush=True)
