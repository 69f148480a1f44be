"""A headless Chromium, driven as WebDriver says (https://www.w3.org/TR/webdriver2/)."""

import base64
import json
import subprocess
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1400,1000"),
)


class Browser:
    """Of a new profile; reaches nothing but this machine.

    Args:
        profile: A folder for its profile, which is not there yet.
        port: Of chromedriver, on loopback.
        binary: Chromium.
    """

    def __init__(self, profile: Path, port: int, binary: str = "/usr/bin/chromium") -> None:
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}", "--silent"], stdout=subprocess.DEVNULL
        )
        self._port, self._session = port, ""
        until(lambda: self._ask("GET", "/status")["ready"], "chromedriver")
        options = {"binary": binary, "args": [*_FLAGS, f"--user-data-dir={profile}"]}
        asked = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self._session = f"/session/{self._ask('POST', '/session', asked)['sessionId']}"

    def _ask(self, method: str, path: str, content: object = None) -> Any:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=120)
        body = None if method != "POST" else json.dumps(content or {})
        connection.request(method, self._session + path, body)
        value = json.loads(connection.getresponse().read())["value"]
        connection.close()
        if isinstance(value, dict) and "error" in value:
            raise RuntimeError(f"{path}: {value['error']}: {value['message']}")
        return value

    def open(self, address: str) -> None:
        """Goes to a page."""
        self._ask("POST", "/url", {"url": address})

    def add_cookie(self, name: str, value: str) -> None:
        """For the site of the page that is open."""
        self._ask("POST", "/cookie", {"cookie": {"name": name, "value": value}})

    def run(self, script: str, *arguments: object) -> Any:
        """What the body of a function of JavaScript returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": arguments})

    def drag(self, points: list[tuple[float, float]]) -> None:
        """Presses the mouse at the first of some places of the window, and moves over the rest."""
        move = [
            {"type": "pointerMove", "x": round(x), "y": round(y), "duration": 40} for x, y in points
        ]
        down, up = {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}
        steps = [move[0], down, *move[1:], up]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        self._ask("POST", "/actions", {"actions": [{**mouse, "actions": steps}]})

    def press(self, key: str) -> None:
        """A key of the keyboard, as WebDriver names them."""
        steps = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._ask(
            "POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]}
        )

    def picture(self, path: Path) -> None:
        """Keeps what the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        """Ends it."""
        try:
            self._ask("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait()


def until(is_true: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Waits for something, and returns it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if found := is_true():
                return found
        except (OSError, RuntimeError):
            pass
        time.sleep(0.1)
    raise RuntimeError(f"waited {seconds:.0f} seconds in vain for {what}")
