"""The end of both hubs, and what breaks JupyterHub's database: these come last."""

from suite import R, story

story("last: a name that is not changed", ("admin", R("PATCH /users/idle-2", {"name": "idle-2"})), ("admin", "GET /users/idle-2"))
story("last: a group without a name", ("admin", R("POST /groups", {"groups": [""]})), ("admin", "GET /groups?offset=4"))
story("last: a group whose name is null", ("admin", R("POST /groups", {"groups": [None]})))
story("last: a service with a slash in its name", ("admin", R("POST /services/fresh%2Fone", {"info": {"a": 1}})))
story("last: a service whose client has no address to come back to", ("admin", R("POST /services/fresh-one", {"oauth_client_id": "service-fresh-one"})))
story("last: a service that asks nobody and is no client", ("admin", R("POST /services/fresh-two", {"oauth_no_confirm": True})))
story("last: a service whose client is not named as clients of services are", ("admin", R("POST /services/fresh-three", {"oauth_client_id": "fresh-three"})))
story("last: a user with a NUL in its name", ("admin", R("POST /users", {"usernames": ["a\0"]})))
story("last: a name that the configuration makes an administrator's", ("admin", "DELETE /users/irene"), ("teller", "POST /users/irene"), ("admin", "GET /users/irene"), ("admin", "DELETE /users/irene"), ("teller", R("POST /users", {"usernames": ["irene"]})), ("admin", "DELETE /users/irene"), ("teller", R("PATCH /users/idle-3", {"name": "irene"})))
story("last: shutdown", ("admin", R("POST /shutdown", {"servers": True, "proxy": True})))
