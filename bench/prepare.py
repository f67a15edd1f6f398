"""Write a hub database with many users, by upstream's own classes, so that both hubs open the same file."""

import sys
from pathlib import Path


def prepare(path: Path, users: int) -> None:
    from jupyterhub import orm, roles

    session = orm.new_session_factory(f"sqlite:///{path}")()
    for role in roles.get_default_roles():
        roles.create_role(session, role)
    user_role = orm.Role.find(session, "user")
    for number in range(users):
        user = orm.User(name=f"user-{number:05d}")
        user.roles.append(user_role)
        session.add(user)
        if number % 1000 == 999:
            session.commit()
    session.commit()
    session.close()


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), int(sys.argv[2]))
