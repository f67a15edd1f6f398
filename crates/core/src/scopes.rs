//! Roles and scopes: expansion, filters and intersection, as pure code.
