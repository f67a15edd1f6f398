//! Log lines by a pattern of Python's `logging` (`log_format`, `log_datefmt`).

use std::fmt::{self, Write as _};

use anyhow::bail;
use chrono::format::{Item, StrftimeItems};
use orrery_core::{Clock, SystemClock};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The pattern of JupyterHub's own log, for a site that only sets how dates are written.
const JUPYTERHUB: &str = "%(color)s[%(levelname)1.1s %(asctime)s.%(msecs).03d %(name)s %(module)s:%(lineno)d]%(end_color)s %(message)s";

/// A pattern, read.
pub(super) struct Lines {
    parts: Vec<Part>,
    dates: String,
}

enum Part {
    Text(String),
    Field {
        name: Field,
        left: bool,
        zeros: bool,
        width: usize,
        precision: Option<usize>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Message,
    LevelName,
    LevelNumber,
    HighLevel,
    Name,
    Module,
    File,
    Line,
    Time,
    Milliseconds,
    Seconds,
    Process,
    Color,
    EndColor,
    /// What only Python has.
    Nothing,
}

impl Lines {
    /// The site's patterns; `None` where both are upstream's defaults, and the log has our own form.
    pub(super) fn configured(
        format: &str,
        dates: &str,
        defaults: (&str, &str),
    ) -> anyhow::Result<Option<Self>> {
        if (format, dates) == defaults {
            return Ok(None);
        }
        let format = if format == defaults.0 {
            JUPYTERHUB
        } else {
            format
        };
        if StrftimeItems::new(dates).any(|item| item == Item::Error) {
            bail!("log_datefmt {dates:?} is not a pattern for dates");
        }
        Ok(Some(Self {
            parts: read(format)?,
            dates: dates.to_owned(),
        }))
    }
}

fn read(format: &str) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            text.push('%');
            rest = after;
            continue;
        }
        let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(')'))
        else {
            bail!("log_format {format:?} has a % without a name, as in %(message)s");
        };
        let end = after.find(|c: char| c.is_ascii_alphabetic());
        let Some(end) = end.filter(|end| after[*end..].starts_with(['s', 'd', 'f', 'i', 'r']))
        else {
            bail!("log_format: %({name}) needs an s or d after it");
        };
        let (spec, after) = (&after[..end], &after[end + 1..]);
        let flags = spec.trim_start_matches(['-', '0', '+', ' ', '#']);
        let (left, zeros) = {
            let flags = &spec[..spec.len() - flags.len()];
            (flags.contains('-'), flags.contains('0'))
        };
        let (width, precision) = flags
            .split_once('.')
            .map_or((flags, None), |(a, b)| (a, Some(b)));
        let number = |text: &str| match text {
            "" => Ok(0),
            digits => digits
                .parse::<usize>()
                .map(|number| number.min(1000))
                .map_err(|_| anyhow::anyhow!("log_format: {spec:?} after %({name}) is no width")),
        };
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(Part::Field {
            name: field(name)?,
            left,
            zeros,
            width: number(width)?,
            precision: precision.map(number).transpose()?,
        });
        rest = after;
    }
    text.push_str(rest);
    parts.push(Part::Text(text));
    Ok(parts)
}

fn field(name: &str) -> anyhow::Result<Field> {
    Ok(match name {
        "message" => Field::Message,
        "levelname" => Field::LevelName,
        "levelno" => Field::LevelNumber,
        "highlevel" => Field::HighLevel,
        "name" => Field::Name,
        "module" => Field::Module,
        "filename" | "pathname" => Field::File,
        "lineno" => Field::Line,
        "asctime" => Field::Time,
        "msecs" => Field::Milliseconds,
        "created" => Field::Seconds,
        "process" => Field::Process,
        "color" => Field::Color,
        "end_color" => Field::EndColor,
        "funcName" | "thread" | "threadName" | "processName" | "taskName" | "relativeCreated" => {
            Field::Nothing
        }
        other => bail!("log_format: there is no field %({other})s"),
    })
}

impl<S, N> FormatEvent<S, N> for Lines
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
        let about = event.metadata();
        let now = SystemClock.now();
        let (level, number, color) = match *about.level() {
            Level::ERROR => ("ERROR", 40, "\u{1b}[31m"),
            Level::WARN => ("WARNING", 30, "\u{1b}[33m"),
            Level::INFO => ("INFO", 20, "\u{1b}[32m"),
            _ => ("DEBUG", 10, "\u{1b}[34m"),
        };
        let colours = writer.has_ansi_escapes();
        let module = about.module_path().unwrap_or_default();
        for part in &self.parts {
            let (name, left, zeros, width, precision) = match part {
                Part::Text(text) => {
                    writer.write_str(text)?;
                    continue;
                }
                Part::Field {
                    name,
                    left,
                    zeros,
                    width,
                    precision,
                } => (*name, *left, *zeros, *width, *precision),
            };
            let mut text = String::new();
            match name {
                Field::Message => {
                    context
                        .field_format()
                        .format_fields(Writer::new(&mut text), event)?;
                }
                Field::LevelName => text.push_str(level),
                Field::LevelNumber => write!(text, "{number}")?,
                Field::HighLevel if number >= 30 => write!(text, " | {level}")?,
                Field::Name => text.push_str("JupyterHub"),
                Field::Module => text.push_str(module.rsplit("::").next().unwrap_or_default()),
                Field::File => text.push_str(about.file().unwrap_or_default()),
                Field::Line => write!(text, "{}", about.line().unwrap_or_default())?,
                Field::Time => write!(text, "{}", now.format(&self.dates))?,
                Field::Milliseconds => {
                    write!(text, "{:03}", now.and_utc().timestamp_subsec_millis())?;
                }
                Field::Seconds => write!(text, "{:.6}", microseconds(now))?,
                Field::Process => write!(text, "{}", std::process::id())?,
                Field::Color if colours => text.push_str(color),
                Field::EndColor if colours => text.push_str("\u{1b}[0m"),
                Field::HighLevel | Field::Color | Field::EndColor | Field::Nothing => {}
            }
            // A precision cuts text; numbers have theirs already.
            let is_text = matches!(
                name,
                Field::LevelName | Field::Name | Field::Module | Field::File | Field::Message
            );
            if let Some(most) = precision.filter(|_| is_text)
                && let Some((end, _)) = text.char_indices().nth(most)
            {
                text.truncate(end);
            }
            let missing = width.saturating_sub(text.chars().count());
            let fill = if zeros && !left && !is_text { "0" } else { " " };
            if !left {
                writer.write_str(&fill.repeat(missing))?;
            }
            writer.write_str(&text)?;
            if left {
                writer.write_str(&fill.repeat(missing))?;
            }
        }
        writeln!(writer)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a time for people; Python's is a float too"
)]
fn microseconds(now: chrono::NaiveDateTime) -> f64 {
    now.and_utc().timestamp_micros() as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: &str, dates: &str) -> String {
        let lines = Lines::configured(format, dates, ("a default", "another"))
            .unwrap()
            .unwrap();
        let page = Page::default();
        let to = page.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || to.clone())
            .event_format(lines)
            .finish();
        tracing::subscriber::with_default(subscriber, || tracing::warn!(user = "ada", "tea"));
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn lines_follow_the_pattern() {
        for (format, expected) in [
            ("%(message)s", "tea user=\"ada\"\n"),
            (
                "%(levelname)1.1s|%(levelname)9s|%(levelname)-9s|",
                "W|  WARNING|WARNING  |\n",
            ),
            (
                "100%% %(name)s %(levelno)05d%(color)s%(end_color)s",
                "100% JupyterHub 00030\n",
            ),
            ("%(module)s%(highlevel)s", "tests | WARNING\n"),
        ] {
            assert_eq!(logged(format, "%H"), expected, "{format}");
        }
        let line = logged("a default", "%Y");
        let year = SystemClock.now().format("%Y").to_string();
        assert!(line.starts_with(&format!("[W {year}.")), "{line}");
        assert!(line.ends_with("] tea user=\"ada\"\n"), "{line}");
    }

    #[test]
    fn patterns_that_are_none_are_refused() {
        for format in [
            "%s",
            "%(message)",
            "%(nothing)s",
            "%(message",
            "%(message)1x1s",
        ] {
            assert!(
                Lines::configured(format, "%H", ("", "")).is_err(),
                "{format}"
            );
        }
        assert!(Lines::configured("x", "%Q", ("", "")).is_err());
        assert!(Lines::configured("", "", ("", "")).unwrap().is_none());
    }
}
