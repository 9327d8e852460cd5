//! What this process may use, and what it uses.
//!
//! A container's limit is in a control group; the machine's memory is only the bound above it.

use apiary_engine::host::Machine;
use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are mounted on every system that has them.
const GROUPS: &str = "/sys/fs/cgroup";

/// Cores that this process may use, at least 1: affinity and the quota of its control group.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}

#[derive(Debug)]
pub(super) struct SystemMachine {
    cores: usize,
    memory_bytes: u64,
    host_name: String,
}

impl SystemMachine {
    pub fn read() -> Result<Self, sysinfo::Error> {
        let mut system = sysinfo::System::new()?;
        system.refresh_memory();
        let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limit = plan_limit_files(&membership)
            .iter()
            .filter_map(|path| parse_limit(&fs::read_to_string(path).ok()?))
            .min();
        Ok(Self {
            cores: cores(),
            memory_bytes: limit.unwrap_or(u64::MAX).min(system.total_memory()),
            host_name: sysinfo::System::host_name().unwrap_or_else(|_| "localhost".into()),
        })
    }
}

impl Machine for SystemMachine {
    fn cores(&self) -> usize {
        self.cores
    }

    fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    fn resident_bytes(&self) -> u64 {
        match fs::read_to_string("/proc/self/status") {
            Ok(status) => parse_resident(&status).unwrap_or_default(),
            Err(_) => read_resident(),
        }
    }

    fn host_name(&self) -> String {
        self.host_name.clone()
    }

    fn process_id(&self) -> u32 {
        std::process::id()
    }
}

/// Systems without `/proc`.
fn read_resident() -> u64 {
    let id = sysinfo::Pid::from_u32(std::process::id());
    let Ok(mut system) = sysinfo::System::new() else {
        return 0;
    };
    system.refresh_processes(sysinfo::ProcessesToUpdate::Some(&[id]), false);
    system.process(id).map_or(0, |process| process.memory())
}

/// The files that may limit this process, from `/proc/self/cgroup`: its group's, in version 1 or 2,
/// and those of every group above, because each of them limits. Inside a container the path may be
/// the host's and lead nowhere; the mounted root is then the container's own group.
fn plan_limit_files(membership: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (_, Some(controllers), Some(group)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (mount, file) = if controllers.is_empty() {
            (PathBuf::from(GROUPS), "memory.max")
        } else if controllers
            .split(',')
            .any(|controller| controller == "memory")
        {
            (Path::new(GROUPS).join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        let group = Path::new(group.trim_start_matches('/'));
        files.extend(group.ancestors().map(|group| mount.join(group).join(file)));
    }
    files
}

/// Bytes of a limit file; `None` for `max` and for version 1's way to say the same.
fn parse_limit(text: &str) -> Option<u64> {
    let bytes = text.trim().parse().ok()?;
    (bytes > 0 && bytes < 1 << 62).then_some(bytes)
}

/// Bytes of `VmRSS` in `/proc/self/status`.
fn parse_resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(membership: &str) -> Vec<String> {
        let files = plan_limit_files(membership);
        files
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    }

    #[test]
    fn version_2_limits_come_from_the_group_and_all_above_it() {
        assert_eq!(
            files("0::/system.slice/apiary.service\n"),
            [
                "/sys/fs/cgroup/system.slice/apiary.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        assert_eq!(files("0::/\n"), ["/sys/fs/cgroup/memory.max"]);
    }

    #[test]
    fn version_1_limits_come_from_the_memory_controller() {
        let membership = "12:cpu,cpuacct:/a\n9:memory:/docker/x\n1:name=systemd:/y\n";
        assert_eq!(
            files(membership),
            [
                "/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            ]
        );
        assert!(files("garbage\n\n:\n").is_empty());
    }

    #[test]
    fn no_limit_is_written_in_two_ways() {
        assert_eq!(parse_limit("536870912\n"), Some(536_870_912));
        assert_eq!(parse_limit("max\n"), None);
        assert_eq!(parse_limit("9223372036854771712\n"), None);
        assert_eq!(parse_limit(""), None);
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t  900 kB\nVmRSS:\t   512 kB\n";
        assert_eq!(parse_resident(status), Some(512 * 1024));
        assert_eq!(parse_resident("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_uses_memory_and_may_use_more() {
        let machine = SystemMachine::read().unwrap();
        assert!(machine.resident_bytes() > 0);
        assert!(machine.memory_bytes() >= machine.resident_bytes());
        assert!(machine.cores() >= 1);
    }
}
