//! Log lines in configurable-http-proxy's form, on standard output.

use std::fmt;

use chrono::{SecondsFormat, Utc};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::{Error, Options};

/// Starts logging at `--log-level`. Does nothing when the program already logs.
pub fn init_logging(options: &Options) -> Result<(), Error> {
    let _ = tracing_subscriber::fmt()
        .with_max_level(options.level()?)
        // A full disk under the log must not end the proxy.
        .log_internal_errors(false)
        .event_format(ProxyFormat)
        .try_init();
    Ok(())
}

/// `time [ConfigProxy] level: message`, which scripts that read CHP's log know.
struct ProxyFormat;

impl<S, N> FormatEvent<S, N> for ProxyFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "silly",
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "a log line bears the time at which it is written"
        )]
        let time = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        write!(writer, "{time} [ConfigProxy] {level}: ")?;
        context
            .field_format()
            .format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
