//! Limits of servers on this machine: what the session helper is told, and what people are told.

use std::time::Duration;

use orrery_core::phase::{Cause, Failure};
use orrery_core::spawner::{RUN_VARIABLE, Resources, ServerSpec};
use orrery_session::client::Helper;
use orrery_session::protocol::{Abilities, Answer, Limits, Request};

/// How long the helper may take to find out what the machine can do.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the helper shall hold a server to; nothing when the site set nothing.
pub(super) fn of(spec: &ServerSpec) -> Option<Limits> {
    let Resources {
        mem_limit,
        mem_guarantee,
        cpu_limit,
        cpu_guarantee,
    } = spec.resources;
    if !is_any(&spec.resources) {
        return None;
    }
    // No two servers of the machine have the same mark, whatever hub they are of.
    let mark = spec.environment.get(RUN_VARIABLE);
    let mark = mark.map_or_else(|| spec.run_id.to_string(), |mark| mark.expose().to_owned());
    let mark = mark.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-");
    Some(Limits {
        name: format!("orrery-run-{mark}"),
        mem_limit,
        mem_guarantee,
        cpu_limit,
        cpu_guarantee,
    })
}

/// Whether anything is limited or guaranteed.
fn is_any(resources: &Resources) -> bool {
    let memory = [resources.mem_limit, resources.mem_guarantee];
    let processor = [resources.cpu_limit, resources.cpu_guarantee];
    memory.iter().flatten().any(|bytes| *bytes > 0)
        || processor.iter().flatten().any(|cores| *cores > 0.0)
}

/// Tells the operator of limits that were set and that this machine does not hold servers to.
pub(super) async fn warn_of_what_is_missing(helper: &Helper, wanted: &Resources) {
    if !is_any(wanted) {
        return;
    }
    // Whether the helper works at all is checked elsewhere.
    let Ok(Answer::Abilities(abilities)) = helper.ask(&Request::Abilities, PATIENCE).await else {
        return;
    };
    match missing(&abilities, wanted).as_slice() {
        [] => tracing::info!(
            by = abilities.by.as_deref().unwrap_or("nothing"),
            "servers are held to their limits"
        ),
        options => tracing::warn!(
            options = options.join(", "),
            "servers are not held to these options: this machine has neither systemd nor writable \
             control groups for them (docs/resource-limits.md); servers are told of them all the same"
        ),
    }
}

/// The options that are set in vain.
fn missing(abilities: &Abilities, wanted: &Resources) -> Vec<&'static str> {
    [
        (
            "Spawner.mem_limit",
            wanted.mem_limit.is_some(),
            abilities.memory,
        ),
        (
            "Spawner.mem_guarantee",
            wanted.mem_guarantee.is_some(),
            abilities.memory,
        ),
        (
            "Spawner.cpu_limit",
            wanted.cpu_limit.is_some(),
            abilities.processor,
        ),
        (
            "Spawner.cpu_guarantee",
            wanted.cpu_guarantee.is_some(),
            abilities.processor,
        ),
    ]
    .into_iter()
    .filter(|(_, is_wanted, is_able)| *is_wanted && !is_able)
    .map(|(option, ..)| option)
    .collect()
}

/// What the user of a server is told that was killed for memory.
pub(super) fn out_of_memory(limit: Option<u64>) -> Failure {
    let limit = match limit {
        Some(bytes) => format!("its limit of {}", size(bytes)),
        None => "it may have".to_owned(),
    };
    Failure {
        exit_code: Some(137),
        ..Failure::new(
            Cause::OutOfMemory,
            format!(
                "The server needed more memory than {limit} and was ended by the system. Start it \
                 again, load less data at a time and shut down notebooks that you do not use; if \
                 that is not enough, ask for a higher limit."
            ),
        )
    }
}

/// A number of bytes as people write it.
#[expect(
    clippy::cast_precision_loss,
    reason = "one digit after the point is shown"
)]
fn size(bytes: u64) -> String {
    for (unit, power) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let one = 1_u64 << power;
        if bytes >= one {
            return if bytes.is_multiple_of(one) {
                format!("{} {unit}", bytes / one)
            } else {
                format!("{:.1} {unit}", bytes as f64 / one as f64)
            };
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_people_read_them() {
        for (bytes, expected) in [
            (512 << 20, "512 MiB"),
            (1 << 30, "1 GiB"),
            (3 << 29, "1.5 GiB"),
            (100_000_000, "95.4 MiB"),
            (1000, "1000 bytes"),
        ] {
            assert_eq!(size(bytes), expected);
        }
        let told = out_of_memory(Some(1 << 30)).message;
        assert!(told.contains("its limit of 1 GiB"), "{told}");
    }

    #[test]
    fn only_what_is_set_can_be_missing() {
        let memory_only = Abilities {
            by: Some("control groups, version 1".to_owned()),
            memory: true,
            processor: false,
        };
        let wanted = Resources {
            mem_limit: Some(1 << 30),
            cpu_limit: Some(1.0),
            ..Resources::default()
        };
        assert_eq!(missing(&memory_only, &wanted), ["Spawner.cpu_limit"]);
        assert_eq!(
            missing(&Abilities::default(), &wanted),
            ["Spawner.mem_limit", "Spawner.cpu_limit"]
        );
        assert!(missing(&Abilities::default(), &Resources::default()).is_empty());
    }
}
