#!/usr/bin/env python3
"""The hub against its own description: requests made up from `/hub/api/openapi.json`, good and bad ones.

    python tests/openapi/run.py [--long] [--seed 1] [--only "GET /users"]

No answer may be a 5xx, have a status or a type that is not described, or break its schema; without
credentials no operation that needs some may answer. An administrator and an ordinary user ask. What is
left out, and why, stands in `LEFT_OUT`.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))
import made_up  # noqa: E402
import requests  # noqa: E402
from harness import places  # noqa: E402
from harness.steps import Steps, exit_with, require, same  # noqa: E402
from site_under_test import Site  # noqa: E402

#: Operations that would end the run itself.
LEFT_OUT = {
    "post-shutdown": "it ends the hub",
    "get-events": "its answer has no end",
}
#: What is looked at in each answer. Two checks of schemathesis are left out on purpose: that all data
#: that breaks the schema is refused, and that all data that fits is taken. Like JupyterHub, the hub takes
#: `limit=-5` for 5, and refuses names that are taken, servers that run, scopes that nobody holds.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
)
#: Operations to which an administrator gets no good answer here, and why.
NEVER_WELL = {
    "GET /authorizations/cookie/{cookie_name}/{cookie_value}": "needs a cookie that the hub signed",
    "POST /authorizations/token": "gone",
    "POST /authorizations/token/{token}": "gone",
    "POST /shares/{owner}": "needs a server",
    "PATCH /shares/{owner}": "needs a server",
    "DELETE /shares/{owner}": "needs a server",
    "POST /share-codes/{owner}": "needs a server",
    "DELETE /share-codes/{owner}": "needs a server",
    "POST /oauth2/token": "needs a code that the hub gave",
    "POST /oauth2/authorize": "needs the page's _xsrf",
    "PUT /users/{name}/server": "the default server is always there",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="many times more requests; minutes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help='one operation, as "GET /users"')
    parser.add_argument("--keep", action="store_true", help="keep schemathesis' own report")
    options = parser.parse_args()
    require(sys.version_info >= (3, 11), "schemathesis needs Python 3.11 or newer")
    steps = Steps("openapi")
    with Site() as site:
        site.furnish()
        document = requests.get(site.api + "/openapi.json", timeout=30)
        tell_of_the_document(steps, site, document)
        for who in ("boss", "ada"):
            site.furnish()
            run = Run(site, document.json(), who, options)
            with steps.step(f"{who}: requests are made up for every operation, and all are answered as described"):
                run.start()
                run.check()
            with steps.step(f"{who}: still has the rights that the requests were made with"):
                same(site.ask("GET", "/user", token=site.tokens[who]).status_code, 200, "GET /user")
            if who == "boss" and not options.only:
                with steps.step("boss: every operation was answered well at least once"):
                    run.check_depth()
            if not (options.keep or steps.failed):
                shutil.rmtree(run.folder)
        with steps.step("the hub did not panic"):
            require("panicked" not in site.hub.log_text(), "a panic in the hub's log")
    exit_with(steps.finish())


def tell_of_the_document(steps: Steps, site: Site, document: requests.Response) -> None:
    with steps.step("the description is there for whoever asks, and says so when it has not changed"):
        same(document.status_code, 200, "status")
        same(document.headers["content-type"], "application/json", "type")
        again = requests.get(document.url, headers={"If-None-Match": document.headers["etag"]}, timeout=30)
        same((again.status_code, again.content), (304, b""), "answer to the same tag")
        other = requests.get(document.url, headers={"If-None-Match": '"another"'}, timeout=30)
        same(other.status_code, 200, "answer to another tag")
    with steps.step("it is OpenAPI 3.1"):
        from openapi_spec_validator import OpenAPIV31SpecValidator

        errors = [str(error)[:500] for error in OpenAPIV31SpecValidator(document.json()).iter_errors()]
        same(errors, [], "errors")
    with steps.step("every schema is a schema of JSON Schema 2020-12"):
        from jsonschema import Draft202012Validator

        for schema in document.json()["components"]["schemas"].values():
            Draft202012Validator.check_schema(schema)


class Run:
    """schemathesis, asking as one person."""

    def __init__(self, site: Site, document: dict, who: str, options: argparse.Namespace):
        self.site, self.who, self.options = site, who, options
        self.document = made_up.with_known_names(document, site, who)
        self.folder = Path(tempfile.mkdtemp(prefix=f"openapi-{who}-"))
        self.examples = 200 if options.long else 8
        self.limit = 3000 if options.long else 240
        self.output = ""

    def start(self) -> None:
        file = self.folder / "openapi.json"
        file.write_text(json.dumps(self.document))
        command = [
            str(places.venv_bin() / "st"), "run", str(file), "--url", self.site.api,
            "--header", f"Authorization: Bearer {self.site.tokens[self.who]}",
            "--phases", "coverage,fuzzing", "--checks", ",".join(CHECKS), "--mode", "all",
            "--max-examples", str(self.examples), "--seed", str(self.options.seed), "--generation-database", "none",
            "--suppress-health-check", "all", "--continue-on-failure", "--request-timeout", "30", "--max-redirects", "0",
            "--no-color", "--warnings", "off", "--report", "json,ndjson",
            "--report-json-path", str(self.folder / "report.json"), "--report-ndjson-path", str(self.folder / "events.ndjson"),
        ]  # fmt: skip
        for operation in LEFT_OUT:
            command += ["--exclude-operation-id", operation]
        if self.options.only:
            command += ["--include-name", self.options.only]
        # An empty folder: it reads settings and hooks where it is started.
        finished = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=self.limit, check=False)
        self.output = finished.stdout + finished.stderr
        self.code = finished.returncode

    def check(self) -> None:
        report = self.folder / "report.json"
        require(report.exists(), f"no report:\n{self.output[-3000:]}")
        result = json.loads(report.read_text())
        operations, cases = result["operations"], result["test_cases"]["generated"]
        print(f"      {operations['tested']} operations, {cases} requests, {result['running_time']:.0f} s", flush=True)
        failures = self.output.partition("= FAILURES =")[2].partition("= SUMMARY =")[0]
        if self.code or result["failures"] or result["errors"]:
            raise AssertionError(f"schemathesis ended with {self.code}; report in {self.folder}:\n{failures[:12000] or self.output[-3000:]}")
        same(operations["tested"], operations["selected"], "operations tested")
        if not self.options.only:
            same(operations["total"] - operations["selected"], len(LEFT_OUT), "operations left out")
            require(cases > 1000, f"only {cases} requests")

    def check_depth(self) -> None:
        seen = self.statuses()
        left_out = set(LEFT_OUT)
        missing = []
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                name = f"{method.upper()} {path}"
                is_well = any(status < 400 for status in seen[name])
                if operation["operationId"] in left_out or is_well == (name not in NEVER_WELL):
                    continue
                missing.append(f"{name}: {dict(sorted(seen[name].items()))}")
        same(missing, [], "operations with another depth than expected")

    def statuses(self) -> dict[str, dict[int, int]]:
        """How often each operation was answered with which status."""
        seen: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        with open(self.folder / "events.ndjson") as events:
            for line in events:
                event = json.loads(line).get("ScenarioFinished")
                for operation, status in made_up.answers(event) if event else []:
                    seen[operation][status] += 1
        return seen


if __name__ == "__main__":
    main()
