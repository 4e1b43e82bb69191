"""A real browser for pages: headless Chromium, driven through its DevTools protocol.

Taken from the PATH, else from npm: @sparticuz/chromium is a Chromium that needs neither root nor a display.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell")
PACKAGE = "@sparticuz/chromium@147.0.0"
UNPACK = """
const fs = require('fs'), zlib = require('zlib'), { pipeline } = require('stream');
const [from, to] = process.argv.slice(1);
pipeline(fs.createReadStream(from), zlib.createBrotliDecompress(), fs.createWriteStream(to), e => { if (e) throw e; });
"""


@dataclass(frozen=True)
class Seen:
    """A page as rendered at one width: PNG of all of it, what JavaScript says, and requests for anything but it."""

    png: bytes
    value: Any
    requests: tuple[str, ...]


def executable() -> Path:
    """A Chromium that runs here."""
    for name in NAMES:
        if found := shutil.which(name):
            return Path(found)
    home = Path(sys.prefix) / "share" / "headless-chromium"
    if not (home / "chromium").exists():
        _fetch(home)
    return home / "chromium"


def _fetch(home: Path) -> None:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.fail(
            f"no browser: put {' or '.join(NAMES[:3])} on the PATH, or Node.js with npm, which fetches {PACKAGE}"
        )
    home.mkdir(parents=True, exist_ok=True)
    subprocess.run([npm, "pack", "--silent", PACKAGE, "--pack-destination", str(home)], check=True, timeout=240)
    (archive,) = home.glob("*.tgz")
    with tarfile.open(archive) as tar:
        tar.extractall(home, filter="data")
    for name in ("al2023.tar", "swiftshader.tar"):
        subprocess.run([node, "-e", UNPACK, f"{home}/package/bin/{name}.br", str(home / name)], check=True)
        with tarfile.open(home / name) as tar:
            tar.extractall(home, filter="data")
    part = home / "chromium.part"
    subprocess.run([node, "-e", UNPACK, f"{home}/package/bin/chromium.br", str(part)], check=True)
    part.chmod(0o755)
    part.rename(home / "chromium")  # last: it says that all is there


def visit(page: Path, profile: Path, width: int, script: str, *, dark: bool = False) -> Seen:
    """Open a file, run a script in it that returns a value, take its picture."""
    with _started(profile) as address:
        return asyncio.run(_visit(address, page.resolve().as_uri(), width, script, dark))


@contextmanager
def _started(profile: Path) -> Iterator[str]:
    program = executable()
    libraries = f"{program.parent / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    flags = ["--headless", "--no-sandbox", "--no-zygote", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    process = subprocess.Popen(
        [str(program), *flags, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HOME": str(profile), "LD_LIBRARY_PATH": libraries},
    )
    try:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"ws://\S+", line):
                yield found[0]
                return
        pytest.fail(f"{program} did not start: {''.join(said[-5:])}")
    finally:
        process.kill()
        process.wait()


async def _visit(address: str, url: str, width: int, script: str, dark: bool) -> Seen:
    requests: list[str] = []
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
        count = 0

        async def call(method: str, to: str | None = None, until: str | None = None, **params: Any) -> dict[str, Any]:
            """Send a command; wait for its answer, and for an event if `until` names one."""
            nonlocal count
            count += 1
            message = {"id": count, "method": method, "params": params} | ({"sessionId": to} if to else {})
            await socket.send_json(message)
            answer: dict[str, Any] | None = None
            happened = until is None
            while answer is None or not happened:
                got = await asyncio.wait_for(socket.receive_json(), 60)
                if got.get("id") == count:
                    assert "error" not in got, got
                    answer = got["result"]
                happened = happened or got.get("method") == until
                if got.get("method") == "Network.requestWillBeSent":
                    requests.append(got["params"]["request"]["url"])
            return answer

        target = await call("Target.createTarget", url="about:blank")
        to = (await call("Target.attachToTarget", targetId=target["targetId"], flatten=True))["sessionId"]
        mobile = width < 600
        await call(
            "Emulation.setDeviceMetricsOverride", to, width=width, height=800, deviceScaleFactor=1, mobile=mobile
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await call("Emulation.setEmulatedMedia", to, features=[scheme])
        await call("Network.enable", to)
        await call("Page.enable", to)
        await call("Page.navigate", to, until="Page.loadEventFired", url=url)
        value = await call("Runtime.evaluate", to, expression=script, returnByValue=True)
        assert "exceptionDetails" not in value, value
        shot = await call("Page.captureScreenshot", to, format="png", captureBeyondViewport=True)
    others = tuple(r for r in requests if r != url and not r.startswith("data:"))
    return Seen(base64.b64decode(shot["data"]), value["result"].get("value"), others)
