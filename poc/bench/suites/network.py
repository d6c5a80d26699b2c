"""The way between a container and the host, and between two containers, with iperf3: TCP, one stream."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from contextlib import contextmanager

from poc.bench.runtimes.base import NETWORK, CallFailed
from poc.bench.statistics import HIGHER, LOWER
from poc.bench.suites.base import SLEEP, SMALLER, Measured, Metric, Settings, Suite, created

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from poc.bench.runtimes.base import Runtime

_PORT = 5201
_UP_SECONDS = 30.0
_NOT_YET = "unable to connect"  # as iperf3 says it when nobody listens


@contextmanager
def connected(runtime: Runtime, command: Sequence[str] = SLEEP) -> Iterator[str]:
    """A container that runs, and has a network, as long as this lasts."""
    with created(runtime, command, network=True) as name:
        runtime.start(name)
        yield name


class Iperf(Suite):
    """The client is in a container and sends; the server is where ``to_host`` says."""

    needs = frozenset((NETWORK,))
    programs = ("iperf3", "sleep")
    headline = "rate"
    metrics = (
        Metric("rate", "received", "Mbit/s", HIGHER),
        Metric("retransmits", "segments sent again", "segments", LOWER, SMALLER),
    )

    def __init__(self, name: str, title: str, to_host: bool) -> None:
        self.name = name
        self.title = title
        self.host_programs = ("ip", "iperf3") if to_host else ("ip",)
        self._to_host = to_host

    def seconds(self, settings: Settings) -> float:
        return settings.whole(10, 1) + 1

    def measure(self, runtime: Runtime, settings: Settings) -> Measured:
        seconds = settings.whole(10, 1)
        with connected(runtime) as client:
            if self._to_host:
                address = runtime.addresses(client)[1]
                with _host_serves(address):
                    raw = _send(runtime, client, address, seconds)
            else:
                with connected(runtime, ["iperf3", "--server"]) as server:
                    raw = _send(runtime, client, runtime.addresses(server)[0], seconds)
        return Measured(iperf_figures(raw), raw)


@contextmanager
def _host_serves(address: str) -> Iterator[None]:
    words = ["setpriv", "--pdeathsig=KILL", "iperf3", "--server", f"--bind={address}", f"--port={_PORT}"]
    null = subprocess.DEVNULL
    with subprocess.Popen(words, stdin=null, stdout=null, stderr=null, start_new_session=True) as server:
        try:
            yield
        finally:
            server.kill()


def _send(runtime: Runtime, client: str, address: str, seconds: int) -> str:
    """What iperf3 says in a container that sends to ``address``, once its server is there."""
    # Its complaint is in the JSON, too.
    script = f"iperf3 --client {address} --port {_PORT} --time {seconds} --json || :"
    deadline = time.monotonic() + _UP_SECONDS
    while _NOT_YET in (raw := runtime.exec(client, ["sh", "-c", script])) and time.monotonic() < deadline:
        time.sleep(0.1)
    return raw


def iperf_figures(text: str) -> dict[str, float]:
    """Of iperf3's JSON. Raises CallFailed, with its own complaint where there is one."""
    try:
        report = json.loads(text)
        if complaint := report.get("error"):
            raise CallFailed(f"iperf3: {complaint}")
        end = report["end"]
        return {
            "rate": end["sum_received"]["bits_per_second"] / 1e6,
            "retransmits": end["sum_sent"].get("retransmits", 0),  # of a kernel that tells (gVisor's does not)
        }
    except (ValueError, KeyError) as error:
        raise CallFailed(f"iperf3's report can't be read: {error}") from None


def await_server(address: str, port: int) -> None:
    """Wait until somebody listens there. Raises CallFailed."""
    deadline = time.monotonic() + _UP_SECONDS
    while True:
        try:
            socket.create_connection((address, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise CallFailed(f"nobody answers at {address}:{port}: {error}") from None
        time.sleep(0.05)


NETWORKS = (
    Iperf("network.iperf.host", "A container sends to the host", to_host=True),
    Iperf("network.iperf.container", "A container sends to another", to_host=False),
)
