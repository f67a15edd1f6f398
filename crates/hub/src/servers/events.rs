//! What is told while a server starts: events in the form of upstream's progress stream.

use orrery_core::phase::{Cause, Failure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::QueuePlace;

/// How many of a spawner's events are kept with a run.
pub(super) const KEPT: usize = 50;

/// The longest message kept, in characters.
const LONGEST: usize = 500;

/// One event. It serialises as the JSON of upstream's stream; absent fields are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressEvent {
    /// 0 to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<u8>,
    /// One sentence; the last line in an event that only carries log lines.
    pub message: String,
    /// The sentence as HTML, when it has links.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html_message: Option<String>,
    /// The server is ready; the last event.
    #[serde(skip_serializing_if = "is_false")]
    pub ready: bool,
    /// The start failed or was cancelled; the last event.
    #[serde(skip_serializing_if = "is_false")]
    pub failed: bool,
    /// The path of a server that is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Its place, while the start waits for its turn. Not in upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueuePlace>,
    /// Lines of the server's own log, oldest first. Not in upstream.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
    /// How the server's process ended. Not in upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The class of a failure's cause. Not in upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde asks for"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl ProgressEvent {
    /// A step.
    pub fn step(progress: u8, message: impl Into<String>) -> Self {
        Self {
            progress: Some(progress),
            message: message.into(),
            ..Self::default()
        }
    }

    /// The first event of every start.
    pub(super) fn requested() -> Self {
        Self::step(0, "Server requested")
    }

    /// A place in the queue.
    pub(super) fn queued(place: QueuePlace) -> Self {
        let about = match place.eta_seconds {
            Some(seconds) if seconds >= 90 => format!(", about {} minutes", seconds.div_ceil(60)),
            Some(seconds) => format!(", about {seconds} seconds"),
            None => String::new(),
        };
        let message = match place.position {
            1 => format!("Many servers are starting; yours is next{about}"),
            position => {
                format!("Many servers are starting; yours is number {position} in line{about}")
            }
        };
        Self {
            queue: Some(place),
            ..Self::step(0, message)
        }
    }

    /// The last event of a start that came about.
    pub(super) fn ready(url: &str) -> Self {
        // `url` is a path of escaped segments: it has no character that HTML minds.
        Self {
            ready: true,
            url: Some(url.to_owned()),
            html_message: Some(format!("Server ready at <a href=\"{url}\">{url}</a>")),
            ..Self::step(100, format!("Server ready at {url}"))
        }
    }

    /// The last event of a start that failed.
    pub(super) fn failed(failure: &Failure) -> Self {
        let message = if failure.cause == Cause::Cancelled {
            "Spawn cancelled".to_owned()
        } else {
            format!("Spawn failed: {}", failure.message)
        };
        Self {
            failed: true,
            log: failure.log_tail.clone(),
            exit_code: failure.exit_code,
            cause: Some(failure.cause),
            ..Self::step(100, message)
        }
    }

    /// Lines of the server's log. Programs written for upstream expect progress and message in each
    /// event, so there are both.
    pub(super) fn log(progress: u8, lines: Vec<String>) -> Self {
        let last: String = lines
            .last()
            .map(|line| line.chars().take(LONGEST).collect())
            .unwrap_or_default();
        Self {
            log: lines,
            ..Self::step(progress, last)
        }
    }

    /// As it is kept in the run's row.
    pub(super) fn to_row(&self) -> Value {
        serde_json::to_value(self).expect("texts and numbers always serialize")
    }
}

/// A spawner's report as an event: the hub keeps 100 for itself, and `ready` is not a spawner's to say.
pub(super) fn from_spawner(percent: u8, message: &str) -> ProgressEvent {
    ProgressEvent::step(
        percent.min(99),
        message.chars().take(LONGEST).collect::<String>(),
    )
}

/// The events of a run so far, without its end.
pub(super) fn so_far(told: &[Value]) -> Vec<ProgressEvent> {
    let mut events = vec![ProgressEvent::requested()];
    events.extend(
        told.iter()
            .filter_map(|event| ProgressEvent::deserialize(event).ok()),
    );
    events
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_upstreams_json() {
        let value = |event: ProgressEvent| serde_json::to_value(event).expect("JSON");
        assert_eq!(
            value(ProgressEvent::requested()),
            json!({"progress": 0, "message": "Server requested"})
        );
        assert_eq!(
            value(ProgressEvent::ready("/user/ada/")),
            json!({
                "progress": 100,
                "ready": true,
                "message": "Server ready at /user/ada/",
                "html_message": "Server ready at <a href=\"/user/ada/\">/user/ada/</a>",
                "url": "/user/ada/",
            })
        );
        let failure = Failure {
            exit_code: Some(3),
            log_tail: vec!["no".to_owned()],
            ..Failure::new(Cause::Exited, "It ended.")
        };
        assert_eq!(
            value(ProgressEvent::failed(&failure)),
            json!({
                "progress": 100, "failed": true, "message": "Spawn failed: It ended.",
                "log": ["no"], "exit_code": 3, "cause": "exited",
            })
        );
    }

    #[test]
    fn a_spawner_cannot_say_that_all_is_done() {
        assert_eq!(from_spawner(100, "almost").progress, Some(99));
        assert!(from_spawner(1, &"x".repeat(9999)).message.len() <= LONGEST);
    }
}
