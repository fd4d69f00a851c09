"""What the callers have in common: turns come in on standard input, and what was heard of each goes out.

A line `say TEXT` is a turn that is spoken to its end, `interrupt TEXT` one that its caller stops at the first audio.
Each is answered by one line of JSON; the first line is `ready`.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field


@dataclass
class Heard:
    """What became of a turn."""

    frames: int = 0
    seconds: float = 0.0
    # What the library said of it, in order.
    errors: list[str] = field(default_factory=list)
    # The status of the error that ended it, where there is one.
    status: int | None = None
    # Whether the library would take another turn.
    usable: bool = True

    def audio(self, seconds: float) -> None:
        self.frames += 1
        self.seconds += seconds


async def speak(turn: Callable[[str, bool], Awaitable[Heard]]) -> None:
    """Speaks turns until standard input ends. `turn` gets the text, and whether to interrupt it."""
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        verb, _, text = line.strip().partition(" ")
        heard = await turn(text, verb == "interrupt")
        print(json.dumps(asdict(heard)), flush=True)
