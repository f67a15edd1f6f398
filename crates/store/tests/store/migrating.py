"""What upstream makes of an old database, and what a database is made of.

    python migrating.py partial URL REVISION    upgrades it so far, with upstream's own migrations
    python migrating.py compare THEIRS OURS     upgrades THEIRS to the newest and opens it; describes both
    python migrating.py fail URL                lets upstream fail on it

`compare` also lets upstream work with OURS, and says what it saw.
"""

import json
import os
import subprocess
import sys

from jupyterhub import dbutil, orm, roles
from sqlalchemy import create_engine, inspect, text

# Upstream calls the program `alembic`.
os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]


def value_of(table, column, value):
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    if (table, column) == ("api_tokens", "scopes") and value:
        # Upstream's migration writes them as a set gives them.
        return sorted(json.loads(value))
    return value if value is None or isinstance(value, (bool, int)) else str(value)


def describe(url):
    engine = create_engine(url)
    i = inspect(engine)
    out = {"types": [e["name"] for e in i.get_enums()] if engine.name == "postgresql" else []}
    with engine.connect() as connection:
        for t in sorted(i.get_table_names()):
            if t.startswith("orrery_"):
                continue
            names = [c["name"] for c in i.get_columns(t)]
            quoted = engine.dialect.identifier_preparer.quote(t)
            rows = connection.execute(text(f"SELECT * FROM {quoted}")).mappings()
            out[t] = {
                "columns": [
                    [c["name"], str(c["type"]), c["nullable"], str(c.get("autoincrement")), str(c["default"])]
                    for c in i.get_columns(t)
                ],
                "primary": i.get_pk_constraint(t),
                "unique": sorted([str(u["name"]), u["column_names"]] for u in i.get_unique_constraints(t)),
                "checks": sorted([str(c["name"]), c["sqltext"]] for c in i.get_check_constraints(t)),
                "foreign": sorted(
                    [str(f["name"]), f["constrained_columns"], f["referred_table"], f["referred_columns"], f["options"]]
                    for f in i.get_foreign_keys(t)
                ),
                # Some of our own help our queries; upstream does not mind them.
                "indexes": sorted(
                    [x["name"], x["column_names"], bool(x["unique"])]
                    for x in i.get_indexes(t)
                    if not x["name"].startswith("orrery_")
                ),
                "options": {k: v for k, v in i.get_table_options(t).items()},
                "rows": sorted(([value_of(t, name, row[name]) for name in names] for row in rows), key=str),
            }
    engine.dispose()
    return out


def start(url):
    """What a hub does with its database when it starts, as far as it concerns all databases."""
    db = orm.new_session_factory(url)()
    if db.query(orm.Role).first() is None:
        for role in roles.get_default_roles():
            roles.create_role(db, role)
    db.commit()
    return db


def work(url):
    """Reads every row of every class, finds a token, makes one, and deletes with all cascades."""
    db = orm.new_session_factory(url)()
    orm.check_db_revision(db.get_bind())
    for mapper in orm.Base.registry.mappers:
        db.query(mapper.class_).all()
    token = orm.APIToken.find(db, "bob-0123456789abcdef")
    seen = {"token": token and [token.user.name, sorted(token.scopes)]}
    expires = orm.APIToken.find(db, "service-0123456789abcdef")
    seen["service"] = expires and expires.service.name
    bob = orm.User.find(db, "bob")
    seen["groups"] = sorted(group.name for group in bob.groups)
    bob.new_api_token(scopes=[])
    service = orm.Service.find(db, "report")
    seen["client"] = service.oauth_client_id
    db.delete(bob)
    db.commit()
    seen["left"] = db.query(orm.User).count()
    return seen


command, *arguments = sys.argv[1:]
if command == "partial":
    dbutil.upgrade(*arguments)
    print("null")
elif command == "fail":
    try:
        dbutil.upgrade(*arguments)
    except subprocess.CalledProcessError:
        print("null")
    else:
        sys.exit("upstream can do it after all")
else:
    theirs, ours = arguments
    dbutil.upgrade(theirs)
    start(theirs).close()
    print(json.dumps({"theirs": describe(theirs), "ours": describe(ours), "work": work(ours)}))
