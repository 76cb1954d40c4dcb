"""A real browser for tests of the console: Debian's chromium, headless, driven by selenium."""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

PROGRAMS = ("chromium", "chromedriver")
PACKAGES = "chromium and chromium-driver (Debian: apt-get install chromium chromium-driver)"
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
WIDE, NARROW = (1280, 900), (390, 844)
"""Sizes of a window: a laptop, and a phone."""
_PATIENCE_SECONDS = 60
"""How long a test waits for a page. It is long because the tests share a busy machine; a page takes milliseconds."""
_GONE = "does not belong to the document"
"""What chromedriver says, instead of that the element is stale, if the page changes while it reads the element."""
Found = TypeVar("Found")


class Browser:
    """A window with its own cookies."""

    def __init__(self, url: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.add_argument("--hide-scrollbars")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.url = url
        self.resize(*WIDE)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def dark(self, dark: bool = True) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def open(self, path: str) -> None:
        self.driver.get(self.url + path)

    def sign_in(self, key: str, to: str = "/console") -> None:
        """Sign in, also if somebody else is signed in."""
        self.open("/console/sign-in")
        self.driver.delete_all_cookies()
        self.open("/console/sign-in")
        self.one("#key").send_keys(key + Keys.ENTER)
        self.until(lambda: self.all("nav a"))
        self.open(to)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        """Return the first visible element that matches; wait until there is one."""
        return self.until(lambda: next((found for found in self.all(selector) if found.is_displayed()), None), selector)

    def text(self, selector: str = "main") -> str:
        return self.one(selector).text

    def press(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def until(self, condition: Callable[[], Found | None], what: str = "the condition") -> Found:
        """Wait until the condition returns something; fail with what the page shows."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < end:
            try:
                if found := condition():
                    return found
            except (NoSuchElementException, StaleElementReferenceException):
                found = None
            except WebDriverException as error:
                if _GONE not in str(error):
                    raise
            time.sleep(0.05)
        raise AssertionError(f"waited for {what}; the page shows: {self.driver.find_element(By.TAG_NAME, 'body').text}")

    def shows(self, text: str, selector: str = "body") -> None:
        """Wait until the page shows a text."""
        self.until(lambda: text in self.driver.find_element(By.CSS_SELECTOR, selector).text, repr(text))

    def script(self, code: str, *arguments: object) -> object:
        return self.driver.execute_script(code, *arguments)

    def errors(self) -> list[str]:
        """Return what the browser complained about since the last call, such as a violated content policy."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def violations(self) -> list[str]:
        """Return what axe finds wrong with the accessibility of the page."""
        self.driver.execute_script(AXE.read_text())
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document).then((found) => done(found.violations));"
        )
        return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]

    def overflows(self) -> bool:
        """Return whether the page is wider than the window."""
        return bool(self.script("return document.documentElement.scrollWidth > document.documentElement.clientWidth"))

    def check(self) -> None:
        """Fail if axe finds a violation in light or dark, if a phone has to scroll sideways, or if anything failed."""
        for dark in (False, True):
            self.dark(dark)
            assert self.violations() == []
        self.dark(False)
        self.resize(*NARROW)
        assert not self.overflows()
        assert self.violations() == []
        self.resize(*WIDE)
        assert self.errors() == []

    def close(self) -> None:
        self.driver.quit()


@contextmanager
def browser_at(url: str) -> Iterator[Browser]:
    """Yield a new browser window; skip the test if there is no browser, unless one is required."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        message = f"{' and '.join(missing)} missing; the tests of the console need {PACKAGES}"
        if os.environ.get("RAGTUNE_TEST_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    browser = Browser(url)
    try:
        yield browser
    finally:
        browser.close()
