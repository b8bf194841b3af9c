"""A tab of a real headless Chromium, driven by its DevTools protocol."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import websocket

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--remote-debugging-port=0")


class Tab:
    """A tab; `messages` are what the console says, and what the page tried to load and must not."""

    def __init__(self, socket: "websocket.WebSocket") -> None:
        self._socket, self._ids = socket, itertools.count(1)
        self.messages: list[str] = []
        for name in ("Page", "Runtime", "Log", "DOM", "Accessibility"):
            self.call(f"{name}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            if message["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                self.messages.append(json.dumps(message["params"])[:500])

    def open(self, address: str, width: int, height: int = 1000) -> None:
        narrow = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=narrow)
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a script, which may be a promise."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str) -> None:
        self.wait_for(lambda: bool(self.run(script)), script)

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end, what
            time.sleep(0.05)

    def choose(self, selector: str, *files: Path) -> None:
        """Puts files into an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path) for path in files], nodeId=node)

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def shot(self, path: Path) -> None:
        """The whole page as a picture."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def names(self, *roles: str) -> Sequence[str]:
        """What a screen reader says of the elements with these roles."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            node.get("name", {}).get("value", "")
            for node in nodes
            if not node["ignored"] and node["role"]["value"] in roles
        ]


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """A tab of a new browser, whose downloads lie in `folder`."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    profile = folder / "profile"
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--remote-allow-origins=*", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            active = profile / "DevToolsActivePort"
            while not (active.is_file() and "\n" in active.read_text()):
                assert process.poll() is None
                time.sleep(0.05)
            port = active.read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                (page,) = [one for one in json.load(answer) if one["type"] == "page"]
            socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=120)
            with contextlib.closing(socket):
                tab = Tab(socket)
                tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
                yield tab
        finally:
            process.terminate()
