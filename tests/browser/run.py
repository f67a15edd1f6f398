#!/usr/bin/env python3
"""The browser story and the gallery of pages, in real Chromium, against upstream or Orrery.

    python tests/browser/run.py --hub upstream|orrery|both [--only story|gallery] [--shots FOLDER]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from harness import places  # noqa: E402
from harness.hub import KINDS, Hub  # noqa: E402
from harness.steps import Steps, exit_with  # noqa: E402

PASSWORD = "a-password-for-the-browser"
COMMON = f"""
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {PASSWORD!r}
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {{"grace"}}
c.JupyterHub.allow_named_servers = True
"""
STORY = COMMON + """
c.Spawner.default_url = "/lab"
"""
# The gallery needs servers that take their time, fail and do not want to end: a program instead of the real one.
GALLERY = COMMON + f"""
c.Spawner.cmd = [{sys.executable!r}, {str(HERE / "moody_server.py")!r}]
c.Spawner.args = []
c.Spawner.start_timeout = 60
c.Spawner.http_timeout = 15
c.SimpleLocalProcessSpawner.interrupt_timeout = 8
c.Spawner.options_form = '''
<label for="size">Size</label>
<select id="size" name="size" class="form-select"><option value="s">small: 1 GB</option><option value="l">large: 8 GB</option></select>
'''
c.JupyterHub.services = [
    {{"name": "reports", "api_token": "the-token-of-the-reports-service", "oauth_client_id": "service-reports",
      "oauth_redirect_uri": "/services/reports/oauth_callback", "oauth_no_confirm": False}},
]
c.JupyterHub.load_roles = [{{"name": "user", "scopes": ["self", "access:services"]}}]
"""
SCENES = {"story": (STORY, "story.mjs", 300), "gallery": (GALLERY, "gallery.mjs", 240)}


def run(kind: str, scene: str, shots: Path) -> int:
    config, script, seconds = SCENES[scene]
    print(f"== browser {scene}: {kind}", flush=True)
    steps = Steps(f"browser {scene} {kind}")
    with Hub(kind, config) as hub:
        with steps.step("the hub starts"):
            hub.start().wait_ready()
        if not steps.failed:
            tell(script, seconds, kind, hub, shots / kind, steps)
        if steps.failed:
            print("-- the end of the hub's log\n" + hub.log_tail(40))
    return steps.finish()


def tell(script: str, seconds: int, kind: str, hub: Hub, shots: Path, steps: Steps, **extra: str) -> None:
    """Run the Node program; each PASS and FAIL line it prints is a step of ours."""
    environment = os.environ | {
        "ORRERY_ORIGIN": hub.origin,
        "ORRERY_PASSWORD": PASSWORD,
        "ORRERY_SHOTS": str(shots),
        "ORRERY_KIND": kind,
        "ORRERY_NODE_MODULES": str(places.node_modules()),
    } | extra
    shots.mkdir(parents=True, exist_ok=True)
    node = subprocess.Popen(
        ["timeout", str(seconds), "node", str(HERE / script)],
        env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )
    for line in node.stdout:
        print(line, end="", flush=True)
        if line.startswith("PASS  "):
            steps.passed += 1
        elif line.startswith("FAIL  "):
            steps.failed.append(line.strip())
    if node.wait() != 0 and not steps.failed:
        with steps.step(f"{script} runs to its end"):
            raise AssertionError(f"node ended with {node.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hub", choices=[*KINDS, "both"], default="both")
    parser.add_argument("--only", choices=SCENES)
    parser.add_argument("--shots", type=Path, default=places.CHECKOUT / "target" / "screenshots")
    options = parser.parse_args()
    kinds = KINDS if options.hub == "both" else [options.hub]
    scenes = [options.only] if options.only else list(SCENES)
    exit_with(max(run(kind, scene, options.shots) for kind in kinds for scene in scenes))


if __name__ == "__main__":
    main()
