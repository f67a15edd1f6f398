"""Signals to the hub, and hubs and proxies that meet others where they want to be."""

import os
import signal
import subprocess
import sys
import time

from harness.hub import command, environment
from harness.steps import Steps, require, same, wait_until

from .site_under_test import SOON, Site

USERS = ["ada", "bob"]


def tell(steps: Steps) -> None:
    with Site("signals", USERS) as site:
        with steps.step("a hub with two servers"):
            site.start()
            site.all_run()
            same(site.census(), 2, "servers")
        for what in (status_signal, second_hub, second_signal, others_pid_file, strangers_proxy, ended_proxy):
            with steps.step(what.__doc__):
                try:
                    what(site)
                except Exception as error:
                    raise AssertionError(f"{error}\n{site.log_tail()}") from error


def status_signal(site: Site) -> None:
    """SIGUSR1, which asks upstream for its status, does no harm"""
    site.hub.send_signal(signal.SIGUSR1)
    wait_until(lambda: "SIGUSR1" in site.log.read_text(errors="replace"), "a word on it in the log", SOON, pause=0.02)
    same(site.census(), 2, "servers")


def second_hub(site: Site) -> None:
    """a second hub in the same place is refused, and the first one does not notice"""
    proxy = site.proxy_pid()
    other = run_hub(site)
    require(other.returncode == 1 and "hub" in other.stdout, f"{other.returncode}: {other.stdout}")
    same((site.hub.poll(), site.proxy_pid()), (None, proxy), "the first hub, its proxy")
    same(site.census(), 2, "servers")


def second_signal(site: Site) -> None:
    """a second signal, a moment after the first, ends the hub at once; its next life goes on stopping"""
    site.kill(signal.SIGTERM)
    site.start("--JupyterHub.cleanup_servers=True")
    site.all_stop()
    for user in site.users:
        (site.homes[user] / "lingers").touch()
    site.all_run()
    site.hub.send_signal(signal.SIGTERM)
    wait_until(lambda: site.query("SELECT 1 FROM orrery_runs WHERE phase = 'stopping'"), "the stop of all servers", SOON, pause=0.01)
    time.sleep(1.1)  # two signals within a second are one wish
    begun = time.monotonic()
    site.hub.send_signal(signal.SIGTERM)
    same(site.hub.wait(SOON), 1, "the hub's exit code")
    require(time.monotonic() - begun < 0.8, f"it took {time.monotonic() - begun:.2f} s")
    for user in site.users:
        (site.homes[user] / "lingers").unlink()
    site.start()
    same(site.census(), 0, "servers")
    site.all_run()
    same(site.census(), 2, "servers")


def others_pid_file(site: Site) -> None:
    """a proxy's pid file that names somebody else's process harms nobody"""
    site.kill()
    site.kill_proxy()
    bystander = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import _signal; _signal.pause()"], stdin=subprocess.DEVNULL)
    try:
        (site.folder / "jupyterhub-proxy.pid").write_text(str(bystander.pid))
        site.start()
        same(site.census(), 2, "servers")
        require(bystander.poll() is None, "the bystander was ended")
        require(site.proxy_pid() != bystander.pid, "the pid file names the bystander")
    finally:
        bystander.kill()
        bystander.wait()


def strangers_proxy(site: Site) -> None:
    """a stranger's proxy on the port of ours is left alone, and the hub says so and ends"""
    site.kill()
    site.kill_proxy()
    stranger = subprocess.Popen(
        [*command("orrery"), "proxy", "--ip", "127.0.0.1", "--port", str(site.port), "--api-ip", "127.0.0.1", "--api-port", str(site.api_port)],
        cwd="/", env=environment(CONFIGPROXY_AUTH_TOKEN="the-token-of-a-stranger"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: site._quietly(lambda: site.call("GET", "", port=site.api_port, prefix="/api/routes")[0]) == 403, "the stranger", SOON)
        hub = run_hub(site)
        require(hub.returncode == 1 and "another proxy" in hub.stdout, f"{hub.returncode}: {hub.stdout}")
        require(stranger.poll() is None, "the stranger was ended")
    finally:
        stranger.kill()
        stranger.wait()
    site.start()
    same(site.census(), 2, "servers")


def ended_proxy(site: Site) -> None:
    """a proxy that somebody ends politely comes back as well"""
    old = site.proxy_pid()
    os.kill(old, signal.SIGTERM)
    wait_until(lambda: site._quietly(site.proxy_pid) not in (old, None) and not isinstance(site._quietly(site.routes), OSError), "the new proxy", SOON, pause=0.02)
    same(site.census(), 2, "servers")


def run_hub(site: Site) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*command("orrery"), "-f", "orrery.toml"], cwd=site.folder, env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=SOON * 2,
    )
