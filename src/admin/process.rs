//! What the kernel knows about this process, under the names that Prometheus' own clients use.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, Opts};

/// The kernel's unit of time in `/proc`, the same on all that it runs on today.
const TICKS_PER_SECOND: f64 = 100.0;

/// When this process started, as it was first asked: the kernel's time of its boot moves with the clock, and a start that moves
/// looks like a restart.
static STARTED: OnceLock<Option<f64>> = OnceLock::new();

/// The metrics as they are now. What the system does not tell is left out.
pub(super) fn families() -> Vec<MetricFamily> {
    let (status, stat, limits) = (read("self/status"), read("self/stat"), read("self/limits"));
    let memory = number(&status, "VmRSS:").map(|kibibytes| kibibytes * 1024.0);
    let max_files = number(&limits, "Max open files");
    let started = *STARTED.get_or_init(|| {
        let boot = number(&read("stat"), "btime");
        boot.zip(stat_field(&stat, 22))
            .map(|(boot, ticks)| boot + ticks / TICKS_PER_SECOND)
    });
    let version = Opts::new("redis_gateway_build_info", "1, with the version as a label.")
        .const_label("version", env!("CARGO_PKG_VERSION"));
    [
        gauge(version, Some(1.0)),
        counter(
            "process_cpu_seconds_total",
            "CPU time spent, user and system.",
            cpu_seconds(&stat),
        ),
        gauge(opts("process_resident_memory_bytes", "Resident memory."), memory),
        gauge(
            opts(
                "redis_gateway_memory_limit_bytes",
                "Memory that the process may take: its container's limit, or what the machine has.",
            ),
            memory_limit(group_limit(Path::new("/sys/fs/cgroup")).as_deref(), &read("meminfo")),
        ),
        gauge(opts("process_threads", "Threads."), number(&status, "Threads:")),
        gauge(opts("process_open_fds", "Open file descriptors."), open_files()),
        gauge(opts("process_max_fds", "Limit of open file descriptors."), max_files),
        gauge(
            opts("process_start_time_seconds", "Start, in seconds since the epoch."),
            started,
        ),
    ]
    .into_iter()
    .flatten()
    .flatten()
    .collect()
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help)
}

fn gauge(opts: Opts, value: Option<f64>) -> Option<Vec<MetricFamily>> {
    let gauge = Gauge::with_opts(opts).ok()?;
    gauge.set(value?);
    Some(gauge.collect())
}

fn counter(name: &str, help: &str, value: Option<f64>) -> Option<Vec<MetricFamily>> {
    let counter = Counter::new(name, help).ok()?;
    counter.inc_by(value?);
    Some(counter.collect())
}

fn read(file: &str) -> String {
    fs::read_to_string(format!("/proc/{file}")).unwrap_or_default()
}

/// The first number after a line's name.
fn number(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A field of `/proc/self/stat` by its number in proc(5). The second is a name that may hold blanks and brackets.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    let ticks = stat_field(stat, 14)? + stat_field(stat, 15)?;
    Some(ticks / TICKS_PER_SECOND)
}

/// A container sees its own group's limit under one of these names, by the version of control groups that its node has.
fn group_limit(groups: &Path) -> Option<String> {
    let limit = |name| fs::read_to_string(groups.join(name)).ok();
    limit("memory.max").or_else(|| limit("memory/memory.limit_in_bytes"))
}

/// Where a group has no limit it says `max`, or, by the older version, a number that no machine has.
fn memory_limit(group: Option<&str>, machine: &str) -> Option<f64> {
    let group = group.and_then(|text| text.trim().parse().ok());
    let machine = number(machine, "MemTotal:").map(|kibibytes| kibibytes * 1024.0);
    group.into_iter().chain(machine).reduce(f64::min)
}

fn open_files() -> Option<f64> {
    // One of them is the folder's own.
    let count = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u32::try_from(count).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read_by_name_and_number() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 0 100 0 0 0 250 50 0 0 20 0 9 0 12345 1000 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(stat_field(stat, 22), Some(12345.0));
        assert_eq!(stat_field("", 22), None);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  4096  files\n";
        assert_eq!(number(limits, "Max open files"), Some(1024.0));
        let machine = "MemTotal:       2048 kB\nMemFree: 1 kB\n";
        assert_eq!(memory_limit(Some("1048576\n"), machine), Some(1_048_576.0));
        for group in [Some("max\n"), Some("9223372036854771712\n"), None] {
            assert_eq!(memory_limit(group, machine), Some(2_097_152.0));
        }
    }

    #[test]
    fn the_limit_is_found_under_both_versions_of_groups() {
        let groups = tempfile::tempdir().unwrap();
        assert_eq!(group_limit(groups.path()), None);
        fs::create_dir(groups.path().join("memory")).unwrap();
        fs::write(groups.path().join("memory/memory.limit_in_bytes"), "1048576\n").unwrap();
        assert_eq!(group_limit(groups.path()).as_deref(), Some("1048576\n"));
        fs::write(groups.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(group_limit(groups.path()).as_deref(), Some("max\n"));
    }

    #[test]
    fn this_process_is_described() {
        let families = families();
        let names: Vec<&str> = families.iter().map(MetricFamily::name).collect();
        assert_eq!(names.len(), 8, "{names:?}");
        for family in &families {
            let metric = &family.get_metric()[0];
            let value = metric.get_gauge().get_value() + metric.get_counter().get_value();
            assert!(
                value > 0.0 || family.name() == "process_cpu_seconds_total",
                "{}",
                family.name()
            );
        }
    }
}
