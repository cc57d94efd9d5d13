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

/// Memory in bytes that this process may use: the least of its control groups' limits and the machine's memory. `None`
/// where the kernel says nothing.
pub fn memory_limit() -> Option<u64> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    least_memory(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup"), &read("/proc/meminfo"))
}

/// The same of control groups mounted at `root`, of `/proc/self/cgroup` and `/proc/meminfo`. Only the unified hierarchy
/// is read.
fn least_memory(root: &Path, groups: &str, meminfo: &str) -> Option<u64> {
    let machine = Some(field(meminfo, "MemTotal:") * 1024).filter(|b| *b > 0);
    let group = groups.lines().find_map(|l| l.strip_prefix("0::/")).map(|path| root.join(path));
    // Every group is bound by those above it.
    let limits = group.iter().flat_map(|g| g.ancestors()).take_while(|g| g.starts_with(root)).filter_map(|g| {
        // Without a limit it says `max`.
        std::fs::read_to_string(g.join("memory.max")).ok()?.trim().parse().ok()
    });
    limits.chain(machine).min()
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
    fn the_least_limit_of_a_group_and_those_above_it_counts() {
        let root = tempfile::tempdir().expect("folder");
        let inner = root.path().join("system.slice/framegate@entrance.service");
        std::fs::create_dir_all(&inner).expect("created");
        let group = "0::/system.slice/framegate@entrance.service\n";
        let limit = || least_memory(root.path(), group, "MemTotal:  4096 kB\nMemFree: 1 kB\n");
        assert_eq!(limit(), Some(4 << 20));
        std::fs::write(inner.join("memory.max"), "max\n").expect("written");
        assert_eq!(limit(), Some(4 << 20));
        std::fs::write(root.path().join("system.slice/memory.max"), "2000000\n").expect("written");
        assert_eq!(limit(), Some(2_000_000));
        std::fs::write(inner.join("memory.max"), "1000000\n").expect("written");
        assert_eq!(limit(), Some(1_000_000));
        assert_eq!(least_memory(root.path(), "", ""), None);
        assert!(memory_limit().is_some_and(|b| b >= usage().rss));
    }

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
