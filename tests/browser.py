"""A headless Chromium for tests, driven through chromedriver's web interface (W3C WebDriver) with
the standard library alone.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
# No sandbox: tests in containers run as root, where Chromium's sandbox refuses to start, and the
# page is our own.
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
]


class Browser:
    """One tab. Every request that fails raises, with the browser's own message."""

    def __init__(self, address, session):
        self.base = f"{address}/session/{session}"

    def open(self, file):
        post(f"{self.base}/url", {"url": file.resolve().as_uri()})

    def run(self, script, *values):
        """The value that ``script``, the body of a function, returns."""
        return post(f"{self.base}/execute/sync", {"script": script, "args": list(values)})

    def click(self, css):
        element = post(f"{self.base}/element", {"using": "css selector", "value": css})
        post(f"{self.base}/element/{next(iter(element.values()))}/click", {})

    def press(self, css, key):
        """Put the focus on an element and type one key."""
        element = post(f"{self.base}/element", {"using": "css selector", "value": css})
        post(f"{self.base}/element/{next(iter(element.values()))}/value", {"text": key})

    def console(self):
        """What the console said since the last call: errors and policy violations too."""
        return [entry["message"] for entry in post(f"{self.base}/se/log", {"type": "browser"})]

    def size(self, width, height):
        """Of the visible page, in CSS pixels; smaller than a window of a desktop can be."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def scheme(self, name):
        """Prefer ``light`` or ``dark``."""
        self.command(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}]
        )

    def screenshot(self):
        """The visible part as PNG bytes."""
        with urllib.request.urlopen(f"{self.base}/screenshot", timeout=60) as answer:
            return base64.b64decode(json.load(answer)["value"])

    def command(self, name, **parameters):
        return post(f"{self.base}/goog/cdp/execute", {"cmd": name, "params": parameters})


@contextlib.contextmanager
def browser():
    """A :class:`Browser` that keeps all it writes in a folder of its own; ended with the block.

    The folder's name is short: Chromium makes a socket below it, whose path is at most 107 bytes.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield from opened(folder)


def opened(folder):
    home = {
        **os.environ,
        "HOME": folder,
        "XDG_CONFIG_HOME": folder,
        "XDG_CACHE_HOME": folder,
        "TMPDIR": folder,
    }
    driver = subprocess.Popen(
        [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=home
    )
    try:
        address = f"http://127.0.0.1:{port_of(driver)}"
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={folder}/profile"]}
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        session = post(f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        try:
            yield Browser(address, session)
        finally:
            send(urllib.request.Request(f"{address}/session/{session}", method="DELETE"))
    finally:
        driver.terminate()
        driver.wait(30)
        driver.stdout.close()


def port_of(driver):
    """The port that chromedriver chose, from its first lines."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        line = driver.stdout.readline()
        if "on port " in line and "successfully" in line:
            return int(line.rsplit("on port ", 1)[1].rstrip(".\n"))
        if not line:
            break
    raise RuntimeError("chromedriver did not start")


def post(url, content):
    return send(
        urllib.request.Request(
            url, json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
    )


def send(request):
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{request.full_url}: {error.read().decode()[:500]}") from None
