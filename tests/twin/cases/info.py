"""What the hub says of itself, and its proxy."""

from suite import R, table
from world import BROWSERS, EVERYBODY, SEVERAL

PAGES = {"Accept": "application/jupyterhub-pagination+json"}

table("info: version", EVERYBODY, "GET /")
table("info: version", BROWSERS, "GET /", "GET =/hub/api")
table("info: version", "nobody admin", "GET =/hub/api", "GET =/hub/api/", "GET =/hub/api//", "GET =/hub/api?x", "HEAD /", "OPTIONS /", "POST /", "PUT /", R("GET /", headers={"Origin": "http://evil.example.org"}, label="Origin"))
table("info", EVERYBODY, R("GET /info", ignore=("python", "sys_executable", "version", "class")))
table("info", BROWSERS, R("GET /info", ignore=("python", "sys_executable", "version", "class")))
table("info", "admin nobody", "HEAD /info", "POST /info", "OPTIONS /info", "GET /info/")

table("proxy", EVERYBODY, R("GET /proxy", ignore=("last_activity",)))
table("proxy", BROWSERS, R("GET /proxy", ignore=("last_activity",)))
table("proxy: pages", "admin", *[R(f"GET /proxy{query}", ignore=("last_activity",), headers=headers, label=str(bool(headers))) for query in ("?limit=1", "?offset=1", "?limit=1&offset=1", "?offset=7", "?limit=x", "?limit=0") for headers in (None, PAGES)], R("GET /proxy", headers=PAGES, ignore=("last_activity",), label="paged"))
table("proxy: check", SEVERAL + " shopper", "POST /proxy", R("POST /proxy", {"anything": 1}), R("POST /proxy", raw=b"{"))
table("proxy: check", BROWSERS, R("POST /proxy", {}))
table("proxy: move", SEVERAL + " shopper", R("PATCH /proxy", {}), R("PATCH /proxy", raw=b"{"), R("PATCH /proxy", [1]), R("PATCH /proxy"), R("PATCH /proxy", raw=b"null"))
table("proxy: wrong methods", "admin nobody", "PUT /proxy", "DELETE /proxy", "OPTIONS /proxy", "HEAD /proxy", "GET /proxy/", "GET /proxy/x")
