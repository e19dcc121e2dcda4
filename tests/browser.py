"""A headless Chromium driven over the two pipes of its DevTools protocol: JSON messages that end in a zero byte."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip
# What the page says of itself: a problem in the console or the log, and every address asked for.
PROBLEMS = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed"}
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Tab": 9, "Enter": 13, "f": 70, "/": 191}


class Browser:
    """One process with one tab, that keeps its profile in `folder`."""

    def __init__(self, folder: Path, timeout: float = 60):
        self.timeout, self.number, self.session, self.rest = timeout, 0, None, b""
        self.events: list[dict[str, Any]] = []
        reads, self.out = os.pipe()
        self.into, writes = os.pipe()
        # Chromium reads from 3 and writes to 4; Python hands on a number as it is, so a shell renames them: from
        # above 9, lest one overwrite the other.
        theirs = [fcntl.fcntl(number, fcntl.F_DUPFD, 10) for number in (reads, writes)]
        self.process = subprocess.Popen(
            ["bash", "-c", 'exec "$0" "$@" 3<&{} 4>&{}'.format(*theirs), CHROMIUM, *SWITCHES,
             f"--user-data-dir={folder}", "about:blank"],
            pass_fds=theirs, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for number in (reads, writes, *theirs):
            os.close(number)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the process and its children, which are a session of their own."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.into)
        os.close(self.out)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one command; events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while (reply := self._next()).get("id") != self.number:
            self.events.append(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']['message']}")
        return reply["result"]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + self.timeout
        while b"\0" not in self.rest:
            if not select.select([self.into], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium said nothing for {self.timeout} s")
            if not (read := os.read(self.into, 1 << 20)):
                raise EOFError("Chromium ended")
            self.rest += read
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def open(self, address: str) -> None:
        """Load a page, wait until it is whole, and forget what was said before."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """The value of an expression in the page, as JSON can tell it; a promise is waited for."""
        reply = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in reply:
            raise RuntimeError(reply["exceptionDetails"]["exception"]["description"])
        return reply["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait for an expression to become true."""
        end = time.monotonic() + self.timeout
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"not true after {self.timeout} s: {condition}")
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """One key as a user presses it, where the focus is."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        common = {"key": key, "windowsVirtualKeyCode": KEYS[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def prefer(self, scheme: str, media: str = "") -> None:
        """The system's colours, light or dark, and "print" for paper; scripts hear of them when the page next draws."""
        colours = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", media=media, features=[colours])

    def problems(self) -> list[dict[str, Any]]:
        """What went to the console, what was thrown, what the policy stopped and what did not load."""
        self.run("new Promise(requestAnimationFrame)")
        return [event for event in self.events if event.get("method") in PROBLEMS]

    def asked_for(self) -> list[str]:
        """Addresses that were asked for, the page itself the first."""
        asked = [e["params"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in asked]

    def nameless(self) -> list[dict[str, Any]]:
        """What can have the focus and has no name for those who cannot see it."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        focusable = [n for n in nodes if any(p["name"] == "focusable" for p in n.get("properties", ()))]
        assert focusable
        return [node for node in focusable if not node.get("name", {}).get("value", "").strip()]

    def picture(self, path: Path, width: int = 1280, height: int = 1600) -> None:
        """A PNG of the page in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=False)["data"]))
