"""Write what a hub with many users has in its database, in upstream's own tables, so that both hubs open the same content.

    python bench/api/content.py URL USERS RUNNING PID PORT

Each user has the role `user`, one of a hundred groups and a time of last activity. The first RUNNING users have a
server that answers at 127.0.0.1:PORT in the process PID, with its OAuth client and the token that it posts activity by.
"""

import hashlib
import secrets
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

GROUPS = 100


def user_name(number: int) -> str:
    return f"user-{number:06d}"


def server_token(number: int) -> str:
    """The token of a user's server: the same in every run, and known to the load."""
    return hashlib.sha256(f"bench server {number}".encode()).hexdigest()[:32]


def write(url: str, users: int, running: int, pid: int, port: int) -> None:
    from jupyterhub import orm, roles
    from jupyterhub.utils import hash_token
    from sqlalchemy import insert, select, text

    session = orm.new_session_factory(url)()
    for role in roles.get_default_roles():
        roles.create_role(session, role)
    user_role = orm.Role.find(session, "user").id
    now = datetime.now(timezone.utc).replace(tzinfo=None)

    def add(table, rows: list[dict]) -> None:
        for start in range(0, len(rows), 5000):
            session.execute(insert(table), rows[start : start + 5000])

    add(orm.Group.__table__, [{"name": f"group-{number:03d}", "properties": {}} for number in range(GROUPS)])
    groups = session.scalars(select(orm.Group.id).order_by(orm.Group.id)).all()
    add(
        orm.User.__table__,
        [
            {
                "name": user_name(number),
                "admin": False,
                "created": now - timedelta(days=60),
                # Seven is prime to the number of users, so that the order by activity is not that by id.
                "last_activity": now - timedelta(minutes=1 + number * 7 % users) if number % 10 else None,
                "cookie_id": secrets.token_hex(16),
            }
            for number in range(users)
        ],
    )
    ids = session.scalars(select(orm.User.id).order_by(orm.User.id)).all()
    add(orm.Base.metadata.tables["user_role_map"], [{"user_id": id, "role_id": user_role, "managed_by_auth": False} for id in ids])
    add(orm.user_group_map, [{"user_id": id, "group_id": groups[number % GROUPS]} for number, id in enumerate(ids)])

    process = {"pid": pid, "start_time": int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])}
    numbers = range(running)
    client = [f"jupyterhub-user-{user_name(number)}" for number in numbers]
    prefix = [f"/user/{user_name(number)}/" for number in numbers]
    add(
        orm.OAuthClient.__table__,
        [
            {
                "identifier": client[number],
                "description": f"Server at {prefix[number]}",
                "secret": secrets.token_hex(16),
                "redirect_uri": f"{prefix[number]}oauth_callback",
                "allowed_scopes": [f"access:servers!server={user_name(number)}/"],
            }
            for number in numbers
        ],
    )
    add(
        orm.Server.__table__,
        [{"proto": "http", "ip": "127.0.0.1", "port": port, "base_url": prefix[number], "cookie_name": client[number]} for number in numbers],
    )
    servers = session.scalars(select(orm.Server.id).order_by(orm.Server.id)).all()
    add(
        orm.Spawner.__table__,
        [
            {
                "user_id": ids[number],
                "server_id": servers[number],
                "name": "",
                "state": process,
                "user_options": {},
                "started": now - timedelta(hours=1),
                "last_activity": now - timedelta(minutes=30),
                "oauth_client_id": client[number],
            }
            for number in numbers
        ],
    )
    add(
        orm.APIToken.__table__,
        [
            {
                "user_id": ids[number],
                # As upstream hashes what it made itself.
                "hashed": hash_token(server_token(number), rounds=1, salt=16),
                "prefix": server_token(number)[: orm.APIToken.prefix_length],
                "client_id": client[number],
                "created": now - timedelta(hours=1),
                "note": f"Server at {prefix[number]}",
                "scopes": [f"access:servers!server={user_name(number)}/", f"users:activity!user={user_name(number)}"],
            }
            for number in numbers
        ],
    )
    session.commit()
    if session.bind.dialect.name == "postgresql":
        # As autovacuum does some minutes later.
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"}).execute(text("VACUUM ANALYZE"))
    session.close()


if __name__ == "__main__":
    write(sys.argv[1], *map(int, sys.argv[2:]))
