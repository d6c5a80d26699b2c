"""A headless Chromium, spoken to through its pipe (the DevTools protocol): pages are used as a person uses them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# The pipes have to be descriptors 3 and 4.
_LAUNCH = (
    "import os, sys; r, w = (os.dup(os.dup(os.dup(os.dup(int(n))))) for n in sys.argv[1:3]);"
    " os.dup2(r, 3); os.dup2(w, 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
_QUIET = ("--disable-extensions", "--disable-background-networking", "--hide-scrollbars", "--proxy-server=127.0.0.1:1")


class Page:
    """One page. ``problems``: what its script threw or complained of, and everything it wanted from elsewhere."""

    def __init__(self, writer: int, reader: int) -> None:
        self._writer = writer
        self._reader = os.fdopen(reader, "rb", buffering=0)
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self.problems: list[str] = []

    def open(self, path: str) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=f"file://{path}")
        while self("document.readyState") != "complete":
            pass

    def __call__(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def choose(self, id: str, value: str) -> None:
        """Choose in a select, as a click on an option does."""
        change = "dispatchEvent(new Event('change', {bubbles: true}))"
        self(f"(s => {{ s.value = {json.dumps(value)}; s.{change} }})(document.getElementById({json.dumps(id)}))")

    def look(self, width: int, height: int, dark: bool) -> None:
        """The size of the window, and the colours its owner prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: str) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = self._reader.read(1 << 20)
            assert data, "the browser has ended"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.problems.append(url)
        elif event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.problems.append(json.dumps(parameters))

    def close(self) -> None:
        self._reader.close()
        os.close(self._writer)


@contextlib.contextmanager
def browser() -> Iterator[Page]:
    """A page of a browser that ends with the block, and leaves nothing."""
    there, writer = os.pipe()
    reader, back = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        words = ["chromium", *_OPTIONS, *_QUIET, "--remote-debugging-pipe", f"--user-data-dir={home}", "about:blank"]
        environment = {**os.environ, "HOME": home, "XDG_CONFIG_HOME": home, "XDG_CACHE_HOME": home}
        process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(there), str(back), *words],
            pass_fds=(there, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        os.close(there)
        os.close(back)
        page = Page(writer, reader)
        try:
            yield page
            page._session = None
            page.call("Browser.close")
            process.wait(20)
        finally:
            page.close()
            process.kill()
            process.wait()
