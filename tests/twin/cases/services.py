"""Services: lists, models, making and deleting them."""

from suite import R, story, table
from world import BROWSERS, EVERYBODY, MANY, SEVERAL

GONE = ["GET /services/fresh", "DELETE /services/fresh"]
#: As JupyterHub's own tests make one.
WHOLE = {"oauth_client_id": "service-fresh", "api_token": "the-token-of-fresh-0123456789abcdef", "oauth_redirect_uri": "http://127.0.0.1:5555/oauth_callback-from-api", "oauth_no_confirm": True, "oauth_client_allowed_scopes": ["inherit"], "info": {"foo": "bar"}}
ADMINS = "admin shopper for-service ada"

table("services: list", EVERYBODY, "GET /services", "GET /services/plain", "GET /services/nothing")
table("services: list", BROWSERS, "GET /services", "GET /services/plain")
table("services: read", "admin reading naming roles shopper for-service", "GET /services/shopper", "GET /services/boss", "GET /services/teller", "GET /services/PLAIN", "GET /services/plain/", "GET /services/", "GET /services?limit=1&offset=1", "HEAD /services/plain", "HEAD /services", R("GET /services?limit=1", headers={"Accept": "application/jupyterhub-pagination+json"}, label="paged"))

table("services: make", MANY + " shopper for-service", R("POST /services/fresh", {"info": {"a": 1}}), then=GONE)
table("services: make: whole", "admin", R("POST /services/fresh", WHOLE), then=GONE)
table("services: make", BROWSERS, R("POST /services/fresh", {"info": {"a": 1}}), then=GONE)
table("services: make: who is there", ADMINS + " nobody", R("POST /services/plain", {"info": {}}), R("POST /services/teller"))
table(
    "services: make: bodies",
    "admin shopper for-service",
    *[R("POST /services/fresh", body) for body in (
        {}, {"name": "other"}, {"name": 5}, {"admin": True}, {"admin": False}, {"admin": "x"}, {"display": False}, {"display": "x"}, {"info": "x"}, {"info": []}, {"url": 5}, {"url": None}, {"api_token": "short"}, {"api_token": 5}, {"api_token": "the-token-of-fresh-0123456789abcdef"}, {"command": ["x"]}, {"command": []}, {"command": "x"}, {"cwd": "/tmp"}, {"cwd": 5}, {"environment": {"A": "b"}}, {"environment": []}, {"user": "ada"},
        {"oauth_client_id": "service-fresh", "oauth_redirect_uri": "http://fresh.example.org/cb"}, {"oauth_redirect_uri": "http://fresh.example.org/cb"}, {"oauth_client_id": "service-shopper", "oauth_redirect_uri": "http://fresh.example.org/cb"}, {"oauth_no_confirm": 1},
        {"oauth_client_allowed_scopes": ["admin:users"]}, {"oauth_client_allowed_scopes": ["read:users!user"]}, {"oauth_client_allowed_scopes": ["nothing"]}, {"oauth_client_allowed_scopes": []}, {"oauth_client_allowed_scopes": "x"}, {"oauth_client_allowed_scopes": [5]}, {"nothing": 1}, {"kind": "service"}, {"roles": []}, [], "x", 5,
    )],
    R("POST /services/fresh"), R("POST /services/fresh", raw=b"{"), R("POST /services/fresh", raw=b"null"),
    then=GONE,
)
table("services: make: names", "admin", *[R(f"POST /services/{name}", {"info": {"a": 1}}) for name in ("FRESH", "fr%C3%A9sh", "fresh%20one", "x" * 255, "-")], then=["GET /services", *[f"DELETE /services/{name}" for name in ("FRESH", "fr%C3%A9sh", "fresh%20one", "x" * 255, "-")]])
story("services: make: its token works and ends with it", ("admin", R("POST /services/fresh", WHOLE)), *[("nobody", R("GET /user", headers={"Authorization": f"token {WHOLE['api_token']}"})), ("nobody", R("GET /users", headers={"Authorization": f"token {WHOLE['api_token']}"}))], ("admin", "DELETE /services/fresh"), ("nobody", R("GET /user", headers={"Authorization": f"token {WHOLE['api_token']}"})), ("admin", "DELETE /services/fresh"))
story("services: make: one of an admin is an admin", ("admin", R("POST /services/fresh", {"admin": True, "api_token": WHOLE["api_token"]})), ("nobody", R("GET /users/ada", headers={"Authorization": f"token {WHOLE['api_token']}"})), ("admin", "DELETE /services/fresh"))
story("services: make: twice", ("admin", R("POST /services/fresh", {"info": {}})), ("admin", R("POST /services/fresh", {"info": {"a": 1}})), ("admin", R("POST /services/fresh", {"info": {"a": 1}})), ("admin", "DELETE /services/fresh"))
table("services: delete", MANY + " shopper for-service", "DELETE /services/plain", "DELETE /services/nothing", "DELETE /services/")
table("services: wrong methods", "admin nobody", "POST /services", "PUT /services/plain", "PATCH /services/plain", "DELETE /services", "OPTIONS /services", "OPTIONS /services/plain")
table("services: each other's", SEVERAL, "GET /services/teller", "GET /services/boss")
