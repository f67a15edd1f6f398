//! The hub: login, OAuth provider, REST API, pages and the life of servers.
