"""A proxy in front of an HTTP server that is slow, throttles and hangs up as told, and counts what passes.

In a test: `with Proxy("127.0.0.1:8333", latency_s=0.02) as proxy`. As a process of its own, so that it takes no time
from the one that is measured: `with proxied("127.0.0.1:8333", latency_s=0.02) as proxy`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import parse_qsl, urlsplit

SLOW_DOWN: Final = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
_CONTROL: Final = "/-/proxy"
_CHUNK: Final = 1 << 18
_HEAD_LIMIT: Final = 1 << 16


@dataclass
class Behaviour:
    """What happens to requests from now on, and what has happened so far.

    The next `throttle` requests are answered with 503 SlowDown, the next `reset` ones lose their connection before an
    answer, the next `cut` ones in the middle of their body, the next `hang` ones get no answer for `hang_s`; those
    whose path does not contain `only` pass unharmed.
    """

    latency_s: float = 0.0
    throttle: int = 0
    reset: int = 0
    cut: int = 0
    hang: int = 0
    hang_s: float = 5.0
    only: str = ""
    connections: int = 0
    requests: int = 0
    bytes_sent: int = 0
    methods: dict[str, int] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class Proxy:
    """Forwards to `upstream` (host:port) from a port of its own; `url` is where clients go."""

    def __init__(self, upstream: str, **behaviour: float | int | str) -> None:
        self.upstream = upstream
        self.does = replace(Behaviour(), **behaviour)  # type: ignore[arg-type]
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set(self, **behaviour: float | int | str) -> None:
        """Change the behaviour."""
        for name, value in behaviour.items():
            setattr(self.does, name, type(getattr(self.does, name))(value))

    def clear(self) -> None:
        """Count from zero."""
        self.set(connections=0, requests=0, bytes_sent=0)
        self.does.methods.clear()
        self.does.lines.clear()

    def __enter__(self) -> Proxy:
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._client, "127.0.0.1", self.port, limit=_CHUNK, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.does.connections += 1
        host, _, port = self.upstream.partition(":")
        up_reader, up_writer = await asyncio.open_connection(host, int(port), limit=_CHUNK)
        try:
            while head := await _head(reader):
                if not await self._request(head, reader, writer, up_reader, up_writer):
                    if not writer.is_closing():
                        writer.transport.abort()
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            for each in (writer, up_writer):
                with suppress(OSError, RuntimeError):
                    each.close()

    async def _request(
        self,
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> bool:
        """Answer one request; False to hang up."""
        method, path, headers = _parsed(head)
        if path.startswith(_CONTROL):
            return self._control(path, writer)
        does = self.does
        does.requests += 1
        does.methods[method] = does.methods.get(method, 0) + 1
        does.lines.append(f"{method} {path} {headers.get('range', '')}".rstrip())
        fault = self._fault(method, path)
        if does.latency_s:
            await asyncio.sleep(does.latency_s)
        if fault == "reset":
            return False
        if fault == "hang":
            await asyncio.sleep(does.hang_s)
            return False
        if fault == "throttle":
            waits = headers.get("expect") == "100-continue"  # with the body, until it hears whether it is wanted
            if not waits:
                await _body(reader, None, headers)
            answer = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n"
            end = b"Connection: close\r\n\r\n" if waits else b"\r\n"
            writer.write(answer % len(SLOW_DOWN) + end + (b"" if method == "HEAD" else SLOW_DOWN))
            if waits:
                await writer.drain()
                writer.close()
            return not waits
        up_writer.write(head)
        if headers.get("expect") == "100-continue":
            # The server says "go on" by itself; its word must reach the client before the body can come.
            writer.write(await _head(up_reader))
        await _body(reader, up_writer, headers)
        answer = await _head(up_reader)
        _, _, answered = _parsed(answer)
        writer.write(answer)
        does.bytes_sent += len(answer)
        if method == "HEAD" or answer.split(b" ", 2)[1] in (b"204", b"304"):
            return True
        sent = await _body(up_reader, writer, answered, cut=fault == "cut")
        does.bytes_sent += sent
        return fault != "cut"

    def _fault(self, method: str, path: str) -> str:
        for name in ("throttle", "reset", "cut", "hang"):
            left = getattr(self.does, name)
            if left > 0 and self.does.only in path and (name, method) != ("cut", "HEAD"):
                setattr(self.does, name, left - 1)
                return name
        return ""

    def _control(self, path: str, writer: asyncio.StreamWriter) -> bool:
        given = dict(parse_qsl(urlsplit(path).query, keep_blank_values=True))
        if given.pop("clear", None):
            self.clear()
        self.set(**given)
        counts = json.dumps(asdict(replace(self.does, lines=self.does.lines[-100:]))).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(counts) + counts)
        return True


async def _head(reader: asyncio.StreamReader) -> bytes:
    """Request or status line and headers; empty at the end of the connection."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def _parsed(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *rest = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in rest if line)
    method, path, *_ = first.split(" ")
    return method, path, {name.lower(): value.strip().lower() for name, _, value in pairs}


async def _body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, headers: dict[str, str], *, cut: bool = False
) -> int:
    """Pass a body on as it comes; half of it if it is to be cut. How many bytes."""
    if headers.get("transfer-encoding") == "chunked":
        return await _chunked(reader, writer)
    length = int(headers.get("content-length", 0))
    left = length = length // 2 if cut else length
    while left:
        data = await reader.read(min(left, _CHUNK))
        if not data:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(data)
        if writer is not None:
            writer.write(data)
            await writer.drain()
    return length


async def _chunked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None) -> int:
    total = 0
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        data = line + await reader.readexactly(size + 2)
        total += len(data)
        if writer is not None:
            writer.write(data)
            await writer.drain()
        if size == 0:
            return total


@dataclass(frozen=True)
class Remote:
    """A proxy in another process."""

    url: str

    def set(self, **behaviour: float | int | str) -> Behaviour:
        """Change the behaviour; what it is now, with the counts. `clear=1` counts from zero."""
        query = "&".join(f"{name}={value}" for name, value in behaviour.items())
        with urllib.request.urlopen(f"{self.url}{_CONTROL}?{query}", timeout=10) as reply:
            return Behaviour(**json.load(reply))


@contextmanager
def proxied(upstream: str, *, prefix: tuple[str, ...] = (), **behaviour: float) -> Iterator[Remote]:
    """A proxy in a process of its own; `prefix` goes before its command (`taskset -c 3`)."""
    command = [*prefix, sys.executable, "-m", "tests.proxy", upstream]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent) as process:
        try:
            assert process.stdout is not None
            remote = Remote(process.stdout.readline().strip())
            remote.set(**behaviour)
            yield remote
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("upstream", help="host:port")
    with Proxy(parser.parse_args().upstream) as proxy:
        sys.stdout.write(f"{proxy.url}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
