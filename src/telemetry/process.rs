//! What the kernel says about this process.

use std::path::Path;
use std::time::Duration;

/// A reading of the process's own resources.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub fds: u64,
    /// Resident memory, bytes.
    pub rss: u64,
    /// The most resident memory there has been, bytes.
    pub rss_peak: u64,
    /// Processor time, user and system, of all threads.
    pub cpu: Duration,
}

/// Reads the process's resources; what cannot be read is zero.
pub fn usage() -> Usage {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    Usage {
        threads: field(&status, "Threads:"),
        // Reading the folder opens one descriptor more.
        fds: entries(Path::new("/proc/self/fd")).saturating_sub(1),
        rss: field(&status, "VmRSS:") * 1024,
        rss_peak: field(&status, "VmHWM:") * 1024,
        cpu: cpu_time(),
    }
}

/// Names of the process's threads, as the kernel keeps them (15 characters), sorted.
pub fn thread_names() -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return Vec::new() };
    let mut names: Vec<String> = tasks
        .flatten()
        .filter_map(|t| std::fs::read_to_string(t.path().join("comm")).ok())
        .map(|n| n.trim_end().to_owned())
        .collect();
    names.sort();
    names
}

/// Processor time of the whole process so far.
pub fn cpu_time() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec.max(0) as u64, t.tv_nsec as u32)
}

/// Cores this process may use (affinity and control group respected).
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn field(status: &str, name: &str) -> u64 {
    status
        .lines()
        .find_map(|l| l.strip_prefix(name))
        .and_then(|v| v.split_whitespace().next())
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

fn entries(folder: &Path) -> u64 {
    std::fs::read_dir(folder).map_or(0, |d| d.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_read() {
        let before = usage();
        assert!(before.threads >= 1 && before.fds >= 3 && before.rss > 1 << 20 && before.rss_peak >= before.rss / 2);
        let mut x = 1u64;
        while cpu_time() < before.cpu + Duration::from_millis(5) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(usage().cpu > before.cpu);
        assert!(!thread_names().is_empty());
    }
}
