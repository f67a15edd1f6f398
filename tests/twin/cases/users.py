"""Users: lists, models, making, changing and deleting them."""

from suite import table
from world import EVERYBODY

table("user", EVERYBODY, "GET /user")
table("users", EVERYBODY, "GET /users", "GET /users/ada")
