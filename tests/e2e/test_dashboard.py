"""The dashboard in a real headless Chromium: by keyboard, on a phone's width, live, and offline."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.dashboard_fleet import fill
from tests.integration.test_dashboard import PAGES, Console
from tests.integration.test_serve import start

sync_api = pytest.importorskip("playwright.sync_api", reason="pip install 'fitment[dev]'")

pytestmark = pytest.mark.e2e

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE_MS = 10_000
WIDE, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Console]:
    if CHROMIUM is None:
        pytest.skip("no Chromium to look with: apt-get install chromium")
    data_dir = tmp_path_factory.mktemp("seen") / "data"
    history = fill(data_dir)
    running = start(data_dir, root, "--link", "grpc", "--enrolment-by-approval")
    yield Console(running, history)
    assert running.stop() == 0
    log = (data_dir / "log").read_text()
    assert "Traceback" not in log, log


@pytest.fixture(scope="module")
def browser(console: Console) -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        # The sandbox needs user namespaces, which containers often lack; it looks at us alone.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


@pytest.fixture
def heard() -> list[str]:
    """What went wrong in the browser, and requests that left the host."""
    return []


def opened(
    browser: sync_api.Browser, console: Console, heard: list[str], *,
    size: tuple[int, int] = WIDE, scheme: str = "light",
) -> sync_api.Page:  # fmt: skip
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("console", lambda m: heard.append(m.text) if m.type == "error" else None)
    page.on(
        "request",
        lambda r: None if r.url.startswith((console.url, "data:")) else heard.append(r.url),
    )
    page.goto(console.url + "/audit")
    # Autofocus comes with the first painting, later than `goto` returns: keys before it are lost.
    page.wait_for_function("document.activeElement?.id === 'token'")
    page.keyboard.type(console.token.strip())
    page.keyboard.press("Enter")
    page.wait_for_url("**/audit")
    page.wait_for_selector("table")
    return page


def test_every_page_fits_in_light_and_dark_and_asks_nobody_else(
    browser: sync_api.Browser, console: Console, heard: list[str]
) -> None:
    made = console.history
    deep = (
        "/compare?a=fp32&b=int8",
        "/compare?a=fp32&b=none-such",
        f"/models/{made.model}",
        f"/rollouts/{made.done}",
        "/devices/stand-in",
        "/devices/edge-1",
        "/devices/no",
        f"/preview?release={made.release}",
    )
    grounds = set()
    for size, scheme in ((WIDE, "light"), (PHONE, "dark")):
        page = opened(browser, console, heard, size=size, scheme=scheme)
        for path in (*PAGES, *deep):
            page.goto(console.url + path)
            page.wait_for_selector("main h1")
            beyond = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert beyond <= 0, (path, size)
            assert page.evaluate("document.title").endswith("Fitment")
        grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.context.close()
    assert len(grounds) == 2
    assert heard == []


def test_the_theme_is_chosen_and_kept(
    browser: sync_api.Browser, console: Console, heard: list[str]
) -> None:
    page = opened(browser, console, heard)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Theme: system").press("Enter")
    page.get_by_role("button", name="Theme: dark").wait_for()
    page.wait_for_function(f"{ground} !== '{light}'")
    page.reload()
    page.get_by_role("button", name="Theme: dark").wait_for()
    assert page.evaluate(ground) != light
    page.get_by_role("button", name="Log out").press("Enter")
    page.wait_for_url("**/login")
    assert page.evaluate(ground) != light, "the login keeps it too"
    assert heard == []
    page.context.close()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(
    browser: sync_api.Browser, console: Console, heard: list[str]
) -> None:
    page = opened(browser, console, heard)
    page.goto(console.url)
    page.wait_for_selector("text=edge-1")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    reached = []
    for _ in range(25):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "[document.activeElement.textContent || document.activeElement.getAttribute("
            "'aria-label'), getComputedStyle(document.activeElement).outlineStyle]"
        )
        reached.append(name)
        if name == "edge-1":
            assert outline == "solid"
            break
    assert {"Fleet", "Audit", "Theme: system", "Log out", "edge-1"} <= set(reached)
    page.keyboard.press("Enter")
    page.wait_for_url("**/devices/edge-1")
    assert heard == []
    page.context.close()


def test_the_filter_narrows_while_one_types(
    browser: sync_api.Browser, console: Console, heard: list[str]
) -> None:
    page = opened(browser, console, heard)
    page.goto(console.url)
    field = page.get_by_label("Find devices")
    field.fill("emulated")
    page.locator("tbody a", has_text="edge-1").wait_for(state="detached")
    assert page.locator("tbody a", has_text="stand-in").count() == 1
    field.fill("nothing like it")
    page.wait_for_selector("text=None of 2 devices matches")
    page.context.close()


def test_a_rollout_is_paused_followed_resumed_and_cancelled(
    browser: sync_api.Browser, console: Console, heard: list[str]
) -> None:
    """One hand in the browser, the other at the command line: the page follows both."""
    made = console.history
    page = opened(browser, console, heard, size=PHONE)
    page.goto(f"{console.url}/rollouts/{made.waiting}")
    state = page.locator(".title .badge")
    page.locator(".title", has_text="running").wait_for()

    def press(act: str, answer: str) -> None:
        page.get_by_role("button", name=act, exact=True).press("Enter")
        page.get_by_role("alertdialog").wait_for()
        page.get_by_role("button", name=answer, exact=True).press("Enter")
        page.get_by_role("alertdialog").wait_for(state="hidden")

    with console.running.client() as rest:

        def stored() -> str:
            return rest.rollout(made.waiting).rollout.state.value

        press("Pause", "Keep as it is")
        assert stored() == "running"
        press("Pause", "Pause it")
        page.locator(".title", has_text="paused").wait_for()
        assert stored() == "paused"
        rest.change_rollout(made.waiting, "resume")
        page.locator(".title", has_text="running").wait_for()  # nobody reloaded
        rest.change_rollout(made.waiting, "pause")
        page.locator(".title", has_text="paused").wait_for()
        press("Cancel", "Cancel it")
        page.locator(".title", has_text="cancelled").wait_for()
        assert stored() == "cancelled"
        actors = {e.actor for e in rest.audit(50, action="rollout_cancelled")}
    assert actors == {"operator:local"}
    assert state.inner_text() == "cancelled"
    page.get_by_role("button", name="Cancel", exact=True).wait_for(state="detached")
    assert heard == []
    page.context.close()


def test_a_note_is_kept_and_devices_are_let_in_and_refused_by_keyboard(
    browser: sync_api.Browser, console: Console, heard: list[str]
) -> None:
    page = opened(browser, console, heard, size=PHONE, scheme="dark")
    page.goto(f"{console.url}/devices/edge-1")
    page.get_by_label("Write a note about this device").fill("new <fan> fitted")
    page.get_by_role("button", name="Keep the note").press("Enter")
    page.locator("td[data-label=note]", has_text="new <fan> fitted").wait_for()
    assert page.get_by_label("Write a note about this device").input_value() == ""
    page.goto(f"{console.url}/pending")
    page.get_by_role("heading", name="door-7", exact=True).wait_for()
    with console.running.client() as rest:
        codes = {a.name: a.code for a in rest.applicants()}
        card = page.get_by_role("article", name="door-7")
        card.get_by_role("button", name="Approve").press("Enter")
        field = page.get_by_label("Code on the device")
        field.fill(codes["door-8"])
        field.press("Enter")
        page.get_by_text("does not wait with the code").wait_for()
        assert all(a.waits for a in rest.applicants()), "another device's code lets nobody in"
        field.fill(codes["door-7"])
        page.get_by_role("button", name="Let it in").press("Enter")
        page.get_by_role("heading", name="door-7", exact=True).wait_for(state="detached")
        other = page.get_by_role("article", name="door-8")
        other.get_by_role("button", name="Refuse").press("Enter")
        page.get_by_role("button", name="Refuse it").press("Enter")
        page.get_by_role("heading", name="door-8", exact=True).wait_for(state="detached")
        answers = {a.name: bool(a.approved_at) for a in rest.applicants()}
        actors = {e.actor for e in rest.audit(50) if e.action in ("noted", "approved", "rejected")}
    assert answers == {"door-7": True, "door-8": False}
    assert "operator:local" in actors
    page.locator("td", has_text="approved; it comes in when it next asks").wait_for()
    assert heard == []
    page.context.close()


def test_two_variants_are_chosen_and_compared_by_keyboard(
    browser: sync_api.Browser, console: Console, heard: list[str]
) -> None:
    page = opened(browser, console, heard, size=PHONE)
    page.goto(f"{console.url}/models/{console.history.model}")
    page.get_by_label("A", exact=True).select_option("int8")
    page.get_by_label("B", exact=True).select_option("fp32")
    page.get_by_role("button", name="Compare").press("Enter")
    page.wait_for_url("**/compare?**")
    page.get_by_role("heading", name="Device by device").wait_for()
    assert page.get_by_label("A", exact=True).input_value() == "int8"
    line = page.locator("tr", has=page.locator("th", has_text="edge-1"))
    assert "× 3.333" in line.inner_text()  # the twins take 1 ms and 0.3 ms
    kinds = page.locator("article.fit")
    assert kinds.count() == 2, "the stand-in is a kind of its own"
    assert "emulated" in kinds.nth(1).inner_text()
    energy = kinds.nth(0).locator("tr", has=page.locator("th", has_text="energy"))
    assert "unknown" in energy.inner_text()
    assert "–" in energy.inner_text()
    assert heard == []
    page.context.close()


def test_a_page_that_stands_is_shut_when_the_session_ends(
    browser: sync_api.Browser, console: Console, heard: list[str]
) -> None:
    page = opened(browser, console, heard)
    other = page.context.new_page()
    other.goto(console.url)
    other.get_by_role("button", name="Log out").click()
    other.wait_for_url("**/login")
    page.wait_for_url("**/login**")
    page.context.close()
