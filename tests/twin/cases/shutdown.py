"""The end of both hubs, and what breaks JupyterHub's database: these come last."""

from suite import R, story

story("last: a name that is not changed", ("admin", R("PATCH /users/idle-2", {"name": "idle-2"})), ("admin", "GET /users/idle-2"))
story("last: shutdown", ("admin", R("POST /shutdown", {"servers": True, "proxy": True})))
