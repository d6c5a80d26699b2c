"""Servers in a container and their clients on the host: nginx with ab, redis with redis-benchmark.

They talk over the container's network, so what is measured is the way there too, as it is for whoever uses a server.
"""

from __future__ import annotations

import csv
import re

from poc.bench.runtimes.base import NETWORK, CallFailed
from poc.bench.statistics import HIGHER
from poc.bench.suites.base import Measured, Metric, Settings, Suite
from poc.bench.suites.network import await_server, connected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.bench.runtimes.base import Runtime

_WEB_PORT, _REDIS_PORT = 18085, 18086
_NGINX = (
    "daemon off; user root; pid bench.nginx/pid; error_log stderr crit; worker_processes 2;"
    " events { worker_connections 1024; }"
    " http { access_log off; client_body_temp_path bench.nginx; proxy_temp_path bench.nginx;"
    " fastcgi_temp_path bench.nginx; uwsgi_temp_path bench.nginx; scgi_temp_path bench.nginx;"
    f" server {{ listen {_WEB_PORT}; location / {{ return 200 served; }} }} }}"
)
_WEB = f"mkdir -p bench.nginx; echo '{_NGINX}' > bench.nginx/conf; exec nginx -e stderr -p \"$PWD\" -c bench.nginx/conf"
_REDIS = f"redis-server --port {_REDIS_PORT} --protected-mode no --save".split() + [""]


class Nginx(Suite):
    """ab -n 50000 -c 100 of a small page."""

    name = "app.nginx"
    title = "nginx, asked by ab"
    headline = "rate"
    metrics = (
        Metric("rate", "requests", "1/s", HIGHER),
        Metric("mean", "time of a request, average", "ms"),
        Metric("p95", "time of a request, 95th percentile", "ms"),
    )
    needs = frozenset((NETWORK,))
    programs = ("nginx", "sh", "mkdir")
    host_programs = ("ip", "ab")

    def seconds(self, settings: Settings) -> float:
        return settings.pick(6, 1)

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        requests = settings.whole(50_000, 5000, 200)
        with connected(runtime, ["sh", "-c", _WEB]) as server:
            address, _ = runtime.addresses(server)
            await_server(address, _WEB_PORT)
            raw = runtime.call("ab", "-q", "-n", f"{requests}", "-c", "100", f"http://{address}:{_WEB_PORT}/")
        return Measured(ab_figures(raw), raw)


def ab_figures(text: str) -> dict[str, float]:
    """Of ab's report. Raises CallFailed when requests have failed."""
    patterns = {
        "rate": r"^Requests per second:\s+([\d.]+)",
        "mean": r"^Time per request:\s+([\d.]+)",
        "p95": r"^\s+95%\s+(\d+)",
    }
    found = {key: re.search(pattern, text, re.MULTILINE) for key, pattern in patterns.items()}
    failed = re.search(r"^(?:Failed requests|Non-2xx responses):\s+([1-9]\d*)", text, re.MULTILINE)
    if failed:
        raise CallFailed(f"ab: {failed[1]} requests failed")
    values = {key: float(match[1]) for key, match in found.items() if match}
    if len(values) < len(patterns):
        raise CallFailed(f"ab: no report but {text.strip()[-200:]!r}")
    return values


class Redis(Suite):
    """redis-benchmark with its 50 clients."""

    name = "app.redis"
    title = "redis, asked by redis-benchmark"
    headline = "get"
    metrics = tuple(Metric(name, name.upper(), "1/s", HIGHER) for name in ("get", "set", "incr", "lpush"))
    needs = frozenset((NETWORK,))
    programs = ("redis-server",)
    host_programs = ("ip", "redis-benchmark")

    def seconds(self, settings: Settings) -> float:
        return settings.pick(8, 1.5)

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        requests = settings.whole(100_000, 10_000, 500)
        with connected(runtime, _REDIS) as server:
            address, _ = runtime.addresses(server)
            await_server(address, _REDIS_PORT)
            words = ["-h", address, "-p", f"{_REDIS_PORT}", "-t", "set,get,incr,lpush", "-n", f"{requests}", "--csv"]
            raw = runtime.call("redis-benchmark", *words)
        return Measured(redis_figures(raw), raw)


def redis_figures(text: str) -> dict[str, float]:
    """Requests a second by test, of redis-benchmark's CSV. Raises CallFailed."""
    rows = [row for row in csv.reader(text.splitlines()) if len(row) > 1]
    values = {row[0].lower(): float(row[1]) for row in rows if re.fullmatch(r"[\d.]+", row[1])}
    if lacking := {metric.key for metric in Redis.metrics} - values.keys():
        raise CallFailed(f"redis-benchmark: no {', '.join(sorted(lacking))} in {text.strip()[-200:]!r}")
    return values


APPS = (Nginx(), Redis())
