//! The metrics of this process itself.

use super::page::Page;

/// What Prometheus' clients tell of their process, as far as `/proc` has it.
pub(super) fn write(page: &mut Page) {
    let Some(process) = Process::read() else {
        return;
    };
    for (name, help, seconds) in [
        ("user_", "Seconds of user time", process.user),
        ("system_", "Seconds of system time", process.system),
        (
            "",
            "Seconds of user and system time",
            process.user + process.system,
        ),
    ] {
        let name = format!("process_cpu_{name}seconds_total");
        page.head(&name, "counter", help);
        page.line(&name, seconds);
    }
    if let Some(start) = process.start {
        let name = "process_start_time_seconds";
        page.head(
            name,
            "gauge",
            "When the process started, in seconds since 1970",
        );
        page.line(name, start);
    }
    for (name, help, field) in [
        ("resident_memory", "Resident memory in bytes", "VmRSS:"),
        ("virtual_memory", "Virtual memory in bytes", "VmSize:"),
        ("heap", "Memory for data in bytes", "VmData:"),
    ] {
        if let Some(kilobytes) = process.status(field) {
            let name = format!("process_{name}_bytes");
            page.gauge(&name, help, kilobytes * 1024);
        }
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        page.gauge(
            "process_open_fds",
            "Open file descriptors",
            files.count() as u64,
        );
    }
    if let Some(most) = process.most_files {
        page.gauge(
            "process_max_fds",
            "Most file descriptors that may be open",
            most,
        );
    }
}
/// What `/proc` tells of this process.
struct Process {
    /// In seconds, as the others.
    user: f64,
    system: f64,
    start: Option<f64>,
    status: String,
    most_files: Option<u64>,
}

impl Process {
    fn read() -> Option<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name of the program stands in parentheses and may hold anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        // Linux counts in hundredths of a second here, on all machines.
        let seconds = |index: usize| Some(fields.get(index)?.parse::<f64>().ok()? / 100.0);
        let booted = std::fs::read_to_string("/proc/stat").ok().and_then(|stat| {
            let time = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
            time.parse::<f64>().ok()
        });
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let most_files = limits.lines().find_map(|line| {
            let limits = line.strip_prefix("Max open files")?;
            limits.split_whitespace().next()?.parse().ok()
        });
        Some(Self {
            user: seconds(11)?,
            system: seconds(12)?,
            start: booted
                .zip(seconds(19))
                .map(|(booted, after)| booted + after),
            status: std::fs::read_to_string("/proc/self/status").ok()?,
            most_files,
        })
    }

    fn status(&self, field: &str) -> Option<u64> {
        self.status.lines().find_map(|line| {
            let value = line.strip_prefix(field)?;
            value.split_whitespace().next()?.parse().ok()
        })
    }
}
