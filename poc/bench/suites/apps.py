"""Servers and their clients, both in one container: nginx with ab, redis with redis-benchmark.

They talk over the container's own loopback and a socket in its files, so what is measured is the isolation of
processes, not the way from one network to another.
"""

from __future__ import annotations

import csv
import re

from poc.bench.runtimes.base import CallFailed
from poc.bench.statistics import HIGHER
from poc.bench.suites.base import Measured, Metric, Settings, Suite

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.bench.runtimes.base import Runtime

_PORT = 18085
_NGINX = (
    "daemon off; user root; pid bench.nginx.pid; error_log stderr crit; worker_processes 2;"
    " events {{ worker_connections 1024; }}"
    " http {{ access_log off; client_body_temp_path bench.nginx; proxy_temp_path bench.nginx;"
    " fastcgi_temp_path bench.nginx; uwsgi_temp_path bench.nginx; scgi_temp_path bench.nginx;"
    " server {{ listen 127.0.0.1:{port}; location / {{ return 200 served; }} }} }}"
)
_WEB = (
    "mkdir bench.nginx; echo '{config}' > bench.nginx/conf;"
    ' nginx -e stderr -p "$PWD" -c bench.nginx/conf & server=$!;'
    " i=0; until ab -q -n 1 http://127.0.0.1:{port}/ >/dev/null 2>&1; do"
    " i=$((i+1)); [ $i -lt 100 ] || break; sleep 0.1; done;"
    " ab -q -n {requests} -c 100 http://127.0.0.1:{port}/; code=$?;"
    " kill $server; wait $server; rm -rf bench.nginx bench.nginx.pid; exit $code"
)
_REDIS = (
    "redis-server --port 0 --unixsocket ./bench.redis --save '' --dir . >/dev/null & server=$!;"
    " i=0; until redis-cli -s ./bench.redis ping 2>&1 | grep -q PONG; do"
    " i=$((i+1)); [ $i -lt 100 ] || break; sleep 0.1; done;"
    " redis-benchmark -s ./bench.redis -t set,get,incr,lpush -n {requests} --csv; code=$?;"
    " kill $server; wait $server; rm -f ./bench.redis; exit $code"
)


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
    programs = ("nginx", "ab", "sh", "mkdir", "rm", "sleep")

    def seconds(self, settings: Settings) -> float:
        return settings.pick(6, 1)

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        config = _NGINX.format(port=_PORT)
        script = _WEB.format(config=config, port=_PORT, requests=settings.whole(50_000, 5000, 200))
        raw = runtime.run(["sh", "-c", script])
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
    programs = ("redis-server", "redis-benchmark", "redis-cli", "sh", "grep", "rm", "sleep")

    def seconds(self, settings: Settings) -> float:
        return settings.pick(8, 1.5)

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        script = _REDIS.format(requests=settings.whole(100_000, 10_000, 500))
        raw = runtime.run(["sh", "-c", script])
        return Measured(redis_figures(raw), raw)


def redis_figures(text: str) -> dict[str, float]:
    """Requests a second by test, of redis-benchmark's CSV. Raises CallFailed."""
    rows = [row for row in csv.reader(text.splitlines()) if len(row) > 1]
    values = {row[0].lower(): float(row[1]) for row in rows if re.fullmatch(r"[\d.]+", row[1])}
    if lacking := {metric.key for metric in Redis.metrics} - values.keys():
        raise CallFailed(f"redis-benchmark: no {', '.join(sorted(lacking))} in {text.strip()[-200:]!r}")
    return values


APPS = (Nginx(), Redis())
