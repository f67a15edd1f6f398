"""The OAuth provider: codes, the page that asks, tokens, and what becomes of them."""

import sqlite3
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from flows import Client, browser, call, pkce, record, with_token
from suite import R, script, table
from wire import OUR_SCOPES
from world import BROWSERS, EVERYBODY, SERVICES

SHOP = "client_id=service-shopper&redirect_uri=" + quote("http://shop.example.org/services/shopper/oauth_callback", safe="")
VERIFIER = "a-verifier-of-the-twins-which-is-long-enough-0123456789"
STATE = "a state"

# --- single requests

AUTHORIZE = f"GET /oauth2/authorize?{SHOP}&response_type=code&state=x"
table("authorize", EVERYBODY, AUTHORIZE)
table("authorize", BROWSERS, AUTHORIZE, "GET /oauth2/authorize", "POST /oauth2/authorize")
table("authorize", "ada-browser-navigates", *(f"GET /oauth2/authorize?{query}" for query in (
    "client_id=no-such-client&redirect_uri=%2Fx&response_type=code",
    "client_id=&redirect_uri=%2Fx&response_type=code",
    "client_id=jupyterhub&redirect_uri=%2Fx&response_type=code",
    "client_id=service-shopper&redirect_uri=http%3A%2F%2Fevil.example.org%2F&response_type=code",
    "client_id=service-shopper&redirect_uri=relative&response_type=code",
    SHOP + "%2F&response_type=code",
    SHOP + "%3Fmore&response_type=code",
    SHOP + "&response_type=code&response_type=code",
    SHOP + "&client_id=service-shopper&response_type=code",
    SHOP + "&response_type=code&state=a&state=b",
    SHOP + "&response_type=code&scope=a&scope=b",
)))
table("authorize", "nobody wrong-token", "POST /oauth2/authorize", "PUT /oauth2/authorize", f"POST /oauth2/authorize?{SHOP}&response_type=code")
table("token endpoint", "nobody ada ada-browser", "GET /oauth2/token", "POST /oauth2/token", R("POST /oauth2/token", {"grant_type": "authorization_code"}))
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
GOOD_CLIENT = f"client_id=service-shopper&client_secret={SERVICES['shopper']}"
for body in (
    "",
    "grant_type=authorization_code",
    "grant_type=password&username=ada&password=x",
    "grant_type=client_credentials&" + GOOD_CLIENT,
    "grant_type=&code=x&" + GOOD_CLIENT,
    "grant_type=authorization_code&code=x",
    "grant_type=authorization_code&code=x&client_id=service-shopper",
    "grant_type=authorization_code&code=x&client_id=service-shopper&client_secret=",
    "grant_type=authorization_code&code=x&client_id=service-shopper&client_secret=wrong",
    "grant_type=authorization_code&code=x&client_id=no-such-client&client_secret=wrong",
    "grant_type=authorization_code&code=x&client_id=jupyterhub&client_secret=x",
    "grant_type=authorization_code&" + GOOD_CLIENT,
    "grant_type=authorization_code&code=no-such-code&" + GOOD_CLIENT,
    f"grant_type=authorization_code&code={'x' * 300}&" + GOOD_CLIENT,
    "grant_type=authorization_code&code=x&client_id=service-shopper&" + GOOD_CLIENT,
    "grant_type=authorization_code&grant_type=authorization_code&code=x&" + GOOD_CLIENT,
    "grant_type=authorization_code&code=x&redirect_uri=a&redirect_uri=a&" + GOOD_CLIENT,
):
    table("token endpoint", "nobody", R("POST /oauth2/token", raw=body.encode(), headers=FORM, label=body.replace(SERVICES["shopper"], "SECRET")[:120] or "empty"))
table("token endpoint", "ada-browser-other-site ada-browser-without-xsrf ada", R("POST /oauth2/token", raw=("grant_type=authorization_code&code=x&" + GOOD_CLIENT).encode(), headers=FORM, label="by others"))
table("token endpoint", "nobody", R("POST /oauth2/token?grant_type=authorization_code&code=x", raw=b"", headers=FORM), R("POST /oauth2/token", raw=b"grant_type=authorization_code&code=x&client_id=service-shopper", headers=FORM | {"Authorization": "Basic c2VydmljZS1zaG9wcGVyOngK"}, label="basic"))


# --- flows

def shopper(wire) -> Client:
    return Client(wire, "service-shopper", SERVICES["shopper"], "http://shop.example.org/services/shopper/oauth_callback")


@contextmanager
def service(wire, name: str, **options):
    """A service for one case, and its client."""
    secret = f"the-secret-of-the-service-{name}-0123456789"
    redirect_uri = f"http://{name}.example.org/oauth_callback"
    made = call(wire, "boss", "POST", f"/services/{name}", {"api_token": secret, "oauth_client_id": f"service-{name}", "oauth_redirect_uri": redirect_uri} | options)
    assert made["status"] == 201, made
    try:
        yield Client(wire, f"service-{name}", secret, redirect_uri)
    finally:
        gone = call(wire, "boss", "DELETE", f"/services/{name}")
        assert gone["status"] == 200, gone


def known(wire, token: str) -> dict:
    """What the hub says of a token."""
    told = with_token(wire, token, "GET", "/user")
    body = told["body"]
    return {
        "status": told["status"],
        "name": body.get("name"),
        "scopes": [scope for scope in body.get("scopes", []) if scope not in OUR_SCOPES],
        "keys": sorted(body),
        "session": bool(body.get("session_id")),
    }


def drop(wire, client: Client, user: str) -> None:
    """Take back all tokens of a client, and the codes that were not used: some are used up earlier by ours."""
    with sqlite3.connect(wire.hub.folder / "jupyterhub.sqlite", timeout=30) as database:
        database.execute("DELETE FROM oauth_codes")
    database.close()
    for token in call(wire, "boss", "GET", f"/users/{user}/tokens")["body"]["api_tokens"]:
        if token["oauth_client"] in (client.identifier, client.identifier.replace("service-", "JupyterHub service ")):
            call(wire, "boss", "DELETE", f"/users/{user}/tokens/{token['id']}")
            return


@script("the whole way to a token, and back")
def whole_way(wire):
    client, person = shopper(wire), browser(wire, "ada")
    found = {"asks": record(client.ask(person))}
    found["refuses without xsrf"] = record(client.confirm(person, [], xsrf=False))
    agreed = client.confirm(person, ["access:services!service=shopper", "read:users:groups!user"])
    found["agreed"] = record(agreed)
    token = client.exchange(agreed["code"])
    found["token"] = record(token)
    found["code again"] = record(client.exchange(agreed["code"]))
    found["known"] = known(wire, token["token"])
    found["may"] = {path: with_token(wire, token["token"], "GET", path)["status"] for path in ("/users", "/users/ada", "/users/bob", "/users/ada/tokens", "/users/ada/server", "/groups")}
    found["in a fragment"] = record(client.ask(person, response_mode="fragment"))
    found["silent now"] = record(client.ask(person))
    found["silent for less"] = record(client.ask(person, scope="access:services!service=shopper"))
    other = browser(wire, "bob")
    found["asks the next"] = record(client.ask(other))
    listed = [token for token in call(wire, "ada", "GET", "/users/ada/tokens")["body"]["api_tokens"] if "shopper" in token["oauth_client"]]
    found["listed"] = [{key: token[key] for key in ("oauth_client", "note", "kind", "roles", "scopes")} | {"session": bool(token["session_id"]), "expires": bool(token["expires_at"])} for token in listed]
    found["logout"] = person.page("/hub/logout", follow=False).status_code
    found["after the logout"] = known(wire, token["token"])
    found["asks again"] = record(client.ask(browser(wire, "ada")))
    drop(wire, client, "ada")
    return found


@script("scopes are narrowed to what was agreed to")
def narrowed(wire):
    client, person = shopper(wire), browser(wire, "ada")
    found = {}
    for name, chosen in {
        "nothing": None,
        "one": ["access:services!service=shopper"],
        "the other": ["read:users:groups!user"],
        "identify": ["identify"],
        "more than there is": ["read:users:groups!user", "admin:users"],
        "not a scope": ["no-such-scope"],
        "an empty one": [""],
    }.items():
        agreed = client.confirm(person, chosen)
        found[f"{name} agreed"] = record(agreed)
        if not agreed["code"]:
            continue
        token = client.exchange(agreed["code"])
        found[f"{name} token"] = record(token)
        if token["token"]:
            found[f"{name} known"] = known(wire, token["token"])
            drop(wire, client, "ada")
    return found


@script("scopes that are asked for")
def asked(wire):
    client, person = shopper(wire), browser(wire, "ada")
    found = {}
    for scope in (
        None,
        "identify",
        "read:users:groups!user",
        "access:services!service=shopper",
        "access:services!service=shopper read:users:groups!user",
        "read:users:groups!user=ada",
        "read:users:groups",
        "read:users:groups!user=bob",
        "read:users!user",
        "admin:users",
        "no-such-scope",
        "read:users!no=filter",
        "user",
        "admin",
        "no-such-role",
        "inherit",
        "read:users:name!user",
    ):
        found[f"scope={scope}"] = record(client.ask(person, scope=scope))
    return found


@script("what a request for a code may say")
def requests_for_codes(wire):
    client, person = shopper(wire), browser(wire, "ada")
    found = {}
    for changes in (
        {"response_type": None},
        {"response_type": "token"},
        {"state": None},
        {"state": ""},
        {"state": "ü&=#?/ +"},
        {"redirect_uri": None},
        {"more": "is left alone"},
        {"code_challenge": pkce(VERIFIER), "code_challenge_method": "S512"},
        {"response_mode": "fragment"},
    ):
        found[f"{changes}"] = record(client.confirm(person, [], **changes))
    drop(wire, client, "ada")
    return found


@script("words of a refusal to the client")
def words(wire):
    client, person = shopper(wire), browser(wire, "ada")
    return {f"{changes}": client.ask(person, **changes)["words"] for changes in ({"response_type": "token"}, {"scope": "admin:users"})}


@script("words of other refusals to the client")
def other_words(wire):
    client, person = shopper(wire), browser(wire, "ada")
    return {f"{changes}": client.ask(person, **changes)["words"] for changes in ({"response_type": None}, {"code_challenge": "x", "code_challenge_method": "S512"})}


@script("parameters without a value")
def empty(wire):
    client, person = shopper(wire), browser(wire, "ada")
    found = {f"{changes}": record(client.ask(person, **changes)) for changes in ({"response_type": ""}, {"scope": ""}, {"redirect_uri": ""})}
    code = client.confirm(person, [], code_challenge=pkce(VERIFIER), code_challenge_method="S256")["code"]
    found["code_verifier"] = record(client.exchange(code, code_verifier=""))
    drop(wire, client, "ada")
    return found


@script("a grant that there is not")
def refresh(wire):
    return {"refresh": record(shopper(wire).exchange("x", grant_type="refresh_token"))}


@script("codes with a challenge")
def challenges(wire):
    client, person = shopper(wire), browser(wire, "ada")
    found = {}
    for name, asked, answered in (
        ("S256, right", {"code_challenge": pkce(VERIFIER), "code_challenge_method": "S256"}, VERIFIER),
        ("S256, wrong", {"code_challenge": pkce(VERIFIER), "code_challenge_method": "S256"}, VERIFIER + "x"),
        ("S256, none", {"code_challenge": pkce(VERIFIER), "code_challenge_method": "S256"}, None),
        ("S256, the challenge itself", {"code_challenge": pkce(VERIFIER), "code_challenge_method": "S256"}, pkce(VERIFIER)),
        ("plain, right", {"code_challenge": VERIFIER, "code_challenge_method": "plain"}, VERIFIER),
        ("plain, wrong", {"code_challenge": VERIFIER, "code_challenge_method": "plain"}, "wrong"),
        ("no method, right", {"code_challenge": VERIFIER}, VERIFIER),
        ("no method, none", {"code_challenge": VERIFIER}, None),
        ("no challenge, none", {}, None),
    ):
        agreed = client.confirm(person, [], **asked)
        found[name] = record(client.exchange(agreed["code"], code_verifier=answered))
    drop(wire, client, "ada")
    return found


@script("a verifier for a code without a challenge")
def downgraded(wire):
    client, person = shopper(wire), browser(wire, "ada")
    told = record(client.exchange(client.confirm(person, [])["code"], code_verifier=VERIFIER))
    drop(wire, client, "ada")
    return told


@script("a code after a wrong verifier")
def second_try(wire):
    client, person = shopper(wire), browser(wire, "ada")
    code = client.confirm(person, [], code_challenge=pkce(VERIFIER), code_challenge_method="S256")["code"]
    client.exchange(code, code_verifier="wrong")
    told = record(client.exchange(code, code_verifier=VERIFIER))
    drop(wire, client, "ada")
    return told


@script("codes go to whom they were given, for where they were given")
def exchanges(wire):
    client, person = shopper(wire), browser(wire, "ada")
    found = {}
    for name, changes in {
        "wrong secret": {"client_secret": "wrong"},
        "no secret": {"client_secret": None},
        "no client": {"client_id": None},
        "unknown client": {"client_id": "service-unknown"},
        "another address": {"redirect_uri": "http://evil.example.org/"},
        "a part of the address": {"redirect_uri": "http://shop.example.org/"},
        "no address": {"redirect_uri": None},
    }.items():
        code = client.confirm(person, [])["code"]
        found[name] = record(client.exchange(code, **changes))
    with service(wire, "thief") as thief:
        code = client.confirm(person, [])["code"]
        found["another client"] = record(thief.exchange(code))
    drop(wire, client, "ada")
    return found


@script("a wrong secret does not spend the code")
def wrong_secret_first(wire):
    client, person = shopper(wire), browser(wire, "ada")
    code = client.confirm(person, [])["code"]
    found = {"wrong": record(client.exchange(code, client_secret="wrong")), "right": record(client.exchange(code))}
    drop(wire, client, "ada")
    return found


@script("a code ends when its time has come")
def code_expires(wire):
    client, person = shopper(wire), browser(wire, "ada")
    code = client.confirm(person, [])["code"]
    with sqlite3.connect(wire.hub.folder / "jupyterhub.sqlite", timeout=30) as database:
        database.execute("UPDATE oauth_codes SET expires_at = 1")
    database.close()
    found = {"late": record(client.exchange(code))}
    drop(wire, client, "ada")
    return found


@script("only those who may use a service get a code for it")
def access(wire):
    client = shopper(wire)
    found = {}
    for name in ("ada", "bob", "carol", "erin", "grace"):
        person = browser(wire, name)
        found[f"{name} asks"] = record(client.ask(person))
    carol = browser(wire, "carol")
    call(wire, "boss", "POST", "/groups/class/users", {"users": ["carol"]})
    found["carol in the class"] = record(client.ask(carol))
    token = client.exchange(client.confirm(carol, ["read:users:groups!user"])["code"])
    found["carol's token"] = known(wire, token["token"])
    call(wire, "boss", "DELETE", "/groups/class/users", {"users": ["carol"]})
    found["carol out of the class"] = record(client.ask(carol))
    found["carol's token out of the class"] = known(wire, token["token"])
    drop(wire, client, "carol")
    return found


@script("a form for a service that one may not use")
def forced(wire):
    client = shopper(wire)
    found = {"carol": record(client.confirm(browser(wire, "carol"), []))}
    drop(wire, client, "carol")
    return found


@script("a service that is trusted asks nobody")
def trusted(wire):
    found = {}
    with service(wire, "trusted", oauth_no_confirm=True, oauth_client_allowed_scopes=["read:users:name!user", "list:users", "inherit"]) as client:
        person = browser(wire, "grace")
        silent = client.ask(person)
        found["silent"] = record(silent)
        token = client.exchange(silent["code"])
        found["token"] = record(token)
        found["known"] = known(wire, token["token"])
        found["users"] = with_token(wire, token["token"], "GET", "/users")["status"]
    found["after the service has gone"] = known(wire, token["token"])
    found["asks after it has gone"] = record(client.ask(person))
    drop(wire, client, "grace")
    return found


@script("scopes of a client, of roles, and of the person")
def clients(wire):
    found = {}
    for number, (allowed, asked) in enumerate(
        [
            ([], None),
            ([], "identify"),
            ([], "admin"),
            ([], "read:users"),
            (["inherit"], None),
            (["inherit"], "identify"),
            (["inherit"], "read:users!user"),
            (["self"], None),
            (["self"], "read:users!user"),
            (["self"], "user"),
            (["self", "shares!user", "list:users!user"], "user"),
            (["self", "shares!user", "list:users!user"], "user token"),
            (["admin:users", "self"], "admin:users self"),
            (["admin:users", "self"], "self"),
            (["access:servers!user"], "access:servers!user"),
            (["access:servers!user"], "access:servers!user=ada"),
            (["access:servers!user"], "access:servers!server=ada/one"),
            (["read:users!group=class"], "read:users!user=ada"),
            (["read:users"], "read:users!group=class"),
            (["tokens!service"], None),
            (["read:services!service"], None),
        ]
    ):
        with service(wire, f"client{number}", oauth_client_allowed_scopes=allowed) as client:
            for name in ("ada", "carol", "grace"):
                person = wire_browser(wire, name)
                told = client.ask(person, scope=asked)
                found[f"{number} {allowed} {asked} {name}"] = record(told)
                if told["status"] == 200:
                    token = client.exchange(client.confirm(person, told["offers"], scope=asked)["code"])
                    found[f"{number} {allowed} {asked} {name} token"] = record(token)
                    if token["token"]:
                        found[f"{number} {allowed} {asked} {name} known"] = known(wire, token["token"])
    return found


def wire_browser(wire, name: str):
    """One browser for each person in a case of many flows."""
    kept = wire.__dict__.setdefault("browsers", {})
    if name not in kept:
        kept[name] = browser(wire, name)
    return kept[name]


@script("more scopes are asked for anew, fewer are not")
def grows(wire):
    found = {}
    with service(wire, "grower", oauth_client_allowed_scopes=["read:users:groups!user", "read:servers!user", "access:services"]) as client:
        person = browser(wire, "grace")
        token = client.exchange(client.confirm(person, ["read:users:groups!user"], scope="read:users:groups!user")["code"])
        found["first"] = known(wire, token["token"])
        found["the same"] = record(client.ask(person, scope="read:users:groups!user"))
        found["less"] = record(client.ask(person, scope="identify"))
        found["more"] = record(client.ask(person, scope="read:users:groups!user read:servers!user"))
        found["other"] = record(client.ask(person, scope="read:servers!user"))
        found["all"] = record(client.ask(person))
        drop(wire, client, "grace")
    return found


@script("a server's own client")
def own_server(wire):
    found = {}
    call(wire, "ada", "POST", "/users/ada/servers/one")
    try:
        pid = call(wire, "admin", "GET", "/users/ada/servers/one")["body"]["state"]["pid"]
        environment = dict(entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry)
        wire.secrets.append(environment["JUPYTERHUB_API_TOKEN"])
        found["environment"] = {name: environment.get(name) for name in ("JUPYTERHUB_CLIENT_ID", "JUPYTERHUB_OAUTH_CALLBACK_URL", "JUPYTERHUB_OAUTH_SCOPES", "JUPYTERHUB_OAUTH_ACCESS_SCOPES", "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES", "JUPYTERHUB_USER", "JUPYTERHUB_SERVER_NAME", "JUPYTERHUB_API_URL", "JUPYTERHUB_ACTIVITY_URL", "JUPYTERHUB_SERVICE_PREFIX", "JUPYTERHUB_BASE_URL", "JUPYTERHUB_HOST", "JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED")}
        found["the server itself"] = known(wire, environment["JUPYTERHUB_API_TOKEN"])
        found["may"] = {
            path: with_token(wire, environment["JUPYTERHUB_API_TOKEN"], method, path.split(" ")[1], body)["status"]
            for path, method, body in (
                ("GET /users/ada", "GET", None),
                ("GET /users/ada/tokens", "GET", None),
                ("POST /users/ada/activity", "POST", {"servers": {"one": {"last_activity": "2026-01-01"}}}),
                ("POST /users/bob/activity", "POST", {"last_activity": "2026-01-01"}),
                ("DELETE /users/ada/servers/two", "DELETE", None),
                ("GET /users", "GET", None),
            )
        }
        client = Client(wire, environment["JUPYTERHUB_CLIENT_ID"], environment["JUPYTERHUB_API_TOKEN"], environment["JUPYTERHUB_OAUTH_CALLBACK_URL"])
        ada = browser(wire, "ada")
        silent = client.ask(ada)
        found["silent for the owner"] = record(silent)
        token = client.exchange(silent["code"])
        found["token"] = record(token)
        found["known"] = known(wire, token["token"])
        for name in ("grace", "bob", "erin", "carol"):
            person = browser(wire, name)
            told = client.ask(person)
            found[f"{name} asks"] = record(told)
            if told["status"] == 200:
                token = client.exchange(client.confirm(person, told["offers"])["code"])
                found[f"{name}'s token"] = record(token)
                found[f"{name} is known"] = known(wire, token["token"])
        found["by an older way in"] = record(client.ask(ada, redirect_uri="http://hub.example.org/user/ada/one/oauth_callback"))
        found["asked with a scope"] = record(client.ask(ada, scope="access:servers!server=ada/one"))
        found["asked with inherit"] = record(client.ask(ada, scope="inherit"))
        found["asked with another scope"] = record(client.ask(ada, scope="read:users!user"))
    finally:
        call(wire, "ada", "DELETE", "/users/ada/servers/one")
    found["the server's token after the stop"] = known(wire, environment["JUPYTERHUB_API_TOKEN"])
    found["the owner's token after the stop"] = known(wire, token["token"])
    drop(wire, client, "ada")
    return found


@script("a token of one application is revoked with all of its application")
def revoked_together(wire):
    client, person = shopper(wire), browser(wire, "ada")
    tokens = [client.exchange(client.confirm(person, [])["code"])["token"] for _ in range(3)]
    listed = [token for token in call(wire, "ada", "GET", "/users/ada/tokens")["body"]["api_tokens"] if "shopper" in token["oauth_client"]]
    found = {"listed": len(listed), "revoked": call(wire, "ada", "DELETE", f"/users/ada/tokens/{listed[0]['id']}")}
    found["left"] = [with_token(wire, token, "GET", "/user")["status"] for token in tokens]
    drop(wire, client, "ada")
    return found


@script("a session's end takes its tokens, and no others")
def sessions(wire):
    client = shopper(wire)
    first, second = browser(wire, "ada"), browser(wire, "ada")
    tokens = [client.exchange(client.confirm(person, [])["code"])["token"] for person in (first, second)]
    found = {"sessions": [with_token(wire, token, "GET", "/user")["body"]["session_id"] is not None for token in tokens]}
    found["own token"] = call(wire, "ada", "GET", "/user")["body"]["session_id"]
    first.page("/hub/logout", follow=False)
    found["after the first's logout"] = [with_token(wire, token, "GET", "/user")["status"] for token in tokens]
    found["own token after it"] = call(wire, "ada", "GET", "/user")["status"]
    found["the first's page"] = first.page("/hub/home", follow=False).status_code
    found["the second's page"] = second.page("/hub/home", follow=False).status_code
    second.page("/hub/logout", follow=False)
    found["after both"] = [with_token(wire, token, "GET", "/user")["status"] for token in tokens]
    drop(wire, client, "ada")
    return found


@script("a person who is not logged in is sent to log in, and comes back")
def by_way_of_login(wire):
    from harness.client import Person
    from world import PASSWORD

    client = shopper(wire)
    person = Person(wire.hub.origin, "ada", PASSWORD)
    first = client.ask(person)
    found = {"sent": {"status": first["status"], "leads to": first.get("leads to"), "asks": sorted(first.get("query", {}))}}
    found["next"] = first.get("query", {}).get("next", "").partition("?")[0]
    page = person.page("/hub/login?next=" + quote(client.address(), safe=""))
    found["page"] = page.status_code
    answer = person.form("/hub/login?next=" + quote(client.address(), safe=""), {"username": "ada", "password": PASSWORD})
    found["logged in"] = record(client.told(answer))["status"]
    found["and then"] = record(client.ask(person))
    return found


@script("who has no rights any more has none by an old token either")
def after_changes(wire):
    found = {}
    call(wire, "boss", "POST", "/users/changing")
    with service(wire, "lasting", oauth_client_allowed_scopes=["inherit"], oauth_no_confirm=True) as client:
        call(wire, "boss", "PATCH", "/users/changing", {"admin": True})
        made = call(wire, "boss", "POST", "/users/changing/tokens", {})["body"]["token"]
        found["admin"] = with_token(wire, made, "GET", "/users")["status"]
        call(wire, "boss", "PATCH", "/users/changing", {"admin": False})
        found["no admin"] = with_token(wire, made, "GET", "/users")["status"]
        call(wire, "boss", "PATCH", "/users/changing", {"name": "changed"})
        found["renamed"] = known(wire, made)
        call(wire, "boss", "DELETE", "/users/changed")
        found["deleted"] = known(wire, made)
        found["client"] = bool(client)
    return found
