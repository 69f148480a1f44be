"""A real browser for tests, through chromedriver's own protocol; where there is none, no test."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver"
)
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"shift": "\ue008", "up": "\ue013", "down": "\ue015", "none": "\ue000"}


class Browser:
    """A window; made by `open_browser`.

    Attributes:
        downloads: Where files are saved.
    """

    def __init__(self, address, downloads):
        self.address, self.downloads = address, downloads

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def go(self, path):
        self.call("POST", "/url", {"url": path.as_uri()})

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, *keys):
        """Types keys, one after the other; of several in a tuple the first are held."""
        actions = []
        for key in keys:
            held = key if isinstance(key, tuple) else (key,)
            held = [KEYS.get(one, one) for one in held]
            actions += [{"type": "keyDown", "value": one} for one in held]
            actions += [{"type": "keyUp", "value": one} for one in reversed(held)]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": actions}]})

    def click(self, selector):
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{found[_ELEMENT]}/click", {})

    def text(self, selector):
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def log(self):
        """What the page complained of."""
        return self.call("POST", "/se/log", {"type": "browser"})

    def saved(self):
        """The file that a click has saved, once it is there."""
        for _ in range(100):
            files = [p for p in self.downloads.iterdir() if p.suffix == ".json"]
            if files:
                return max(files, key=lambda p: p.stat().st_mtime)
            time.sleep(0.05)
        raise AssertionError("nothing was saved")

    def resize(self, width, height):
        self.call("POST", "/window/rect", {"width": width, "height": height})

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))


@contextmanager
def open_browser(folder, *flags):
    """A browser with a profile of its own in a folder."""
    downloads = folder / "downloads"
    downloads.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL)
    root = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{root}/status", timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        options = {
            "binary": CHROMIUM,
            "args": [*_FLAGS, f"--user-data-dir={folder / 'profile'}", *flags],
            "prefs": {"download.default_directory": str(downloads)},
        }
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "unhandledPromptBehavior": "ignore",
        }
        start = Browser(root, downloads)
        session = start.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        browser = Browser(f"{root}/session/{session['sessionId']}", downloads)
        try:
            yield browser
        finally:
            browser.call("DELETE", "")
    finally:
        driver.terminate()
        driver.wait(20)
