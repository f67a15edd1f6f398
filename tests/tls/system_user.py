"""`internal_ssl` with the default spawner: the server of a real system user finds its key in her home."""

import json
import os
import stat
from pathlib import Path

from harness.certificates import Pair, ask, client, status
from harness.client import Person, run_cell
from harness.hub import KINDS, Hub
from harness.steps import Steps, require, same
from harness.system_users import SystemUsers

PASSWORD = "a-password-for-the-account"
CONFIG = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allow_all = True
c.JupyterHub.internal_ssl = True
"""


def tell() -> int:
    code = 0
    for kind in KINDS:
        print(f"== TLS for a system user's server: {kind}", flush=True)
        steps = Steps(f"tls system user {kind}")
        with SystemUsers("ada", password=PASSWORD) as users:
            story(kind, users, steps)
        code = max(code, steps.finish())
    return code


def story(kind: str, users: SystemUsers, steps: Steps) -> None:
    account = users["ada"]
    ada = Person("", account.pw_name, PASSWORD)
    with Hub(kind, CONFIG, simple=False) as hub:
        api = f"http://127.0.0.1:{hub.api_port}"
        hub.config_path.write_text(hub.config_path.read_text().replace(api, api.replace("http", "https")))
        ada.origin = hub.origin
        with steps.step("the hub starts"):
            hub.start().wait_ready()
        if steps.failed:
            return
        base = f"/user/{ada.name}/"
        with steps.step("her server starts, and its lab opens"):
            same(ada.sign_in().status_code, 302, "POST /hub/login")
            ada.page("/hub/spawn", follow=False)
            require(ada.progress()[-1].get("ready"), "not ready")
            same(ada.page(base + "lab").status_code, 200, "GET the lab")
        with steps.step("a cell runs, and knows its files"):
            code = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if 'SSL' in k or k.endswith('_URL')}))"
            told = json.loads(run_cell(ada, base, code))
            require(told["JUPYTERHUB_SERVICE_URL"].startswith("https://"), told["JUPYTERHUB_SERVICE_URL"])
            place = Path(account.pw_dir, ".jupyterhub", "jupyterhub-certs")
            for name in ("KEYFILE", "CERTFILE", "CLIENT_CA"):
                file = Path(told[f"JUPYTERHUB_SSL_{name}"])
                same(file.parent, place, f"the folder of {file}")
                same(file.stat().st_uid, account.pw_uid, f"the owner of {file}")
            key = Path(told["JUPYTERHUB_SSL_KEYFILE"])
            same(stat.S_IMODE(key.stat().st_mode), 0o600, "the permissions of her key")
        with steps.step("her server talks to nobody without a certificate"):
            port = int(told["JUPYTERHUB_SERVICE_URL"].split(":")[2].split("/")[0])
            internal = hub.folder / "internal-ssl"
            bundle = internal / "hub-ca_trust.crt"
            own = Pair(internal / "hub-internal/hub-internal.key", internal / "hub-internal/hub-internal.crt")
            same(status(ask(port, client(bundle, own), base + "api")), 200, "with the hub's certificate")
            same(status(ask(port, client(bundle), base + "api")), None, "without a certificate")
        if steps.failed and not os.environ.get("ORRERY_KEEP"):
            print("-- the end of the hub's log\n" + hub.log_tail(40))
