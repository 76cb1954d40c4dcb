"""The frame of the console: sessions, roles, changes from other sites, headers, vendored files."""

import hashlib
import re
import stat
from http.cookies import SimpleCookie
from pathlib import Path

import httpx
import pytest
import yaml

from ragtune_serving.console.marking import literal_span, marked
from ragtune_serving.console.pages import FOLDER, ago
from ragtune_serving.console.sessions import SECONDS, Sessions
from ragtune_serving.keys import KeyStore
from tests.support.browser import browser_at
from tests.support.console_gateway import ConsoleGateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.visitor import Visitor

VENDOR = FOLDER / "vendor"


@pytest.fixture(scope="module")
def upstream():
    running = ScriptedUpstream()
    yield running
    running.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, upstream):
    documents = tmp_path_factory.mktemp("documents")
    (documents / "cart.md").write_text("# The cart\n\nThe price of everything in the cart includes taxes.\n")
    running = ConsoleGateway(tmp_path_factory.mktemp("home"), documents, upstream)
    yield running
    running.close()


@pytest.fixture
def ada(gateway):
    return Visitor(gateway.url, gateway.key("ada", "application"))


QUESTION = {"model": "ragtune", "messages": [{"role": "user", "content": "What does the price include?"}]}


def test_a_session_is_in_a_cookie_that_scripts_other_sites_and_plain_http_do_not_get(ada):
    (morsel,) = SimpleCookie(ada.cookie).values()
    assert morsel.key.startswith("__Host-ragtune-")
    assert (morsel["secure"], morsel["httponly"], morsel["samesite"]) == (True, True, "lax")
    assert (morsel["path"], morsel["domain"], int(morsel["max-age"])) == ("/", "", SECONDS)


def test_nobody_gets_in_with_a_wrong_key_or_a_forged_cookie(gateway, ada):
    wrong = Visitor(gateway.url, "rt-wrong")
    assert (wrong.reply.status_code, wrong.cookie) == (401, "")
    assert "not accepted" in wrong.reply.text
    assert wrong.get("/console/ask").headers["location"] == "/console/sign-in?to=%2Fconsole%2Fask"
    start, last = ada.headers["cookie"][:-9], ada.headers["cookie"][-8:]
    ada.headers["cookie"] = f"{start}{'B' if ada.headers['cookie'][-9] == 'A' else 'A'}{last}"
    assert ada.get("/console/ask").status_code == 303
    assert ada.post("/console/v1/chat/completions", QUESTION).status_code == 401


def test_a_session_ends_at_once_when_its_key_is_revoked_or_replaced(gateway):
    for end in (lambda: gateway.keys.revoke("bea"), lambda: gateway.key("bea", "application")):
        bea = Visitor(gateway.url, gateway.key("bea", "application"))
        assert bea.get("/console/ask").status_code == 200
        end()
        assert bea.get("/console/ask").status_code == 303


def test_a_session_ends_when_its_key_expires(gateway):
    key = gateway.key("cleo", "application", expires_at="2999-01-01T00:00:00+00:00")
    sessions = Sessions(gateway.keys)
    cookie = sessions.sign_in(key)
    assert sessions.read(cookie).key.name == "cleo"
    gateway.keys._write([k for k in gateway.keys.all() if k.name != "cleo"])
    assert sessions.read(cookie) is None


def test_the_secret_is_in_a_file_that_only_its_owner_reads_and_survives_a_restart(tmp_path):
    keys = KeyStore(tmp_path / "keys")
    key = keys.create("ada")
    cookie = Sessions(keys).sign_in(key)
    assert stat.S_IMODE((tmp_path / "keys" / "console.secret").stat().st_mode) == 0o600
    assert Sessions(keys).read(cookie).key.name == "ada"
    (tmp_path / "keys" / "console.secret").write_text("another secret\n")
    assert Sessions(keys).read(cookie) is None


def test_every_role_sees_its_pages_and_no_others(gateway):
    names = ("ask", "reviews", "evaluate", "knowledge", "candidates", "experiments", "feedback", "health")
    pages = {}
    for role in ("application", "annotator", "reviewer", "operator", "admin"):
        visitor = Visitor(gateway.url, gateway.key(f"a {role}", role))
        start = visitor.get("/console").headers["location"]
        pages[role] = re.findall(r'<a href="/console/(\w+)"', visitor.get("/console/nowhere").text)
        assert start == f"/console/{pages[role][0]}"
        refused = [name for name in names if name not in pages[role]]
        assert {visitor.get(f"/console/{name}").status_code for name in refused} <= {403}
    assert pages == {
        "application": ["ask"],
        "annotator": ["reviews", "evaluate"],
        "reviewer": ["reviews", "evaluate", "knowledge", "feedback"],
        "operator": ["ask", "knowledge", "candidates", "experiments", "feedback", "health"],
        "admin": list(names),
    }


def test_a_change_needs_the_token_of_the_session_and_may_not_come_from_another_site(ada):
    assert ada.post("/console/v1/chat/completions", QUESTION).status_code == 200
    for headers in (
        {"x-csrf-token": ""},
        {"x-csrf-token": "0" * len(ada.token)},
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
    ):
        assert ada.post("/console/v1/chat/completions", QUESTION, **headers).status_code == 403, headers


def test_another_site_cannot_sign_somebody_in(gateway):
    key = gateway.key("dan", "application")
    reply = httpx.post(
        f"{gateway.url}/console/sign-in", data={"key": key}, headers={"origin": "https://evil.example"}, timeout=60
    )
    assert (reply.status_code, "set-cookie" in reply.headers) == (403, False)


@pytest.mark.parametrize("elsewhere", [{"host": "answers.example"}, {"x-forwarded-for": "10.0.0.7"}])
def test_only_visitors_on_this_machine_are_shown_the_command_that_prints_its_key(gateway, elsewhere):
    command = f"cat {gateway.keys.client_file}"
    assert command in httpx.get(f"{gateway.url}/console/sign-in", timeout=60).text
    page = httpx.get(f"{gateway.url}/console/sign-in", headers=elsewhere, timeout=60).text
    assert str(gateway.settings.home) not in page
    assert "ragtune keys add NAME --role ROLE" in page


@pytest.mark.parametrize("to", ["https://evil.example/", "//evil.example", "/\\evil.example", "/docs", "/consoles"])
def test_signing_in_leads_to_no_other_site(gateway, to):
    reply = httpx.post(f"{gateway.url}/console/sign-in", data={"key": gateway.keys.client_key(), "to": to}, timeout=60)
    assert reply.headers["location"] == "/console"


def test_the_routes_below_the_console_obey_role_and_filter_of_the_key(gateway, ada):
    assert ada.get("/console/v1/review/progress").status_code == 403
    assert ada.get("/console/status").status_code == 403
    narrow = Visitor(gateway.url, gateway.key("eve", "application", filter_={"title": "Something else"}))
    assert narrow.post("/console/v1/chat/completions", QUESTION).json()["ragtune"]["citations"] == []
    citation = ada.post("/console/v1/chat/completions", QUESTION).json()["ragtune"]["citations"][0]
    address = f"/console/documents/{citation['document']}?chunk={citation['chunk']}"
    assert ada.get(address).status_code == 200
    assert narrow.get(address).status_code == 404


def test_the_session_is_worth_nothing_outside_the_console(ada):
    assert ada.get("/v1/models").status_code == 401


def test_every_page_forbids_inline_scripts_and_frames_and_is_not_stored(gateway, ada):
    for path in ("/console/sign-in", "/console/ask", "/console/nowhere", "/console/health"):
        reply = ada.get(path)
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert reply.headers["cache-control"] == "no-store"
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=", reply.text), path


def test_pages_load_their_own_files_only_and_every_one_of_them_exists(ada):
    page = ada.get("/console/ask").text
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    loaded = [address for address in addresses if "static" in address]
    assert len(loaded) >= 4
    assert [ada.get(address).status_code for address in loaded] == [200] * len(loaded)
    assert all(address.startswith(("/console", "#")) for address in addresses)
    assert ada.get("/console/static/..%2Fpages.py").status_code == 404
    assert ada.get("/console/static/nothing.js").status_code == 404


def test_signing_out_removes_the_cookie(ada):
    reply = ada.post("/console/sign-out")
    (morsel,) = SimpleCookie(reply.headers["set-cookie"]).values()
    assert (morsel.value, morsel["max-age"]) == ("", "0")


def test_vendored_files_are_the_ones_that_are_listed_with_licence_and_hash():
    listed = yaml.safe_load((VENDOR / "vendor.yaml").read_text())
    hashes = {name: digest for library in listed.values() for name, digest in library["files"].items()}
    present = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in VENDOR.iterdir()}
    present.pop("vendor.yaml")
    assert hashes == present
    assert all({"version", "licence", "from"} <= set(library) for library in listed.values())


def test_the_files_of_the_console_are_data_of_its_package():
    import tomllib

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["ragtune_serving.console"]
    packaged = {path for pattern in patterns for path in FOLDER.glob(pattern)}
    assert packaged == {path for path in FOLDER.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}


def test_a_claim_that_is_quoted_is_marked_whole_and_another_one_by_its_words():
    text = "A note is needed. It is valid\nfor four hours. Dogs bark."
    assert [part.text for part in marked(text, '"It is valid for four hours."') if part.marked] == [
        "It is valid\nfor four hours"
    ]
    words = [part.text for part in marked(text, "The note holds four hours.") if part.marked]
    assert words == ["note", "four hours"]
    assert "".join(part.text for part in marked(text, "four hours")) == text
    assert [part.marked for part in marked(text, "Nothing of that kind")] == [False]
    assert literal_span(text, " ") is None


def test_times_are_told_as_people_say_them():
    from datetime import UTC, datetime

    at = datetime(2026, 5, 1, 12, tzinfo=UTC)
    moments = ("2026-05-01T11:59:50+00:00", "2026-05-01T11:55:00", "2026-05-01T09:00:00+00:00", "2026-04-28T12:00:00")
    assert [ago(moment, at) for moment in moments] == ["just now", "5 min ago", "3 h ago", "3 d ago"]


@pytest.mark.browser
def test_people_sign_in_land_where_they_wanted_and_sign_out(gateway):
    with browser_at(gateway.url) as browser:
        browser.open("/console/ask")
        browser.shows("Sign in")
        browser.check()
        browser.one("#key").send_keys("rt-wrong\n")
        browser.shows("not accepted")
        browser.errors()  # the browser reports the 401
        browser.one("#key").send_keys(gateway.keys.client_key() + "\n")
        browser.shows("Ask something that your documents answer.")
        browser.one("#sign-out").click()
        browser.shows("Sign in")
        browser.open("/console/ask")
        browser.shows("Sign in")
        assert browser.errors() == []
