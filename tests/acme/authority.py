"""An ACME authority of its own: pebble, and the DNS server it asks."""

import json
import re
import ssl
import subprocess
import urllib.request
from pathlib import Path

from harness.certificates import Authority
from harness.hub import environment, free_port
from harness.steps import require, wait_until

DEADLINE = 30


class Names:
    """A DNS server in which all names are this machine, at 127.0.0.1."""

    def __init__(self, folder: Path):
        self.address = f"127.0.0.1:{free_port()}"
        none = {"-http01": "", "-https01": "", "-tlsalpn01": "", "-defaultIPv6": "", "-management": f"127.0.0.1:{free_port()}"}
        command = ["pebble-challtestsrv", "-dns01", self.address, "-defaultIPv4", "127.0.0.1", *(word for pair in none.items() for word in pair)]
        self._log = open(folder / "names.log", "wb")
        self._process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log)

    def __enter__(self) -> "Names":
        return self

    def __exit__(self, *_exception) -> None:
        self._process.kill()
        self._process.wait(10)
        self._log.close()


class Pebble:
    """A server that signs for `life` seconds. It looks at `http_port` and `tls_port` of a name."""

    def __init__(self, folder: Path, names: Names, *, life: int):
        self.folder, self.names = folder, names
        self.folder.mkdir()
        self.http_port, self.tls_port = free_port(), free_port()
        self.port, self.management_port = free_port(), free_port()
        site = Authority(folder, "site")
        pair = site.sign("server", ["localhost"])
        self.ca, self.root = site.file, folder / "root.pem"
        self.directory = f"https://localhost:{self.port}/dir"
        self._config, self._log_path = folder / "pebble.json", folder / "pebble.log"
        settings = {
            "listenAddress": f"127.0.0.1:{self.port}",
            "managementListenAddress": f"127.0.0.1:{self.management_port}",
            "certificate": str(pair.certificate),
            "privateKey": str(pair.key),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            "certificateValidityPeriod": life,
        }
        self._config.write_text(json.dumps({"pebble": settings}))
        self._process = None

    def start(self) -> None:
        """Start with nothing remembered: pebble keeps accounts and its own authority in memory."""
        # Each order proves the name anew, and nonces are refused now and then, as by default.
        manner = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_AUTHZREUSE": "0"}
        with open(self._log_path, "ab") as log:
            command = ["pebble", "-strict", "-config", str(self._config), "-dnsserver", self.names.address]
            self._process = subprocess.Popen(command, env=environment(**manner), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.root.write_bytes(wait_until(self._fetch_root, "pebble's start", DEADLINE))

    def stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def __enter__(self) -> "Pebble":
        self.start()
        return self

    def __exit__(self, *_exception) -> None:
        self.stop()

    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def orders(self) -> int:
        """How many orders there have been."""
        return len(re.findall(r"Added order", self.log()))

    def _fetch_root(self) -> bytes | None:
        require(self._process.poll() is None, f"pebble ended: {self.log()[-2000:]}")
        context = ssl.create_default_context(cafile=str(self.ca))
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        try:
            with opener.open(f"https://localhost:{self.management_port}/roots/0", timeout=5) as answer:
                return answer.read()
        except OSError:
            return None
