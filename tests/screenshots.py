"""Pictures of the page for docs/images, with the bundled model on the simulated board."""

from __future__ import annotations

import json
from pathlib import Path

from bitnet_host import open_model
from browser import Page, browser
from serving import serving

_IMAGES = Path(__file__).parents[1] / "docs/images"


def main() -> None:
    _IMAGES.mkdir(exist_ok=True)
    with serving(open_model(), targets=("sim",), defaults={"max_tokens": 48, "temperature": 0},
                 names=("bitnet-tiny",)) as (url, _):
        for name, width, height, theme in (("page", 1100, 820, "light"),
                                           ("telephone", 360, 740, "dark")):
            with browser(width, height) as driver:
                page = Page(driver, url)
                driver.execute_script("localStorage.setItem('bitnet.settings', arguments[0])",
                                      json.dumps({"theme": theme}))
                driver.refresh()
                page.wait(lambda page=page: page.all("#composer"))
                page.send("Who are you?")
                page.answered(1)
                page.send("Tell me a story about a cat.")
                page.answered(2)
                page.all(".cost summary")[1].click()
                driver.execute_script("document.querySelector('.talk').scrollTop = 1e6")
                driver.save_screenshot(str(_IMAGES / f"{name}.png"))


if __name__ == "__main__":
    main()
