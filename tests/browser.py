"""Debian's Chromium, driven by Selenium."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path

from bitnet_host.serve.libraries import AXE, fetch
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

__all__ = ["Page", "browser"]

_BUILD = Path(__file__).parents[1] / "build"
_SECONDS = 60


@contextmanager
def browser(width=1200, height=900):
    """A fresh browser with a profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                     "--no-first-run", "--disable-background-networking"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        # a window has a least width, a screen has not
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700})
        yield driver
    finally:
        driver.quit()


class Page:
    """The server's page in a browser."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url
        driver.get(url)
        self.wait(lambda: self.all("#composer"))

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def button(self, text, inside=""):
        """The button of that name."""
        return next(button for button in self.all(f"{inside} button")
                    if text in (button.text, button.get_attribute("aria-label")))

    def wait(self, true):
        return WebDriverWait(self.driver, _SECONDS, 0.05).until(lambda _: true())

    def send(self, text):
        """Types a message and sends it with Enter."""
        self.one("#composer").send_keys(text + "\n")

    def answered(self, count):
        """Waits for so many whole answers; their texts as they are kept."""
        def there():
            kept = self.kept()
            answers = [message["content"] for message in (kept or {"messages": []})["messages"]
                       if message["role"] == "assistant" and not message.get("pending")]
            free = any(button.text == "Send" for button in self.all(".composer button"))
            return answers if len(answers) == count and free else None
        return self.wait(there)

    def kept(self):
        """The conversation that is shown, as the browser keeps it."""
        return self.driver.execute_script(
            "return JSON.parse(localStorage.getItem('bitnet.conversations') || '[]')"
            ".find((one) => one.id === location.hash.slice(1))")

    def barriers(self):
        """What axe-core finds wrong."""
        axe = fetch(AXE, _BUILD / "npm").read_text()
        # beside the page's own policy, which lets no script in
        self.driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
        self.driver.execute_script(axe)
        found = self.driver.execute_async_script("axe.run().then(arguments[0])")
        return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]

    def complaints(self):
        """Errors in the browser's console."""
        return [entry["message"] for entry in self.driver.get_log("browser")
                if entry["level"] == "SEVERE"]
