//! The command line: upstream's flags and aliases, `--Class.option=value`, and the commands.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use orrery_core::config::{Catalog, Kind, Origin, Setting, Tree, Value};

use crate::registry;

/// A parsed command line.
pub(crate) struct Invocation {
    /// The settings it makes, to be laid over those of the configuration files.
    pub(crate) settings: Tree,
    /// What the configuration file sees as `sys.argv`.
    pub(crate) arguments: Vec<String>,
    /// What to do.
    pub(crate) action: Action,
}

/// What the program is asked to do.
pub(crate) enum Action {
    /// Start the hub, or one of the things that its flags ask for instead.
    Hub(Box<HubFlags>),
    /// Make a token.
    Token {
        /// For whom; the system user if nobody is named.
        name: Option<String>,
    },
    /// Bring the database up to date.
    UpgradeDb {
        /// Only say what would be done.
        dry_run: bool,
    },
    /// Run the proxy.
    Proxy(Box<ProxyFlags>),
    /// Print a script that completes commands in a shell.
    Completions {
        shell: clap_complete::Shell,
        /// Whose: the name that we were called by.
        name: &'static str,
    },
    /// Check or write the generated pages.
    Docs(DocsFlags),
    /// Print a version.
    Version(&'static str),
}

/// Flags of the hub that are no options of a class.
pub(crate) struct HubFlags {
    pub(crate) help_all: bool,
    pub(crate) log_json: bool,
}

/// Why there is no invocation.
pub(crate) enum Stop {
    /// Help was asked for, or clap has something to complain about.
    Clap(clap::Error),
    /// Something that clap does not see.
    Usage(String),
}

#[derive(Parser)]
#[command(
    name = "orrery",
    about = "Gives every person of a group their own notebook server: JupyterHub as one program.",
    after_help = "Every option of every class can be set as --Class.option=value, for instance \
                  --Spawner.start_timeout=120.\nRepeat it to give several items of a list; write key=value for \
                  dictionaries. --help-all shows all of them.",
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = false
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    hub: Hub,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Arguments that commands which read the configuration share with the hub.
#[derive(Args, Default)]
struct Common {
    /// The configuration file: .py, .json or .toml [default: `jupyterhub_config.py` if it exists]
    #[arg(short = 'f', long = "config", value_name = "FILE")]
    config: Option<String>,
    /// The database's URL, such as `postgresql://host/name`, or a file for `SQLite`
    #[arg(long, value_name = "URL")]
    db: Option<String>,
    /// How much to log: DEBUG, INFO, WARN, ERROR, CRITICAL
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Log everything (--log-level=DEBUG)
    #[arg(long)]
    debug: bool,
}

#[derive(Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of upstream's command line"
)]
struct Hub {
    /// The public port
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// The public address; all addresses if it is left out
    #[arg(long, value_name = "IP")]
    ip: Option<String>,
    /// The public URL to listen on: protocol, address, port and path
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// The path under which everything is served
    #[arg(long, value_name = "PATH")]
    base_url: Option<String>,
    /// Keep the database in memory only
    #[arg(long)]
    no_db: bool,
    /// Bring an older database up to date at start; a SQLite file is copied first
    #[arg(long)]
    upgrade_db: bool,
    /// The file that keeps the key that signs cookies
    #[arg(long, value_name = "FILE")]
    cookie_secret_file: Option<String>,
    /// A file to write the process id to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<String>,
    /// A file to write the log to, too
    #[arg(long, value_name = "FILE")]
    log_file: Option<String>,
    /// Write the log as JSON, one object a line
    #[arg(long)]
    log_json: bool,
    /// The key of the public address's certificate
    #[arg(long, value_name = "FILE")]
    ssl_key: Option<String>,
    /// The public address's certificate
    #[arg(long, value_name = "FILE")]
    ssl_cert: Option<String>,
    /// Does nothing, as upstream
    #[arg(long, hide = true)]
    no_ssl: bool,
    /// Answer yes to every question
    #[arg(short = 'y', long = "answer-yes", value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    answer_yes: Option<String>,
    /// Write a configuration file with every option, commented out, then end
    #[arg(long)]
    generate_config: bool,
    /// Make the certificates for `internal_ssl`, then end
    #[arg(long, hide = true)]
    generate_certs: bool,
    /// Show the configuration as all sources together give it, then end
    #[arg(long)]
    show_config: bool,
    /// The same as JSON
    #[arg(long)]
    show_config_json: bool,
    /// Show every option of every class, then end
    #[arg(long)]
    help_all: bool,
    /// Show the version, then end
    #[arg(long)]
    version: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Make an API token for an existing user and print it
    Token {
        /// The user's name; yours if it is left out
        name: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Bring the database up to date with this version
    UpgradeDb {
        /// Say what would be done and change nothing
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Run the proxy alone: a drop-in configurable-http-proxy
    Proxy(Box<ProxyFlags>),
    /// Print a script that completes these commands in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Check or write the pages of docs/reference
    #[command(hide = true)]
    Docs(DocsFlags),
}

/// The proxy as a command of its own.
#[derive(Parser)]
#[command(
    name = "configurable-http-proxy",
    about = "Run the proxy alone: a drop-in configurable-http-proxy"
)]
pub(crate) struct ProxyFlags {
    #[command(flatten)]
    pub(crate) options: orrery_proxy::Options,
    /// The umask to run with, in octal digits; the hub sets it
    #[arg(long, hide = true, value_parser = octal)]
    pub(crate) umask: Option<u32>,
    /// Show the version of configurable-http-proxy whose behaviour this is, then end
    #[arg(short = 'V', long)]
    version: bool,
}

fn octal(text: &str) -> Result<u32, std::num::ParseIntError> {
    u32::from_str_radix(text, 8)
}

/// Flags of the hidden command `docs`.
#[derive(Args)]
pub(crate) struct DocsFlags {
    /// Fail if a page is not what the program would write
    #[arg(long, required_unless_present = "write")]
    pub(crate) check: bool,
    /// Write the pages
    #[arg(long, conflicts_with = "check")]
    pub(crate) write: bool,
    /// The folder of the pages
    #[arg(long, default_value = "docs/reference", value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
}

/// Parses the command line; the first argument is the program's name.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Invocation, Stop> {
    let program = arguments
        .first()
        .map(Path::new)
        .and_then(Path::file_stem)
        .unwrap_or(OsStr::new("orrery"));
    let rest = arguments.get(1..).unwrap_or_default();
    if program == "configurable-http-proxy" {
        let flags = ProxyFlags::try_parse_from(arguments).map_err(Stop::Clap)?;
        return Ok(alone(proxy(Box::new(flags))));
    }
    let as_jupyterhub = program == "jupyterhub";
    let name = if as_jupyterhub {
        "jupyterhub"
    } else {
        "orrery"
    };
    // The proxy's flags are its own; nothing of the hub's is to be looked for among them.
    let (classes, plain) = if is_proxy(arguments) {
        (Vec::new(), rest.to_vec())
    } else {
        take_class_options(rest)?
    };

    let mut command = Cli::command().name(name).bin_name(name);
    let matches = command
        .try_get_matches_from_mut(std::iter::once(name.into()).chain(plain))
        .map_err(Stop::Clap)?;
    let cli = <Cli as clap::FromArgMatches>::from_arg_matches(&matches).map_err(Stop::Clap)?;

    let catalog = registry::catalog();
    let home = std::env::var("HOME").ok();
    let mut settings = Settings {
        tree: Tree::default(),
        catalog: &catalog,
        home: home.as_deref(),
    };
    settings.common(&cli.common);
    let hub_flags = HubFlags {
        help_all: cli.hub.help_all,
        log_json: cli.hub.log_json,
    };
    settings.hub(&cli.hub);
    let action = match cli.command {
        _ if cli.hub.version => Action::Version(if as_jupyterhub {
            "jupyterhub"
        } else {
            "orrery"
        }),
        None => Action::Hub(Box::new(hub_flags)),
        Some(Command::Token { name, common }) => {
            settings.common(&common);
            Action::Token { name }
        }
        Some(Command::UpgradeDb { dry_run, common }) => {
            settings.common(&common);
            Action::UpgradeDb { dry_run }
        }
        Some(Command::Proxy(flags)) => proxy(flags),
        Some(Command::Completions { shell }) => Action::Completions { shell, name },
        Some(Command::Docs(flags)) => Action::Docs(flags),
    };
    for (class, option, texts) in classes {
        settings.class_option(&class, &option, &texts);
    }
    Ok(Invocation {
        settings: settings.tree,
        arguments: std::iter::once("jupyterhub".to_owned())
            .chain(rest.iter().map(|word| word.to_string_lossy().into_owned()))
            .collect(),
        action,
    })
}

/// Whether a command line is the proxy's, by the program's name or its first word.
pub(crate) fn is_proxy(arguments: &[OsString]) -> bool {
    let program = arguments.first().map(Path::new).and_then(Path::file_stem);
    program.is_some_and(|name| name == "configurable-http-proxy")
        || arguments.get(1).is_some_and(|word| word == "proxy")
}

/// The help text that `--help` shows.
pub(crate) fn help() -> String {
    Cli::command().render_long_help().to_string()
}

/// The command for completion scripts.
pub(crate) fn command(name: &'static str) -> clap::Command {
    Cli::command().name(name).bin_name(name)
}

fn proxy(flags: Box<ProxyFlags>) -> Action {
    if flags.version {
        return Action::Version("configurable-http-proxy");
    }
    Action::Proxy(flags)
}

fn alone(action: Action) -> Invocation {
    Invocation {
        settings: Tree::default(),
        arguments: Vec::new(),
        action,
    }
}

type ClassOption = (String, String, Vec<String>);

/// Takes `--Class.option=value` and `--Class.option value` out of the arguments.
fn take_class_options(arguments: &[OsString]) -> Result<(Vec<ClassOption>, Vec<OsString>), Stop> {
    let catalog = registry::catalog();
    let mut found: Vec<ClassOption> = Vec::new();
    let mut rest = Vec::new();
    let mut arguments = arguments.iter().peekable();
    while let Some(argument) = arguments.next() {
        let Some((class, option, value)) = argument.to_str().and_then(split_class_option) else {
            rest.push(argument.clone());
            continue;
        };
        let value = match value {
            Some(value) => value.to_owned(),
            None if is_bool(&catalog, class, option)
                && !arguments.peek().is_some_and(|next| is_truth(next)) =>
            {
                "true".to_owned()
            }
            None => match arguments.next().and_then(|next| next.to_str()) {
                Some(next) => next.to_owned(),
                None => {
                    return Err(Stop::Usage(format!(
                        "--{class}.{option} needs a value: --{class}.{option}=VALUE"
                    )));
                }
            },
        };
        match found
            .iter_mut()
            .find(|(known, name, _)| known == class && name == option)
        {
            Some((_, _, texts)) => texts.push(value),
            None => found.push((class.to_owned(), option.to_owned(), vec![value])),
        }
    }
    Ok((found, rest))
}

fn split_class_option(argument: &str) -> Option<(&str, &str, Option<&str>)> {
    let name = argument.strip_prefix("--")?;
    let (name, value) = match name.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (name, None),
    };
    let (class, option) = name.split_once('.')?;
    let is_name = |name: &str| {
        name.chars()
            .all(|character| character.is_ascii_alphanumeric() || character == '_')
    };
    let fits = class.starts_with(|first: char| first.is_ascii_uppercase())
        && is_name(class)
        && !option.is_empty()
        && is_name(option);
    fits.then_some((class, option, value))
}

fn is_bool(catalog: &Catalog, class: &str, option: &str) -> bool {
    catalog
        .class(class)
        .and_then(|class| catalog.option(class, option))
        .is_some_and(|(_, spec)| matches!(spec.kind, Kind::Bool))
}

fn is_truth(word: &OsStr) -> bool {
    word.to_str().is_some_and(|word| {
        ["true", "false", "1", "0"].contains(&word.to_ascii_lowercase().as_str())
    })
}

/// Collects settings of the command line into a tree.
struct Settings<'a> {
    tree: Tree,
    catalog: &'a Catalog,
    home: Option<&'a str>,
}

impl Settings<'_> {
    fn common(&mut self, common: &Common) {
        self.alias("JupyterHub.config_file", common.config.as_ref());
        self.alias("JupyterHub.db_url", common.db.as_ref());
        self.flag("Application.log_level", common.debug, "10");
        self.alias("Application.log_level", common.log_level.as_ref());
    }

    fn hub(&mut self, hub: &Hub) {
        self.alias("JupyterHub.port", hub.port.as_ref());
        self.alias("JupyterHub.ip", hub.ip.as_ref());
        self.alias("JupyterHub.bind_url", hub.url.as_ref());
        self.alias("JupyterHub.base_url", hub.base_url.as_ref());
        self.flag("JupyterHub.db_url", hub.no_db, "sqlite:///:memory:");
        self.flag("JupyterHub.upgrade_db", hub.upgrade_db, "true");
        self.alias(
            "JupyterHub.cookie_secret_file",
            hub.cookie_secret_file.as_ref(),
        );
        self.alias("JupyterHub.pid_file", hub.pid_file.as_ref());
        self.alias("JupyterHub.extra_log_file", hub.log_file.as_ref());
        self.alias("JupyterHub.ssl_key", hub.ssl_key.as_ref());
        self.alias("JupyterHub.ssl_cert", hub.ssl_cert.as_ref());
        self.flag("JupyterHub.confirm_no_ssl", hub.no_ssl, "true");
        self.alias("JupyterHub.answer_yes", hub.answer_yes.as_ref());
        self.flag("JupyterHub.generate_config", hub.generate_config, "true");
        self.flag("JupyterHub.generate_certs", hub.generate_certs, "true");
        self.flag("Application.show_config", hub.show_config, "true");
        self.flag("Application.show_config_json", hub.show_config_json, "true");
    }

    fn flag(&mut self, name: &str, given: bool, text: &str) {
        self.alias(name, given.then(|| text.to_owned()).as_ref());
    }

    fn alias(&mut self, name: &str, text: Option<&String>) {
        if let (Some((class, option)), Some(text)) = (name.split_once('.'), text) {
            self.class_option(class, option, std::slice::from_ref(text));
        }
    }

    /// Sets an option from its texts; those of an unknown option stay texts, for the check to find.
    fn class_option(&mut self, class: &str, option: &str, texts: &[String]) {
        let spec = self
            .catalog
            .class(class)
            .and_then(|class| self.catalog.option(class, option));
        let value = match spec {
            Some((_, spec)) => spec.kind.read(texts, self.home),
            None => Value::texts(texts.iter().cloned()),
        };
        self.tree
            .set(class, option, Setting::Value(value), Origin::CommandLine)
            .expect("a value replaces what stands there and cannot clash");
    }
}
