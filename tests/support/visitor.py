"""A browser without scripts, for tests of the console that need no real one."""

import re

import httpx


class Visitor:
    """A browser without scripts: it keeps the cookie and the token of its session."""

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url
        fields = {"key": key, "to": "/console"}
        self.reply = httpx.post(f"{url}/console/sign-in", data=fields, timeout=60)
        self.cookie = self.reply.headers.get("set-cookie", "")
        self.headers = {"cookie": self.cookie.partition(";")[0]}
        page = self.get("/console/nowhere").text
        token = re.search(r'name="csrf-token" content="(\w+)"', page)
        self.token = token[1] if token else ""

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers={**self.headers, **headers}, timeout=60)

    def post(self, path: str, json: object = None, **headers: str) -> httpx.Response:
        sent = {**self.headers, "x-csrf-token": self.token, **headers}
        return httpx.post(self.url + path, json=json, headers=sent, timeout=60)
