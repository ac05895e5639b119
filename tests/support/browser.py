"""Drives a headless Chromium over a pipe, by the DevTools protocol: no driver, no package, no network."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")) if p), None)
"""The browser; None where there is none."""


class Tab:
    """One page in the browser.

    Attributes:
        events: What the browser told of the page: exceptions, messages of its console, requests.
    """

    def __init__(self, wire: Wire, session: str) -> None:
        self._wire, self._session = wire, session
        self.events = wire.events

    def call(self, method: str, **parameters: Any) -> Any:
        """Calls a method of the protocol on the page."""
        return self._wire.call(method, parameters, self._session)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON data."""
        made = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    def press(self, key: str) -> None:
        """Presses a key."""
        code = {"Tab": 9, "Enter": 13, "ArrowRight": 39, "ArrowLeft": 37}[key]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def point_at(self, selector: str) -> None:
        """Moves the pointer over the first element that a selector finds."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.run(f"(() => {{ const b = {box}; return [b.x + b.width / 2, b.y + b.height / 2]; }})()")
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Writes a picture of the page."""
        made = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(made["data"]))

    def complaints(self) -> list[str]:
        """Exceptions, and errors and warnings in the console."""
        found = [e for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        logged = [e for e in self.events if e["method"] == "Log.entryAdded"]
        said = [e for e in self.events if e["method"] == "Runtime.consoleAPICalled"]
        return [json.dumps(e["params"]) for e in [*found, *logged, *said]]

    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]


class Wire:
    """The pipe to the browser: JSON texts, each ended by a zero byte."""

    def __init__(self, to: int, fro: int) -> None:
        self._to, self._fro, self._number, self._rest = to, fro, 0, b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> Any:
        """Calls a method and waits for its result; events in between are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._to, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._fro, 65536)
            assert part, "the browser is gone"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found


@contextmanager
def opened(path: Path, *, dark: bool = False, width: int = 1100, height: int = 900) -> Iterator[Tab]:
    """A page that was opened from disk."""
    assert CHROMIUM is not None
    theirs, to = os.pipe()
    fro, back = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
            *("--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"),
        ]

        def wire() -> None:
            copies = os.dup(theirs), os.dup(back)  # since 3 or 4 may be in use, by one of them too
            for copy, end in zip(copies, (3, 4), strict=True):
                os.dup2(copy, end)

        with subprocess.Popen(
            command, preexec_fn=wire, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as browser:
            try:
                os.close(theirs)
                os.close(back)
                pipe = Wire(to, fro)
                target = pipe.call("Target.createTarget", {"url": "about:blank"})["targetId"]
                session = pipe.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
                tab = Tab(pipe, session)
                for domain in ("Page", "Runtime", "Log", "Network"):
                    tab.call(f"{domain}.enable")
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                tab.call("Emulation.setDeviceMetricsOverride", **size)
                scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
                tab.call("Emulation.setEmulatedMedia", features=[scheme])
                tab.call("Page.navigate", url=path.resolve().as_uri())
                tab.run(
                    "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))"
                )
                yield tab
            finally:
                browser.kill()
                os.close(to)
                os.close(fro)
