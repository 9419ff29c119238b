"""The dashboard of a real controller over HTTP: who gets in, and what every page says."""

from __future__ import annotations

import contextlib
import html
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from controller.client import Client
from controller.domain.roles import Role
from controller.errors import Forbidden
from tests.integration import test_serve
from tests.integration.dashboard_fleet import History, fill
from tests.integration.test_serve import Running, start

pytest.importorskip("nicegui", reason="no dashboard: pip install 'fitment[dashboard]'")

BROWSER = {"accept": "text/html,application/xhtml+xml"}
PAGES = ("/", "/models", "/rollouts", "/triggers", "/tickets", "/pending", "/audit")


@dataclass
class Console:
    """A controller with a history, and a browser's manners."""

    running: Running
    history: History

    @property
    def url(self) -> str:
        return self.running.addresses.dashboard.rstrip("/")

    @property
    def token(self) -> str:
        return (self.running.data_dir / "operator.token").read_text()

    def browser(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=BROWSER)

    @contextlib.contextmanager
    def logged_in(self) -> Iterator[httpx.Client]:
        with self.browser() as client:
            assert client.post("/login", data={"token": self.token}).status_code == 303
            yield client


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Iterator[Console]:
    data_dir = tmp_path_factory.mktemp("console") / "data"
    history = fill(data_dir)
    running = start(data_dir, root, "--link", "grpc", "--enrolment-by-approval")
    yield Console(running, history)
    assert running.stop() == 0
    log = (data_dir / "log").read_text()
    assert "Traceback" not in log, log
    assert not (root / ".nicegui").exists()


def test_serve_prints_the_address(console: Console) -> None:
    log = (console.running.data_dir / "log").read_text()
    assert f"dashboard  {console.url}/" in log
    assert console.url == console.running.addresses.rest


@pytest.mark.parametrize("path", [*PAGES, "/devices/edge-1", "/nothing", "/_nicegui_ws/socket.io/"])
def test_nobody_gets_in_without_a_session(console: Console, path: str) -> None:
    for headers in ({}, {"cookie": "fitment_session_1=x"}, {"authorization": "Bearer wrong"}):
        refused = httpx.get(console.url + path, headers=headers)
        assert refused.status_code == 401
        assert refused.json()["code"] == "unauthenticated"
    led = httpx.get(console.url + path, headers=BROWSER)
    assert led.status_code == 303
    assert led.headers["location"].startswith("/login?next=%2F")
    assert "edge-1" not in led.text
    assert httpx.post(console.url + path).status_code == 401


def test_a_session_opens_no_rest_and_the_token_opens_it_as_before(console: Console) -> None:
    with console.logged_in() as client:
        assert client.get("/v1/devices").status_code == 401
        assert client.get("/healthz").json() == {"status": "ok"}
    with console.running.client() as rest:
        assert [d.name for d in rest.devices()] == ["edge-1", "stand-in"]


def test_metrics_are_read_beside_the_pages(console: Console) -> None:
    token = (console.running.data_dir / "metrics.token").read_text().strip()
    shown = {"Authorization": f"Bearer {token}"}
    answer = httpx.get(f"{console.url}/metrics", headers=shown)
    assert (answer.status_code, "fitment_devices" in answer.text) == (200, True)
    assert httpx.get(f"{console.url}/metrics").status_code == 401


def test_the_login_is_strict(console: Console) -> None:
    with console.browser() as client:
        assert "Operator token" in client.get("/login").text
        wrong = client.post("/login", data={"token": "wrong"})
        assert wrong.status_code == 401
        assert "not this controller" in wrong.text
        elsewhere = {"token": console.token, "next": "https://example.org/"}
        assert client.post("/login", data=elsewhere).headers["location"] == "/"
        for after in ("//example.org", "/\\example.org", "javascript:alert(1)"):
            sent = {"token": console.token, "next": after}
            assert client.post("/login", data=sent).headers["location"] == "/"
        foreign = {"origin": "http://example.org"}
        answer = client.post("/login", data={"token": console.token}, headers=foreign)
        assert answer.status_code == 403
        assert client.put("/login").status_code == 405


def test_the_cookie_is_closed_to_scripts_and_other_sites(console: Console) -> None:
    with console.browser() as client:
        cookie = client.post("/login", data={"token": console.token}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert console.token not in cookie


def test_logging_out_ends_the_session(console: Console) -> None:
    with console.logged_in() as client:
        cookies = dict(client.cookies)
        foreign = {"origin": "http://example.org"}
        client.post("/logout", headers=foreign)
        assert client.get("/").status_code == 200
        assert client.post("/logout").status_code == 303
    kept = httpx.get(console.url, headers=BROWSER, cookies=cookies)
    assert kept.status_code == 303


def test_every_page_tells_its_part(console: Console) -> None:
    made = console.history
    expected = {
        "/": ("edge-1", "stand-in", "emulated", "offline", "m: int8"),
        "/devices/stand-in": ("emulated", "committed", "valid", "not asked", "runtime.onnx"),
        "/devices/edge-1": (
            "temperature",
            "40 to 42.5",
            "no sensor says it",
            "m: int8 committed",
            "matched a profile",
            "measured int8",
            "1.5 MB of 10.0 MB transferred this month",
            "its link is metered (its modem)",
            "blew the fan clean",
            "90.0%",
            "night",
        ),
        f"/preview?release={made.release}": (
            "up to wave 1 (10%)",
            "edge-1",
            "2 of them are offline",
            "rollout create",
        ),
        f"/preview?release={made.release}&where=label.site%20%3D%20%22x%22": (
            "cannot read the expression",
        ),
        "/models": ("m 1",),
        f"/models/{made.model}": ("chosen", "interpolated", "accuracy", "bubble", "approved"),
        "/rollouts": ("completed", "running"),
        f"/rollouts/{made.done}": ("wave 2", "2 of 2 committed", "edge-1", "the whole fleet"),
        f"/rollouts/{made.waiting}": ("No device was admitted yet", "fitment-agent run"),
        "/triggers": ("fitment status",),
        "/tickets": ("No device does worse than its kind",),
        "/pending": ("door-7", "door-8", "Compare the code"),
        "/audit": ("rollout completed", "release approved"),
        "/devices/nobody": ("no device", "fitment device list"),
        "/rollouts/none": ("no rollout",),
        "/models/none": ("no model",),
    }
    with console.logged_in() as client:
        for path, words in expected.items():
            answer = client.get(path)
            assert answer.status_code == 200, path
            text = html.unescape(answer.text.replace("\\u003C", "<"))
            assert [word for word in words if word not in text] == [], path


def test_nothing_comes_from_elsewhere(console: Console) -> None:
    with console.logged_in() as client:
        answer = client.get("/")
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
        assert client.get("/style.css").headers["content-type"].startswith("text/css")


def test_it_can_be_left_out(tmp_path: Path, root: Path) -> None:
    running = start(tmp_path / "data", root, "--link", "grpc", "--no-dashboard")
    assert running.addresses.dashboard == ""
    assert httpx.get(running.addresses.rest + "/login").status_code == 401
    assert running.stop() == 0


def test_without_the_package_serving_works_and_says_how_to_get_it(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = "import sys; sys.modules['nicegui'] = None; import controller.__main__ as c; c.main()"
    monkeypatch.setattr(test_serve, "FITMENT", [sys.executable, "-c", hidden])
    running = start(tmp_path / "data", root, "--link", "grpc")
    assert running.addresses.dashboard == ""
    assert any("pip install 'fitment[dashboard]'" in note for note in running.addresses.notes)
    assert "no dashboard" in (running.data_dir / "log").read_text()
    with running.client() as rest:
        assert rest.status().devices == 0
    assert running.stop() == 0


def test_a_viewer_sees_no_buttons_and_an_operator_does(console: Console) -> None:
    """The page is drawn by the role of now; a token that ends shuts its sessions out."""
    page = f"/rollouts/{console.history.waiting}"
    with console.running.client() as admin:
        texts = {role: admin.create_operator(f"a-{role.value}", role).text for role in Role}
        for role, text in texts.items():
            with console.browser() as client:
                assert client.post("/login", data={"token": text}).status_code == 303
                shown = client.get(page).text
                assert f"a-{role.value} ({role.value})" in shown
                assert ("Pause it" in shown) == (role is not Role.VIEWER)
                asked = client.get("/pending").text
                assert "door-7" in asked
                assert ("Let it in" in asked) == (role is not Role.VIEWER)
                written = client.get("/devices/edge-1").text
                assert ("Keep the note" in written) == (role is not Role.VIEWER)
                admin.revoke_operator(f"a-{role.value}")
                assert client.get(page).status_code == 303
                assert client.post("/login", data={"token": text}).status_code == 401


def test_a_viewers_request_for_an_act_is_refused_below_the_page(console: Console) -> None:
    with console.running.client() as admin:
        text = admin.create_operator("looks-on", Role.VIEWER).text
    with Client(console.url, text) as viewer:
        with pytest.raises(Forbidden, match="needs the role 'operator'"):
            viewer.change_rollout(console.history.waiting, "pause")
        assert viewer.rollout(console.history.waiting).rollout.state.value == "running"
