"""HTTP itself: paths, methods, ways to say who asks, cross-site rules, bodies."""

from suite import R, story, table
from world import BROWSERS, SEVERAL

# Paths that are not there

table(
    "http: unknown paths",
    "admin nobody ada-browser ada-browser-without-xsrf",
    *[f"GET {path}" for path in ("/nothing", "/nothing/", "/nothing/at/all", "/Users", "/USER", "/users/ada/nothing", "/user/ada", "/authorizations", "/%75sers", "/users%2Fada", "/users;x=1", "/login", "/error", "/oauth2", "=/hub/apix", "=/hub/api2/users", "=/api/users", "=/hub/hub/api/users")],
    "POST /nothing", "PUT /nothing", "PATCH /nothing", "DELETE /nothing", "HEAD /nothing", "OPTIONS /nothing",
    R("GET /nothing", headers={"Accept": "text/html"}, label="Accept: text/html"), R("GET /nothing", headers={"Sec-Fetch-Mode": "navigate"}, label="navigates"), R("POST /nothing", raw=b"{"),
)
table("http: slashes", "admin nobody", "GET /users/", "POST /users/", "GET /user/", "GET /groups/", "GET /proxy/", "GET /shutdown/", "GET /info/", "GET /services/plain/", "GET //users", "GET =//hub/api/users", "GET =/hub//api/users", "GET /users//ada")
table("http: wrong methods", "admin nobody", "GET /shutdown", "PUT /shutdown", "DELETE /shutdown", "OPTIONS /shutdown", "GET /users/ada/activity", "PUT /users/ada/activity", "PATCH /users/ada/tokens", "PUT /users/ada/tokens", "DELETE /users/ada/tokens", "GET /users/ada/server", "PUT /users/ada/server", "OPTIONS /users/ada/server", "OPTIONS /users/ada/tokens", "OPTIONS /users/ada/tokens/a1", "OPTIONS /users/ada/activity", "OPTIONS /shares", "OPTIONS /authorizations/token", "PROPFIND /users", "get /users")

# Who asks

TOKEN = "the-token-of-the-twins-service-boss-0123456789"
table(
    "http: credentials",
    "nobody",
    *[R("GET /user", headers={"Authorization": value}, label=repr(value)) for value in (
        f"token {TOKEN}", f"Token {TOKEN}", f"TOKEN {TOKEN}", f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER {TOKEN}", f"token  {TOKEN}", f"token\t{TOKEN}", f" token {TOKEN} ", f"token {TOKEN} x", f"token: {TOKEN}", f"token={TOKEN}", f"token '{TOKEN}'", TOKEN, "token", "token ", "", "Basic Ym9zczp4", f"Basic {TOKEN}", f"x token {TOKEN}", f"tokens {TOKEN}", f"Bearer {TOKEN}, token x", f"token {TOKEN[:-1]}", f"token {TOKEN}x", f"token {TOKEN.upper()}", "token é", "token " + "x" * 5000, f"token {TOKEN[:8]}",
    )],
    f"GET /user?token={TOKEN}", f"GET /user?access_token={TOKEN}", f"GET /users/ada?token={TOKEN}",
    R("GET /user", headers={"Cookie": "jupyterhub-hub-login=nonsense"}, label="a cookie that is nonsense"),
    R("GET /user", headers={"Cookie": 'jupyterhub-hub-login="2|1:0|10:1700000000|20:jupyterhub-hub-login|44:eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHg=|0123456789012345678901234567890123456789012345678901234567890123"'}, label="a cookie that is forged"),
    R("GET /user", headers={"Cookie": ";;=;a=b;jupyterhub-hub-login"}, label="cookies that are nonsense"),
    R("GET /user", headers={"X-XSRFToken": "x", "Sec-Fetch-Mode": "cors"}, label="an XSRF token alone"),
    R("GET /users", headers={"Origin": "http://evil.example.org", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "cross-site"}, label="from another site"),
)
table(
    "http: a token beside cookies",
    "ada-browser ada-browser-without-xsrf ada-browser-other-site ada-browser-navigates",
    R("GET /user", headers={"Authorization": f"token {TOKEN}"}, label="token"),
    R("POST /users/ada/activity", {"last_activity": "2020-01-01T00:00:00Z"}, headers={"Authorization": f"token {TOKEN}"}, label="token"),
    R("GET /user", headers={"Authorization": "token wrong"}, label="wrong token"),
    R("GET /user", headers={"Authorization": "Basic eHh4"}, label="basic"),
)

# Cross-site requests

FETCH = [("cors", "same-origin"), ("cors", "same-site"), ("cors", "cross-site"), ("cors", "none"), ("no-cors", "cross-site"), ("no-cors", "same-origin"), ("navigate", "same-origin"), ("navigate", "cross-site"), ("navigate", "none"), ("same-origin", "same-origin"), ("websocket", "same-origin"), ("nonsense", "nonsense"), (None, None), ("cors", None), (None, "same-origin"), (None, "cross-site")]
for who in ("ada-browser", "ada-browser-without-xsrf"):
    table(
        "http: Sec-Fetch",
        who,
        *[R(line, body, headers={"Sec-Fetch-Mode": mode, "Sec-Fetch-Site": site}, label=f"{mode}, {site}") for mode, site in FETCH for line, body in (("GET /user", None), ("POST /users/ada/activity", {"last_activity": "2020-01-01T00:00:00Z"}))],
    )
    table(
        "http: Origin and Referer",
        who,
        *[R(line, body, headers=headers, label=str(headers)) for line, body in (("GET /user", None), ("POST /users/ada/activity", {"last_activity": "2020-01-01T00:00:00Z"})) for headers in (
            {"Origin": "http://hub.example.org"}, {"Origin": "https://hub.example.org"}, {"Origin": "http://hub.example.org:8000"}, {"Origin": "http://evil.example.org"}, {"Origin": "null"}, {"Origin": ""},
            {"Referer": "http://hub.example.org/hub/home"}, {"Referer": "http://evil.example.org/"}, {"Referer": "http://hub.example.org.evil.org/"}, {"Referer": ""}, {"Referer": "http://hub.example.org/user/bob/"}, {"Host": "evil.example.org"}, {"X-Forwarded-Host": "evil.example.org"}, {"Sec-Fetch-Dest": "iframe"},
        )],
    )
table(
    "http: XSRF tokens",
    "ada-browser",
    *[R(line, body, headers={"X-XSRFToken": value, "Sec-Fetch-Mode": "cors"}, label=f"{value!r}") for line, body in (("GET /user", None), ("POST /users/ada/activity", {"last_activity": "2020-01-01T00:00:00Z"})) for value in (
        "", "x", "é", "2|7329b149|d837ced983e8aac7468bc7a61ce3d51a|1708610065", "Tm9uZTp4:eA==", "x" * 5000,
    )],
    *[R(f"{line}?_xsrf={value}", body, headers={"X-XSRFToken": None}, label="in the query") for line, body in (("GET /user", None), ("POST /users/ada/activity", {"last_activity": "2020-01-01T00:00:00Z"})) for value in ("", "x", "%C3%A9", "{xsrf}")],
    R("GET /user?_xsrf=x", label="a wrong one in the query, a right one in the header"),
    R("POST /users/ada/activity", raw=b"_xsrf=x", headers={"Content-Type": "application/x-www-form-urlencoded", "X-XSRFToken": None}, label="in a form"),
    *[R(f"{method} /user", headers={"X-XSRFToken": None}, label="no token") for method in ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")],
    R("GET /user", headers={"X-XSRFToken": None, "X-CSRFToken": "{xsrf}"}, label="X-CSRFToken"),
)
table(
    "http: content types with cookies",
    "ada-browser",
    *[R("POST /users/ada/activity", raw=b'{"last_activity": "2020-01-01T00:00:00Z"}', headers={"Content-Type": kind}, label=str(kind)) for kind in (
        None, "", "application/json", "APPLICATION/JSON", "application/json; charset=UTF-8", "application/json;charset=latin-1", "text/plain", "text/plain; application/json", "application/x-www-form-urlencoded", "application/jsonp", "text/json", "application/ld+json", "application/json, text/plain", "; application/json", "é",
    )],
)
table("http: content types with tokens", "ada", *[R("POST /users/ada/activity", raw=b'{"last_activity": "2020-01-01T00:00:00Z"}', headers={"Content-Type": kind}, label=str(kind)) for kind in (None, "text/plain", "application/x-www-form-urlencoded", "nonsense", "application/json; charset=utf-16")])
table("http: content types of PATCH and DELETE with cookies", "admin-browser", R("PATCH /users/erin", raw=b'{"admin": false}', headers={"Content-Type": "text/plain"}, label="text/plain"), R("DELETE /groups/class/users", raw=b'{"users": []}', headers={"Content-Type": "text/plain"}, label="text/plain"), R("PUT /groups/lab/properties", raw=b"{}", headers={"Content-Type": "text/plain"}, label="text/plain"))

# Requests of other sites with tokens

table(
    "http: CORS",
    "ada nobody",
    *[R(line, headers={"Origin": "http://app.example.org", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}, label="preflight") for line in ("OPTIONS /users", "OPTIONS /user", "OPTIONS /", "OPTIONS /users/ada/server", "OPTIONS /nothing")],
    *[R(line, headers={"Origin": "http://app.example.org", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "cross-site"}, label="from another site") for line in ("GET /user", "GET /", "GET /users", "POST /users")],
)

# Bodies

table(
    "http: bodies",
    "admin",
    *[R("POST /users", raw=raw) for raw in (b"", b" ", b"\n", b"nothing", b"{'usernames': []}", b'{"usernames": ["x"]', b'{"usernames": ["x"],}', b'// x\n{"usernames": []}', b'\xef\xbb\xbf{"usernames": []}', '{"usernames": []}'.encode("utf-16"), b'{"usernames": ["\\ud83d"]}', b"[" * 200_000, b'"' + b"x" * 100_000 + b'"', b"-Infinity", b"1e999", b"01", b"+1", b".5", b'"\t"', b'"\\x41"')],
    R("GET /user", raw=b'{"x": 1}', label="GET with a body"), R("GET /users", raw=b"{", label="GET with a bad body"), R("DELETE /users/nothing", raw=b"{", label="DELETE with a bad body"), R("OPTIONS /users", raw=b"{", label="OPTIONS with a body"),
)
table("http: large bodies", "admin", R("PUT /groups/lab/properties", raw=b'{"a": "' + b"x" * 900_000 + b'"}', label="0.9 MB"), R("PUT /groups/lab/properties", raw=b'{"a": "' + b"x" * 3_000_000 + b'"}', label="3 MB"), then=[R("PUT /groups/lab/properties", {})])
table("http: large bodies", "nobody wrong-token ada", R("PUT /groups/lab/properties", raw=b'{"a": "' + b"x" * 3_000_000 + b'"}', label="3 MB"))
# What is refused before its body is read must not take the next request of the connection with it.
story("http: bodies that nobody reads leave the connection whole", *[("nobody", R("PUT /groups/lab/properties", raw=b'{"a": "' + b"x" * size + b'"}', label=f"{size} bytes")) for size in (10, 1000, 50_000, 200_000) * 8])
table("http: long queries", "admin", R(f"GET /users?name_filter={'x' * 4000}", label="4,000 letters"), R(f"GET /users?{'a=b&' * 900}", label="900 arguments"))
table("http: bad JSON before anything else", SEVERAL, R("POST /users", raw=b"{"), R("POST /groups", raw=b"{"), R("POST /users/ada/server", raw=b"{"), R("POST /shutdown", raw=b"{"), R("POST /services/fresh", raw=b"{"), R("POST /users/ada", raw=b"{"), R("POST /groups/class", raw=b"{"))
table("http: Accept", "admin nobody", *[R(f"GET {path}", headers={"Accept": kind}, label=str(kind)) for path in ("/user", "/users/nothing") for kind in (None, "text/html", "application/xml", "image/png", "*/*;q=0", "nonsense")])
table("http: conditions", "admin nobody", *[R("GET /groups/class", headers=headers, label=str(headers)) for headers in ({"If-None-Match": '"x"'}, {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}, {"Range": "bytes=0-3"}, {"If-Match": '"x"'}, {"Cache-Control": "no-cache"})])
table("http: what browsers get", BROWSERS, "GET /users/ada", "GET /nothing", R("GET /info", ignore=("python", "sys_executable", "version", "class")), "OPTIONS /users", "HEAD /user")
table("http: shutdown is not for everybody", "ada bob for-class teller plain nobody ada-browser admin-browser-without-xsrf admin-browser-other-site wrong-token expired", R("POST /shutdown", {}), R("POST /shutdown", {"servers": True, "proxy": True}))
table("http: shutdown: bad bodies", "admin boss shopper", *[R("POST /shutdown", body) for body in ({"proxy": "x"}, {"servers": "x"}, {"proxy": None}, {"servers": 2}, {"proxy": "true"}, {"servers": [True]}, {"proxy": {}})], R("POST /shutdown", raw=b"{"), R("POST /shutdown", raw=b"\xff"))
