"""A headless Chromium, driven as WebDriver says (https://www.w3.org/TR/webdriver2/)."""

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
KEYS = {"shift": "\ue008", "escape": "\ue00c", "up": "\ue013", "down": "\ue015"}
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1400,1000"),
    "--disable-dev-shm-usage",
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """A window; made by `open_browser`.

    Args:
        port: Of chromedriver, on loopback.
        downloads: Where files are saved.
    """

    def __init__(self, port: int, downloads: Path) -> None:
        self._port, self._session, self._downloads = port, "", downloads

    def begin(self, profile: Path) -> None:
        """Opens it, with a new profile, in a folder that is not there yet."""
        until(lambda: self._ask("GET", "/status")["ready"], "chromedriver")
        options = {
            "binary": CHROMIUM,
            "args": [*_FLAGS, f"--user-data-dir={profile}"],
            "prefs": {"download.default_directory": str(self._downloads)},
        }
        asked = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "unhandledPromptBehavior": "ignore",
        }
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": asked}})
        self._session = f"/session/{session['sessionId']}"

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

    def text(self, selector: str) -> str:
        """What an element says."""
        said = self.run("return document.querySelector(arguments[0]).textContent", selector)
        return str(said)

    def click(self, selector: str) -> None:
        """Clicks an element that can be seen."""
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        self._ask("POST", f"/element/{found[_ELEMENT]}/click")

    def drag(self, points: list[tuple[float, float]]) -> None:
        """Presses the mouse at the first of some places of the window, and moves over the rest."""
        move = [
            {"type": "pointerMove", "x": round(x), "y": round(y), "duration": 40} for x, y in points
        ]
        down, up = {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}
        steps = [move[0], down, *move[1:], up]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        self._ask("POST", "/actions", {"actions": [{**mouse, "actions": steps}]})

    def press(self, *keys: str | tuple[str, ...]) -> None:
        """Types keys, one after the other: characters, or as `KEYS` names them.

        Of several in a tuple the first are held while the last is typed.
        """
        steps = []
        for key in keys:
            held = [KEYS.get(one, one) for one in (key if isinstance(key, tuple) else (key,))]
            steps += [{"type": "keyDown", "value": one} for one in held]
            steps += [{"type": "keyUp", "value": one} for one in reversed(held)]
        self._ask(
            "POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]}
        )

    def log(self) -> list[dict[str, Any]]:
        """What pages have complained of."""
        said: list[dict[str, Any]] = self._ask("POST", "/se/log", {"type": "browser"})
        return said

    def saved(self, suffix: str = ".json") -> Path:
        """The last file that was saved, once it is there."""

        def found() -> list[Path]:
            return [path for path in self._downloads.iterdir() if path.suffix == suffix]

        files: list[Path] = until(found, f"a file {suffix}", 10)
        return max(files, key=lambda path: path.stat().st_mtime)

    def picture(self, path: Path) -> None:
        """Keeps what the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        """Ends it, if it has begun."""
        if self._session:
            self._ask("DELETE", "")


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """A browser of a new profile, which reaches nothing but this machine.

    Args:
        folder: For its profile and what it saves; not there yet.
    """
    downloads = folder / "downloads"
    downloads.mkdir(parents=True)
    if CHROMIUM is None or DRIVER is None:
        raise RuntimeError("chromium and chromedriver are needed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}", "--silent"], stdout=subprocess.DEVNULL)
    try:
        browser = Browser(port, downloads)
        try:
            browser.begin(folder / "profile")
            yield browser
        finally:
            browser.close()
    finally:
        driver.terminate()
        driver.wait(20)


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
