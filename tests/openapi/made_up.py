"""Makes requests that are made up meet something: names that exist, beside any others.

Only what requests bring is touched. What answers must be stays as the hub describes it.
"""

import copy

from site_under_test import GROUPS, USERS

#: Names that operations on one user or group meet, by their method: the others keep their servers and shares.
NEW = {
    "post": {"users": ["eve", "zoe"], "groups": ["club", "guild"]},
    "patch": {"users": USERS[3:], "groups": []},
    "delete": {"users": USERS[3:], "groups": GROUPS[2:]},
}


def with_known_names(document: dict, site, who: str) -> dict:
    document = copy.deepcopy(document)
    people = ["ada", "u0", "u1"] if who == "boss" else ["ada", "u0"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            known = {
                "name": people,
                "owner": ["ada", "u0"],
                "server_name": ["lab"] if method != "put" else ["big", "wide"],
                "cookie_name": ["jupyterhub-hub-login"],
                "token": [site.spare_token],
            }
            certain: set[str] = set()
            if path == "/users/{name}" and method in ("patch", "delete"):
                # No others: schemathesis uses names that it has seen in answers as well.
                certain = {"name"}
            if path == "/groups/{name}" and method in NEW:
                known["name"] = NEW[method]["groups"]
            elif path == "/users/{name}" and method in NEW:
                known["name"] = NEW[method]["users"]
            elif path.startswith("/groups/"):
                known["name"] = GROUPS[:2]
            elif path.startswith("/services/"):
                known["name"] = ["made", "setup"]
            elif path == "/users/{name}/server" and method == "patch":
                known["name"] = ["u2"]
            elif path == "/users/{name}/servers/{server_name}" and method == "patch":
                known["server_name"] = ["quiet"]
            elif path == "/users/{name}/shared/{owner}/{server_name}":
                known |= {"name": ["ada", "u2"], "owner": ["u0", "u1"]}
            elif path == "/tokens/{token_id}":
                # Any other id might be that of a token that somebody asks with.
                known["token_id"], certain = site.token_ids["u1"], {"token_id"}
            elif "{token_id}" in path:
                known |= {"name": ["ada"], "token_id": site.token_ids["ada"]}
                certain = {"token_id"}
            elif path == "/sessions/{session_id}":
                known["session_id"] = site.session_ids[:2]
            elif path == "/users/{name}/sessions/{session_id}":
                known, certain = {"name": ["ada"], "session_id": site.session_ids[2:]}, {"name"}
            elif path == "/users/{name}/sessions" and method == "delete":
                known["name"], certain = ["u1"], {"name"}
            for parameter in operation.get("parameters", []):
                if parameter["name"] in certain:
                    parameter["schema"] = {"enum": known[parameter["name"]]}
                elif parameter["in"] == "path" and (names := known.get(parameter["name"])):
                    parameter["schema"] = or_any(parameter["schema"], names)
                elif parameter["name"] == "id" and path.startswith("/share-codes/"):
                    parameter["schema"] = or_any(parameter["schema"], site.code_ids)
                elif parameter["name"] == "client_id":
                    parameter["schema"] = or_any(parameter["schema"], ["service-shelf"])
                elif parameter["name"] == "redirect_uri":
                    parameter["schema"] = or_any(parameter["schema"], ["/services/shelf/oauth_callback"])
    schemas = document["components"]["schemas"]

    def suggest(model: str, field: str, names: list[str]) -> None:
        fields = schemas[model]["properties"]
        if "items" in fields[field]:
            fields[field]["items"] = or_any(fields[field]["items"], names)
        else:
            fields[field] = or_any(fields[field], names)

    for model in ("GroupsRequest", "GroupRequest", "Members"):
        suggest(model, "users", USERS[:3])
    for model in ("ShareRequest", "ShareRevocation"):
        suggest(model, "user", ["ada", "u2"])
        suggest(model, "group", GROUPS[:1])
        suggest(model, "scopes", ["access:servers"])
    suggest("ShareCodeRequest", "scopes", ["access:servers"])
    suggest("TokenRequest", "scopes", ["read:users:name!user", "inherit"])
    suggest("TokenRequest", "roles", ["user"])
    suggest("ServiceRequest", "oauth_client_allowed_scopes", ["read:users:name"])
    return document


def or_any(schema: dict, names: list[str]) -> dict:
    """One of the names, or anything that fits the schema."""
    return {"anyOf": [{"enum": list(names)}, schema]} if names else schema


def answers(event: dict):
    """The operation and the status of each request that schemathesis tells of; not of those it sent with another method."""
    recorder = event["recorder"]
    for case, interaction in recorder["interactions"].items():
        method = recorder["cases"].get(case, {}).get("value", {}).get("method")
        if interaction.get("response") and recorder["label"].startswith(f"{method} "):
            yield recorder["label"], interaction["response"]["status_code"]
