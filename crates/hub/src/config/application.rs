//! Options that traitlets gives to every application: logging and showing the configuration.

use orrery_core::config::{Kind, Misfit, OptionValue, Value};
use orrery_core::config_class;

config_class! {
    /// What the program itself does: its log, and whether it only shows its configuration. Sections
    /// named `JupyterHub` may set these options too.
    pub struct Application: "traitlets.config.application" [] {
        /// How dates are written in the log, as a pattern of `strftime`. The hub writes ISO dates if
        /// neither this nor `log_format` is set.
        log_datefmt: String = "%Y-%m-%d %H:%M:%S".to_owned(), Works;
        /// The pattern of a log line, as Python's `logging` has it: `%(asctime)s %(levelname)s
        /// %(message)s`. Times are in UTC.
        log_format: String = "[%(name)s]%(highlevel)s %(message)s".to_owned(), Works;
        /// How much to log: `DEBUG`, `INFO`, `WARN`, `ERROR`, `CRITICAL`, or Python's number for it.
        /// The hub logs from `INFO` on if nothing is set.
        log_level: LogLevel = LogLevel::Warn, Works;
        /// Python's dictionary configuration of log handlers.
        logging_config: std::collections::BTreeMap<String, serde_json::Value> = std::collections::BTreeMap::new(), NotYet;
        /// Show the configuration and end.
        show_config: bool = false, Works;
        /// Show the configuration as JSON and end.
        show_config_json: bool = false, Works;
    }
}

/// How much to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens.
    Info,
    /// What should not happen.
    Warn,
    /// What failed.
    Error,
    /// What ends the program.
    Critical,
}

impl OptionValue for LogLevel {
    const KIND: Kind = Kind::OneOf(&[
        "0", "10", "20", "30", "40", "50", "DEBUG", "INFO", "WARN", "ERROR", "CRITICAL",
    ]);

    fn from_value(value: &Value) -> Result<Self, Misfit> {
        let word = match value {
            Value::Int(number) => number.to_string(),
            Value::Text(word) => word.to_uppercase(),
            other => return Err(Misfit::new(Self::KIND.expected(), other)),
        };
        match word.as_str() {
            "0" | "10" | "DEBUG" => Ok(Self::Debug),
            "20" | "INFO" => Ok(Self::Info),
            "30" | "WARN" | "WARNING" => Ok(Self::Warn),
            "40" | "ERROR" => Ok(Self::Error),
            "50" | "CRITICAL" => Ok(Self::Critical),
            _ => Err(Misfit::new(Self::KIND.expected(), value)),
        }
    }

    fn to_value(&self) -> Value {
        Value::Int(match self {
            Self::Debug => 10,
            Self::Info => 20,
            Self::Warn => 30,
            Self::Error => 40,
            Self::Critical => 50,
        })
    }
}
