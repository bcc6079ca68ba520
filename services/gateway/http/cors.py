"""Cross-origin resource sharing (the Fetch standard, 3.2): which pages may read our answers."""

from collections.abc import Iterable

from aiohttp import web

METHODS = "GET, POST, DELETE"
PREFLIGHT_MAX_AGE_S = 600
ANY = "*"


class Cors:
    """The origins that are let in; `*` lets in all, none refuses every preflight.

    `exposed` headers of an answer are for the pages to read.
    """

    def __init__(self, origins: Iterable[str], exposed: Iterable[str]) -> None:
        self._origins = frozenset(origins)
        self._exposed = ", ".join(exposed)

    @property
    def is_on(self) -> bool:
        """True where any origin is let in."""
        return bool(self._origins)

    def is_preflight(self, request: web.BaseRequest) -> bool:
        """Return whether a browser asks if it may ask."""
        headers = request.headers
        asks = "Origin" in headers and "Access-Control-Request-Method" in headers
        return request.method == "OPTIONS" and asks

    def lets_in(self, request: web.BaseRequest) -> bool:
        """Return whether the page that sends this may read the answer."""
        origin = request.headers.get("Origin")
        return origin is not None and (ANY in self._origins or origin in self._origins)

    def preflight(self, request: web.BaseRequest) -> web.Response:
        """Return what lets a page ask, with the header fields that it named."""
        allowed = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE_S),
        }
        named = request.headers.get("Access-Control-Request-Headers")
        if named:
            allowed["Access-Control-Allow-Headers"] = named
        return web.Response(status=204, headers=allowed)

    def headers(self, request: web.BaseRequest) -> dict[str, str]:
        """Return what any answer to this request says of it."""
        if not self.is_on:
            return {}
        varies = {} if ANY in self._origins else {"Vary": "Origin"}
        if not self.lets_in(request):
            return varies
        origin = ANY if ANY in self._origins else request.headers["Origin"]
        return {
            **varies,
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": self._exposed,
        }
