"""Servers: models, making, changing, starting, stopping and removing them, and their starts' progress."""

import json
import os
import signal
import threading
import time
from pathlib import Path

from flows import call, until
from suite import R, script, story, table
from world import BROWSERS, EVERYBODY, SEVERAL

# --- models

table("server", EVERYBODY, "GET /users/ada/servers/one")
table("server", SEVERAL + " for-ada for-server reading ada-reading activity culler", "GET /users/bob/server", "GET /users/bob/servers/")
table("server", SEVERAL, "GET /users/ada/servers/none", "GET /users/no-such-user/server", "GET /users/no-such-user/servers/one", "GET /users/ada/servers/One", "GET /users/ada/servers/one/")
table("server", BROWSERS, "GET /users/ada/servers/one")
table("server", "admin", "OPTIONS /users/ada/server", "OPTIONS /users/ada/servers/one/progress")

# --- making

BAD_BODIES = [
    R("PUT /users/ada/servers/fresh", [1]),
    R("PUT /users/ada/servers/fresh", "text"),
    R("PUT /users/ada/servers/fresh", 7),
    R("PUT /users/ada/servers/fresh", raw=b"{"),
    R("PUT /users/ada/servers/fresh", {"display_name": 3}),
    R("PUT /users/ada/servers/fresh", {"display_name": None}),
    R("PUT /users/ada/servers/fresh", {"display_name": " spaces around "}),
    R("PUT /users/ada/servers/fresh", {"display_name": "line\nbreak"}),
    R("PUT /users/ada/servers/fresh", {"display_name": "x" * 256}),
    R("PUT /users/ada/servers/fresh", {"user_options": 3}),
    R("PUT /users/ada/servers/fresh", {"user_options": [1]}),
    R("PUT /users/ada/servers/fresh", {"display_name": "a", "user_options": "b"}),
]
table("make", "ada", *BAD_BODIES)
table("make", "ada", *(R(f"PUT /users/ada/servers/{name}") for name in ("", "one", "-x", "x-", "UPPER", "a.b", "a_b", "%C3%A4", "x" * 64, "a%2Fb", "a--b", "9", "a%20b")), then=[R(f"DELETE /users/ada/servers/{name}", {"remove": True}) for name in ("9", "a--b")])
table("make", "ada", "PUT /users/ada/server", "PUT /users/bob/servers/fresh", "PUT /users/no-such-user/servers/fresh")
table("make", "admin teller boss for-ada for-class ada", R("PUT /users/ada/servers/fresh", {"display_name": "Fresh one", "user_options": {"cpu": 2}}), then=["GET /users/ada/servers/fresh", R("DELETE /users/ada/servers/fresh", {"remove": True})])
table("make", "bob carol culler plain reading activity nobody", R("PUT /users/ada/servers/fresh", {"display_name": "Fresh one"}))
for body in (None, {}, {"display_name": ""}, {"display_name": "Ünï ☃"}, {"anything": "is an option"}, {"user_options": {}}, {"user_options": None}, {"user_options": {"a": 1}, "more": 2}, {"display_name": "Both", "user_options": {"a": [1, {"b": None}]}}):
    table("make", "ada", R("PUT /users/ada/servers/fresh", body), then=["GET /users/ada/servers/fresh", R("DELETE /users/ada/servers/fresh", {"remove": True})])
story(
    "no more named servers than the limit",
    ("ada", "PUT /users/ada/servers/two"),
    ("ada", "PUT /users/ada/servers/three"),
    ("ada", "POST /users/ada/servers/three"),
    ("admin", "POST /users/ada/servers/three"),
    ("ada", R("PATCH /users/ada/servers/", {"name": "three"})),
    ("ada", R("PATCH /users/ada/servers/two", {"name": "three"})),
    ("ada", R("GET /users/ada?include_stopped_servers=1")),
    ("ada", R("DELETE /users/ada/servers/three", {"remove": True})),
)
table("make", BROWSERS, "PUT /users/ada/servers/by-browser", then=[R("DELETE /users/ada/servers/by-browser", {"remove": True})])

# --- changing

CHANGES = [None, {}, [], [1], "text", {"name": ""}, {"name": "one"}, {"name": "-x"}, {"name": 5}, {"name": None}, {"display_name": None}, {"display_name": ""}, {"user_options": None}, {"user_options": [1]}, {"user_options": "x"}]
for change in CHANGES:
    table("change", "ada", R("PATCH /users/ada/servers/one", change))
table("change", "ada", R("PATCH /users/ada/servers/one", {"unknown": 1}), R("PATCH /users/ada/servers/one", {"display_name": 5}), R("PATCH /users/ada/servers/one", {"name": "x", "state": {}}))
table("change", SEVERAL, R("PATCH /users/ada/servers/none", {"name": "x"}), R("PATCH /users/no-such-user/servers/none", {"name": "x"}))
table("change", "admin ada for-ada for-class teller", R("PATCH /users/ada/servers/one", {"name": "uno", "display_name": "Uno", "user_options": {"a": 2}}), then=["GET /users/ada/servers/uno", "GET /users/ada/servers/one", "GET /shares/ada/uno", R("PATCH /users/ada/servers/uno", {"name": "one", "display_name": "one", "user_options": {"kept": ["option", 1]}})])
table("change", "bob carol culler plain reading nobody", R("PATCH /users/ada/servers/one", {"name": "uno"}))
table("change", "ada", R("PATCH /users/ada/servers/one", {"display_name": "line\nbreak"}), then=[R("PATCH /users/ada/servers/one", {"display_name": "one"})])
table("change", "ada", R("PATCH /users/ada/servers/one", {"display_name": "Shown"}), R("PATCH /users/ada/servers/one", {"user_options": {}}), then=["GET /users/ada/servers/one", R("PATCH /users/ada/servers/one", {"display_name": "one", "user_options": {"kept": ["option", 1]}})])
story(
    "the default server is renamed, and there is another",
    ("bob", R("PATCH /users/bob/servers/", {"name": "was-default"})),
    ("bob", "GET /users/bob/servers/was-default"),
    ("bob", "GET /shares/bob/was-default"),
    ("ada", R("GET /user", ignore=("last_activity",))),
    ("bob", R("PATCH /users/bob/servers/was-default", {"display_name": "Other"})),
    ("admin", R("DELETE /users/bob/servers/was-default", {"remove": True})),
)

# --- starting and stopping

STOP = R("DELETE /users/ada/servers/one", settled=True)
table("start", "admin teller ada for-ada for-class boss", "POST /users/ada/servers/one", then=[R("GET /users/ada/servers/one", ignore=("state",)), STOP, "GET /users/ada/servers/one"])
table("start", "bob carol erin culler plain reading activity nobody wrong-token", "POST /users/ada/servers/one")
table("start", "ada", *(R("POST /users/ada/servers/one", body) for body in ([1], "text", {"display_name": 3}, {"user_options": 3})), R("POST /users/ada/servers/one", raw=b"{"))
table("start", "ada", "POST /users/ada/servers/-bad", "POST /users/ada/servers/UPPER", R("POST /users/ada/servers/fresh", {"display_name": "line\nbreak"}), "POST /users/no-such-user/server")
for body in ({}, {"chosen": "option"}, {"user_options": {"a": 1}}, {"display_name": "Renamed"}, {"display_name": "Both", "user_options": {"b": 2}}):
    table("start", "ada", R("POST /users/ada/servers/one", body), then=[R("GET /users/ada/servers/one", ignore=("state",)), STOP, R("PATCH /users/ada/servers/one", {"display_name": "one", "user_options": {"kept": ["option", 1]}})])
story(
    "the life of a default server",
    ("bob", "POST /users/bob/server"),
    ("bob", "GET /users/bob/server"),
    ("admin", R("GET /users/bob/server", ignore=("state",))),
    ("bob", "GET /users/bob"),
    ("bob", "POST /users/bob/server"),
    ("bob", R("POST /users/bob/server", {"other": "options"})),
    ("bob", R("PATCH /users/bob/server", {"user_options": {}})),
    ("bob", R("PATCH /users/bob/server", {"name": "other"})),
    ("bob", R("DELETE /users/bob/server", {"remove": True})),
    ("reading", "GET /users?state=ready"),
    ("bob", R("DELETE /users/bob/server", settled=True)),
    ("bob", "GET /users/bob/server"),
    ("bob", "DELETE /users/bob/server"),
    ("bob", "GET /users/bob"),
)
story(
    "the life of a named server",
    ("bob", R("POST /users/bob/servers/lab", {"display_name": "The lab"})),
    ("bob", "GET /users/bob/servers/lab"),
    ("bob", "GET /users/bob?include_stopped_servers=0"),
    ("bob", "PUT /users/bob/servers/lab"),
    ("bob", R("PATCH /users/bob/servers/lab", {"name": "x"})),
    ("bob", "POST /users/bob/servers/lab"),
    ("bob", R("DELETE /users/bob/servers/lab", settled=True)),
    ("bob", R("DELETE /users/bob/servers/lab", {"remove": True})),
    ("bob", "GET /users/bob/servers/lab"),
)
table("stop", "admin ada for-ada for-class culler teller", "DELETE /users/ada/servers/one", R("DELETE /users/ada/servers/one", {}), R("DELETE /users/ada/servers/one", {"remove": False}))
table("stop", "bob carol erin plain reading activity nobody", "DELETE /users/ada/servers/one")
table("stop", "ada", R("DELETE /users/ada/servers/one", [1]), R("DELETE /users/ada/servers/one", "text"), R("DELETE /users/ada/servers/one", raw=b"{"), "DELETE /users/ada/servers/none", R("DELETE /users/ada/servers/none", {"remove": True}), R("DELETE /users/ada/servers/", {"remove": True}), "DELETE /users/ada/server", "DELETE /users/no-such-user/server", "DELETE /users/bob/server")
table("stop", BROWSERS, "DELETE /users/ada/servers/one")
table("start", BROWSERS, "POST /users/ada/servers/one", then=[STOP])

# --- progress

table("progress", SEVERAL + " reading ada-reading culler", "GET /users/ada/servers/one/progress", "GET /users/ada/servers/none/progress", "GET /users/no-such-user/server/progress")
table("progress", BROWSERS, "GET /users/ada/servers/one/progress")

# --- access of old

table("admin access", "admin ada bob teller for-ada for-class plain nobody", "POST /users/ada/admin-access", "POST /users/no-such-user/admin-access")


def home(wire, user: str) -> Path:
    folder = Path(wire.hub.folder) / "homes" / user
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@script("a running server is removed when it has stopped")
def removed(wire):
    found = {"start": call(wire, "bob", "POST", "/users/bob/servers/brief")}
    found["ready"] = [progress(wire, "bob", place) for place in ("servers/brief",)]
    call(wire, "bob", "DELETE", "/users/bob/servers/brief", {"remove": True})
    until(lambda: call(wire, "bob", "GET", "/users/bob/servers/brief")["status"] == 404, "the server is gone")
    return found


@script("progress of a server that is ready")
def ready_progress(wire):
    found = {"start": call(wire, "bob", "POST", "/users/bob/server")["status"]}
    for place in ("server", "servers/"):
        found[place] = progress(wire, "bob", place)
    found["stop"] = call(wire, "bob", "DELETE", "/users/bob/server")["status"]
    return found


@script("a start that takes its time is pending, and is told of")
def slow_start(wire):
    flag = home(wire, "carol") / "slow"
    flag.touch()
    found, events = {}, []
    starting = threading.Thread(target=lambda: found.update(start=call(wire, "carol", "POST", "/users/carol/server")))
    starting.start()
    try:
        until(lambda: call(wire, "carol", "GET", "/users/carol/server")["body"].get("pending") == "spawn", "the start is pending")
        found["model"] = call(wire, "carol", "GET", "/users/carol/server")
        found["again"] = call(wire, "carol", "POST", "/users/carol/server")
        found["change"] = call(wire, "carol", "PATCH", "/users/carol/server", {"user_options": {}})
        found["user"] = call(wire, "carol", "GET", "/users/carol")
        for state in ("ready", "active", "inactive"):
            found[f"in a list of {state}"] = [user["name"] for user in call(wire, "reading", "GET", f"/users?state={state}&name_filter=carol")["body"]]
        reading = threading.Thread(target=lambda: events.extend(progress(wire, "carol")))
        reading.start()
        time.sleep(0.3)
    finally:
        flag.unlink()
    starting.join(30)
    reading.join(30)
    found["first event has a message"] = bool(events and events[0].get("message"))
    found["last event"] = events[-1:]
    found["afterwards"] = call(wire, "carol", "GET", "/users/carol/server")
    for state in ("ready", "active", "inactive"):
        found[f"afterwards in a list of {state}"] = [user["name"] for user in call(wire, "reading", "GET", f"/users?state={state}&name_filter=carol")["body"]]
    found["stop"] = call(wire, "carol", "DELETE", "/users/carol/server")
    return found


@script("no start while it stops")
def start_while_stopping(wire):
    flag = home(wire, "carol") / "lingers"
    flag.touch()
    try:
        found = {"start": call(wire, "carol", "POST", "/users/carol/server")["status"]}
    finally:
        flag.unlink()
    stopping = threading.Thread(target=lambda: call(wire, "carol", "DELETE", "/users/carol/server"))
    stopping.start()
    until(lambda: call(wire, "carol", "GET", "/users/carol/server")["body"].get("pending") == "stop", "the stop is pending")
    found["start while it stops"] = call(wire, "carol", "POST", "/users/carol/server")
    found["stop while it stops"] = call(wire, "carol", "DELETE", "/users/carol/server")["status"]
    stopping.join(30)
    until(lambda: call(wire, "carol", "GET", "/users/carol/server")["body"].get("pending") is None, "nothing is pending")
    found["start afterwards"] = call(wire, "carol", "POST", "/users/carol/server")["status"]
    found["stop afterwards"] = call(wire, "carol", "DELETE", "/users/carol/server")["status"]
    return found


@script("a start can be cancelled")
def cancelled_start(wire):
    flag = home(wire, "carol") / "slow"
    flag.touch()
    found = {}
    starting = threading.Thread(target=lambda: call(wire, "carol", "POST", "/users/carol/server"))
    starting.start()
    try:
        until(lambda: call(wire, "carol", "GET", "/users/carol/server")["body"].get("pending") == "spawn", "the start is pending")
        found["cancel"] = call(wire, "carol", "DELETE", "/users/carol/server")["status"] in (202, 204)
        until(lambda: call(wire, "carol", "GET", "/users/carol/server")["body"].get("stopped"), "the server has stopped")
    finally:
        flag.unlink()
    starting.join(30)
    until(lambda: call(wire, "carol", "GET", "/users/carol/server")["body"].get("pending") is None, "nothing is pending")
    found["afterwards"] = call(wire, "carol", "GET", "/users/carol/server")
    # `{}` or `null` in JupyterHub, as it comes.
    found["afterwards"]["body"].pop("user_options")
    found["start"] = call(wire, "carol", "POST", "/users/carol/server")
    found["stop"] = call(wire, "carol", "DELETE", "/users/carol/server")
    return found


@script("a server that ends at once is a failed start")
def failed_start(wire):
    flag = home(wire, "carol") / "exits"
    flag.touch()
    try:
        start = call(wire, "carol", "POST", "/users/carol/server")
        events = progress(wire, "carol")
    finally:
        flag.unlink()
    found = {
        "status": start["status"],
        "keys": sorted(start["body"]),
        "last event failed": events[-1:] and events[-1].get("failed"),
        "last event's keys": sorted(set(events[-1]) - {"html_message"}) if events else [],
        "model": call(wire, "carol", "GET", "/users/carol/server"),
        "can start again": call(wire, "carol", "POST", "/users/carol/server")["status"],
        "stop": call(wire, "carol", "DELETE", "/users/carol/server")["status"],
    }
    sweep(wire, "carol")
    return found


@script("a server that died is noticed by the next request")
def died(wire):
    found = {"start": call(wire, "carol", "POST", "/users/carol/server")["status"]}
    pid = call(wire, "admin", "GET", "/users/carol/server")["body"]["state"]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: is_dead(pid), "the server is dead")
    found["again"] = call(wire, "carol", "POST", "/users/carol/server")["status"]
    found["model"] = call(wire, "carol", "GET", "/users/carol/server")["body"]["ready"]
    found["stop"] = call(wire, "carol", "DELETE", "/users/carol/server")["status"]
    sweep(wire, "carol")
    return found


def is_dead(pid: int) -> bool:
    """Whether it is gone, or waits to be told of."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def sweep(wire, user: str) -> None:
    """Away with the tokens of servers that have failed, which JupyterHub keeps."""
    for token in call(wire, "boss", "GET", f"/users/{user}/tokens")["body"]["api_tokens"]:
        if token["note"].startswith("Server at"):
            call(wire, "boss", "DELETE", f"/users/{user}/tokens/{token['id']}")


def progress(wire, user: str, place: str = "server") -> list[dict]:
    text = call(wire, user, "GET", f"/users/{user}/{place}/progress")["body"]
    if not isinstance(text, str):
        return [text]
    return [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data:")]
