//! The hub's own options.

use std::collections::{BTreeMap, BTreeSet};

use orrery_core::config::{ClassRef, Command, Hook, TokenMap, UrlPrefix};
use orrery_core::{Secret, config_class};

use super::specs::{CookieSecret, GroupSpec, InvalidNamedServers, RoleSpec, ServiceSpec};

type Json = serde_json::Value;

config_class! {
    /// The hub: addresses, limits, database, cookies, roles, services and pages.
    pub struct JupyterHub: "jupyterhub.app" ["Application"] {
        /// How many servers may be active at once, counting those that start or stop; more are
        /// refused with 429. 0 sets no limit.
        active_server_limit: i64 = 0, Works;
        /// Seconds within which a person counts as active. JupyterHub counts them and shows the number
        /// nowhere.
        active_user_window: i64 = 1800, NoEffect;
        /// Activity that is newer than the known one by less than this many seconds is not written,
        /// which spares the database.
        activity_resolution: i64 = 30, Works;
        /// Whether administrators may open other people's servers. Roles and scopes took its place.
        admin_access: bool = false, Works, deprecated("the admin role may do everything; make roles for less");
        /// Names of administrators.
        admin_users: BTreeSet<String> = BTreeSet::new(), Works, moved_to("Authenticator.admin_users");
        /// What happens to named servers from older versions whose names are not valid today:
        /// `allow-start`, `allow-delete` or `autorename`.
        allow_existing_invalid_named_servers: InvalidNamedServers = InvalidNamedServers::AllowStart, Works;
        /// Whether people may have several servers, each with a name.
        allow_named_servers: bool = false, Works;
        /// Answer yes to every question, for instance whether a file may be overwritten.
        answer_yes: bool = false, Works;
        /// How many records a page of an API list has when the request does not say.
        api_page_default_limit: i64 = 50, Works;
        /// How many records a page of an API list may have at most.
        api_page_max_limit: i64 = 200, Works;
        /// API tokens to put into the database at start, each with the name of the user it acts for.
        /// It has the scopes of the role `token`: by default it may do what the user may. Services are
        /// the better way.
        api_tokens: TokenMap = TokenMap::default(), Works;
        /// Actions that the audit log leaves out: names such as `login` or `service.access`, or `server.*`
        /// for all that begin with `server.`. `user.rename` cannot be left out.
        audit_ignore: BTreeSet<String> = BTreeSet::new(), Works;
        /// Whether the database keeps an audit log: who did what, from where. See docs/audit.md.
        audit_log: bool = true, Works;
        /// A file to append audit events to as well, one JSON object on each line. It is made for its owner
        /// alone, and opened anew when it was rotated.
        audit_log_file: String = String::new(), Works;
        /// Days for which the database keeps audit events. 0 keeps them for ever.
        audit_retention_days: i64 = 90, Works;
        /// Whether `/hub/metrics` asks for a token with the scope `read:metrics`.
        authenticate_prometheus: bool = true, Works;
        /// How people log in: a short name (`dummy`, `shared-password`, `null`, `pam`) or the full
        /// Python name of a class.
        authenticator_class: ClassRef = ClassRef("jupyterhub.auth.PAMAuthenticator".to_owned()), Works;
        /// The path under which everything is served. Put the hub into a larger site with it.
        base_url: UrlPrefix = UrlPrefix::new("/"), Works;
        /// The public address that the proxy listens on, with protocol, address, port and path. It is
        /// made of `ip`, `port` and `base_url` when those are set. A unix socket is written
        /// `http+unix://%2Frun%2Fjupyterhub%2Fproxy.sock`.
        bind_url: String = "http://:8000".to_owned(), Works;
        /// Whether the proxy is stopped together with the hub. Set this and `cleanup_servers` to
        /// false to let servers live through a restart of the hub.
        cleanup_proxy: bool = true, Works;
        /// Whether single-user servers are stopped together with the hub.
        cleanup_servers: bool = true, Works;
        /// How many servers may be starting at once. Further ones wait in a queue. 0 sets no limit.
        concurrent_spawn_limit: i64 = 100, Works;
        /// The configuration file to load.
        config_file: String = "jupyterhub_config.py".to_owned(), Works;
        /// Does nothing.
        confirm_no_ssl: bool = false, NoEffect, deprecated("it does nothing");
        /// Give login cookies the `__Host-` prefix, so that no other host can set them. They need TLS
        /// and are sent to every path, so use it together with `subdomain_host`.
        cookie_host_prefix_enabled: bool = false, Works;
        /// Days for which a login is valid.
        cookie_max_age_days: f64 = 14.0, Works;
        /// The key that signs cookies: 32 bytes, or their 64 hexadecimal digits. If it is not set,
        /// the environment variable `JPY_COOKIE_SECRET` and then `cookie_secret_file` are looked at.
        cookie_secret: CookieSecret = CookieSecret::default(), Works;
        /// The file that keeps the key that signs cookies. It is made at the first start and must not
        /// be readable by others.
        cookie_secret_file: String = "jupyterhub_cookie_secret".to_owned(), Works;
        /// Scopes of your own, each with a `description`. Names begin with `custom:`.
        custom_scopes: BTreeMap<String, Json> = BTreeMap::new(), Works;
        /// The folder with upstream's templates and static files. The hub brings its own with it.
        data_files_path: String = String::new(), NotYet;
        /// Extra arguments of SQLAlchemy's `create_engine`.
        db_kwargs: BTreeMap<String, Json> = BTreeMap::new(), NotYet;
        /// The database's URL, as SQLAlchemy writes it: `sqlite:///jupyterhub.sqlite`,
        /// `postgresql://user:password@host/name`, `mysql+pymysql://…`. A plain file name means
        /// SQLite.
        db_url: String = "sqlite:///jupyterhub.sqlite".to_owned(), Works;
        /// Log every database statement.
        debug_db: bool = false, NotYet;
        /// Run the proxy with its debug log.
        debug_proxy: bool = false, Works, moved_to("ConfigurableHTTPProxy.debug");
        /// With named servers: the name of the server to open when a link names none. The default
        /// server, whose name is empty, is not changed by this.
        default_server_name: String = String::new(), Works;
        /// Where people come out after login or when they open `/`; by default at their own server.
        default_url: String = String::new(), Works, or_callable;
        /// Authorities for `internal_ssl` that the site brings itself, by name (`hub-ca`, `notebooks-ca`,
        /// `proxy-api-ca`, `proxy-client-ca`, `services-ca`): `{"notebooks-ca": {"cert": "/path", "key": "/path"}}`.
        external_ssl_authorities: BTreeMap<String, Json> = BTreeMap::new(), Works;
        /// Extra Tornado request handlers.
        extra_handlers: Vec<Json> = Vec::new(), NotYet, deprecated("run a service instead");
        /// A file that the hub's log is written to as well.
        extra_log_file: String = String::new(), Works, deprecated("redirect the output instead");
        /// Extra Python log handlers.
        extra_log_handlers: Vec<Json> = Vec::new(), NotYet;
        /// Scopes that every user has beyond those of the role `user`.
        extra_user_scopes: BTreeSet<String> = BTreeSet::new(), Works;
        /// The header that tells the public host behind a proxy that changes `Host`, for instance
        /// `X-Forwarded-Host`. It is believed as `Host` is, to tell our own addresses from others.
        forwarded_host_header: String = String::new(), Works;
        /// Make the certificates for `internal_ssl` and end.
        generate_certs: bool = false, Works;
        /// Write a configuration file with every option, then end.
        generate_config: bool = false, Works;
        /// The address that the hub itself listens on, as a URL; by default made of `hub_ip` and
        /// `hub_port`. A unix socket is written `http+unix://%2Frun%2Fjupyterhub%2Fhub.sock`.
        hub_bind_url: String = String::new(), Works;
        /// The host name or address under which the proxy and servers reach the hub, when it is not
        /// `hub_ip`. If `hub_ip` means all addresses, it is this machine's name.
        hub_connect_ip: String = String::new(), Works;
        /// The port under which the proxy and servers reach the hub.
        hub_connect_port: i64 = 0, Works, deprecated("use JupyterHub.hub_connect_url");
        /// The URL under which the proxy, servers and services reach the hub, when it is not the one
        /// it listens on.
        hub_connect_url: String = String::new(), Works;
        /// The address that the hub itself listens on. Servers and the proxy must reach it; people
        /// need not. Empty means all addresses.
        hub_ip: String = "127.0.0.1".to_owned(), Works;
        /// The port that the hub itself listens on.
        hub_port: i64 = 8081, Works;
        /// Which requests the proxy sends to the hub: by default all that belong to nobody else.
        hub_routespec: String = "/".to_owned(), Works;
        /// Permissions of the hub's unix socket, if `hub_bind_url` is one.
        hub_socket_mode: i64 = 0o600, Works;
        /// When above 0, a visit to a server that does not run starts it after this many seconds
        /// instead of waiting for a click.
        implicit_spawn_seconds: f64 = 0.0, Works;
        /// Seconds that the start waits for the check of servers that ran before; the rest is checked
        /// in the background. -1 waits until all are checked.
        init_spawners_timeout: i64 = 10, NotYet;
        /// The folder of the certificates for `internal_ssl`.
        internal_certs_location: String = "internal-ssl".to_owned(), Works;
        /// Encrypt all traffic between the hub, the proxy and servers. Both ends of each connection show
        /// a certificate; the hub makes them.
        internal_ssl: bool = false, Works;
        /// The public address that the proxy listens on; empty means all addresses.
        ip: String = String::new(), Works;
        /// Extra arguments of Jinja's environment: `trim_blocks`, `lstrip_blocks`,
        /// `keep_trailing_newline` and `autoescape`. Those that only concern Jinja's own working
        /// (`cache_size`, `auto_reload`, `enable_async`, `optimized`) are taken and do nothing.
        jinja_environment_options: BTreeMap<String, Json> = BTreeMap::new(), Works;
        /// Seconds between two looks at the proxy's record of when servers were last used.
        last_activity_interval: i64 = 300, Works;
        /// Groups to make at start: `{"name": {"users": ["ada"], "properties": {}}}`, or just the list
        /// of users. Groups and members are added, never removed; properties are replaced. Not together
        /// with `Authenticator.manage_groups`.
        load_groups: BTreeMap<String, GroupSpec> = BTreeMap::new(), Works;
        /// Roles to make or change at start: dictionaries with `name` and, as needed, `description`,
        /// `scopes`, `users`, `groups`, `services`. Such a role is held by those whom its lists name and
        /// by nobody else: a list that is left out is empty. But the role `user` without `users` stays
        /// with everybody, and `admin` without `users` or `services` with those who are administrators.
        /// The list of `users` of `admin`, together with `Authenticator.admin_users`, says who is one.
        load_roles: Vec<RoleSpec> = Vec::new(), Works;
        /// An image for the corner of every page.
        logo_file: String = String::new(), Works;
        /// How many named servers one person may have. 0 sets no limit.
        named_server_limit_per_user: i64 = 0, Works, or_callable;
        /// Refuse OAuth clients that do not use PKCE.
        oauth_require_pkce: bool = false, Works;
        /// Seconds for which tokens from OAuth logins are valid: those in the cookies of servers and
        /// services. By default as long as a login, see `cookie_max_age_days`.
        oauth_token_expires_in: i64 = 0, Works;
        /// A file to write the hub's process id to.
        pid_file: String = String::new(), Works;
        /// The public port that the proxy listens on.
        port: i64 = 8000, Works;
        /// The address of the proxy's API.
        proxy_api_ip: String = String::new(), Works, deprecated("use ConfigurableHTTPProxy.api_url");
        /// The port of the proxy's API.
        proxy_api_port: i64 = 0, Works, deprecated("use ConfigurableHTTPProxy.api_url");
        /// The token of the proxy's API.
        proxy_auth_token: Secret = Secret::default(), Works, moved_to("ConfigurableHTTPProxy.auth_token");
        /// Seconds between two checks of the proxy.
        proxy_check_interval: i64 = 5, Works, moved_to("ConfigurableHTTPProxy.check_running_interval");
        /// How the proxy is driven: `configurable-http-proxy` or the full Python name of a class.
        proxy_class: ClassRef = ClassRef("jupyterhub.proxy.ConfigurableHTTPProxy".to_owned()), Works;
        /// The program that is the proxy.
        proxy_cmd: Command = Command::default(), Works, moved_to("ConfigurableHTTPProxy.command");
        /// The complete public URL of the hub, with its path, when requests do not tell it right
        /// because of proxies in front.
        public_url: String = String::new(), Works;
        /// Make all certificates for `internal_ssl` anew at start. Servers that run must then be restarted.
        recreate_internal_certs: bool = false, Works;
        /// After login, go to one's server if it runs rather than to the home page.
        redirect_to_server: bool = true, Works;
        /// Empty the database at start. Everything in it is lost.
        reset_db: bool = false, NotYet;
        /// Seconds between two checks whether services that have a URL can be reached; the log says
        /// when one is lost and when it is back. 0 never checks.
        service_check_interval: i64 = 60, Works;
        /// API tokens to put into the database at start, each with the name of the service it acts for.
        /// It has the scopes of the role `token`: by default it may do what the service may.
        service_tokens: TokenMap = TokenMap::default(), Works;
        /// Services: dictionaries with `name` and, as needed, `url`, `api_token`, `admin`, `display`,
        /// `info`, `oauth_client_id`, `oauth_redirect_uri`, `oauth_no_confirm`,
        /// `oauth_client_allowed_scopes`. Services that the hub starts itself (`command`) are not
        /// supported yet.
        services: Vec<ServiceSpec> = Vec::new(), Works;
        /// How the session helper is run, which needs root for PAM and for servers under people's own
        /// accounts: `['sudo', '-n', '/usr/lib/orrery/orrery-session']` when the hub itself is an
        /// ordinary user. By default the program that is installed with the hub.
        session_helper: Command = Command::default(), Works;
        /// Stop somebody's servers when they log out.
        shutdown_on_logout: bool = false, Works;
        /// How servers are started: a short name (`simple`, `localprocess`) or the full Python name of
        /// a class.
        spawner_class: ClassRef = ClassRef("jupyterhub.spawner.LocalProcessSpawner".to_owned()), Works;
        /// The file of the public address' certificate, with those that it is signed by behind it. When
        /// the file changes the new one is taken up.
        ssl_cert: String = String::new(), Works;
        /// The file of the private key of `ssl_cert`. Only the hub's user should be able to read it.
        ssl_key: String = String::new(), Works;
        /// How names become hosts below `subdomain_host`: `idna` gives each user and service a valid
        /// name of their own; `legacy` is how JupyterHub did it before version 5.
        subdomain_hook: String = "idna".to_owned(), Works, or_callable;
        /// Give each user and each service a host of their own below this one
        /// (`https://hub.example.org:8443`), so that browsers keep their pages apart. `*.hub.example.org`
        /// must lead here too, and a certificate must hold for it.
        subdomain_host: String = String::new(), Works;
        /// Folders with templates of your own, looked at before the built-in ones.
        template_paths: Vec<String> = Vec::new(), Works;
        /// Extra variables for the templates.
        template_vars: BTreeMap<String, Json> = BTreeMap::new(), Works;
        /// What API tokens of users may do at most, by role: `{"user": ["read:users!user",
        /// "access:servers!user"], "admin": ["inherit"]}`. Who has several roles has the sum; who has none
        /// of those named can make tokens that tell who they are and no more. `inherit` sets no bound.
        /// Tokens that exist are narrowed at once. Empty sets no bound for anybody.
        token_allowed_scopes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new(), Works;
        /// Seconds for which an API token may be valid at most. 0 sets no limit and allows tokens that
        /// never end.
        token_expires_in_max_seconds: i64 = 0, Works;
        /// Extra settings of the Tornado application.
        tornado_settings: BTreeMap<String, Json> = BTreeMap::new(), NotYet;
        /// Take tokens from `service_tokens` and `api_tokens` for as random as our own, which makes
        /// checking them cheaper. Only for tokens from a good random source.
        trust_user_provided_tokens: bool = false, Works;
        /// Extra names in the certificates for `internal_ssl`, as `DNS:hub.example.org` or `IP:10.0.0.1`.
        trusted_alt_names: Vec<String> = Vec::new(), Works;
        /// Addresses of proxies in front of ours that are skipped in `X-Forwarded-For`, so that the
        /// log shows the client's address.
        trusted_downstream_ips: Vec<String> = Vec::new(), Works;
        /// Bring the database of an older JupyterHub up to date at start; a SQLite file is copied first.
        /// Without it an older one is refused, and `orrery upgrade-db` is named.
        upgrade_db: bool = false, Works;
        /// Answer 503 instead of 424 for servers that do not run, for JupyterLab before 3.2.
        use_legacy_stopped_server_status_code: bool = false, Works;
        /// Decides where `/hub/user-redirect/` leads.
        user_redirect_hook: Hook = Hook, NotYet;
    }
}
