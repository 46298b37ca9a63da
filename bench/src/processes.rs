//! What processes use: CPU and memory, as the kernel counts them (`/proc`).
//!
//! A process stands for the whole tree below it: the emulator is a script that starts Java, and `PostgreSQL` has a
//! process for each connection. Where there is no `/proc`, nothing is told.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
    time::Duration,
};

use serde::Serialize;

/// Processes by the names of what they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Processes {
    ids: Vec<(String, u32)>,
    alone: Option<u32>,
}

/// What a process and those below it have used since their start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Usage {
    #[serde(skip)]
    pub(crate) cpu: Duration,
    /// Resident now.
    pub(crate) resident_mb: f64,
    /// Resident at most so far (`VmHWM`), each process's own peak.
    pub(crate) peak_mb: f64,
}

/// By name; what has one name counts together.
pub(crate) type Usages = BTreeMap<String, Usage>;

impl Processes {
    pub(crate) fn add(&mut self, name: &str, id: Option<u32>) {
        self.ids.extend(id.map(|id| (name.to_owned(), id)));
    }

    /// This process, without what it has started.
    pub(crate) fn add_this(&mut self) {
        self.alone = Some(std::process::id());
        self.add("bench", self.alone);
    }

    pub(crate) fn usages(&self) -> Usages {
        let all = table();
        let mut usages = Usages::new();
        for (name, id) in &self.ids {
            let usage = usages.entry(name.clone()).or_default();
            let family = if self.alone == Some(*id) { vec![*id] } else { family(&all, *id) };
            for id in family {
                let Some(process) = all.get(&id) else { continue };
                let (resident, peak) = memory(id).unwrap_or_default();
                usage.cpu += process.cpu;
                usage.resident_mb += resident;
                usage.peak_mb += peak;
            }
        }
        usages
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Process {
    parent: u32,
    cpu: Duration,
}

fn table() -> HashMap<u32, Process> {
    let ticks = rustix::param::clock_ticks_per_second();
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    folders
        .filter_map(|folder| {
            let id = folder.file_name().to_str()?.parse().ok()?;
            Some((id, parse(&fs::read_to_string(folder.path().join("stat")).ok()?, ticks)?))
        })
        .collect()
}

/// The parent, and the time used: fields 4, 14 and 15 of proc(5)'s `stat`.
fn parse(stat: &str, ticks_per_second: u64) -> Option<Process> {
    // The second field is the program's name, which may have anything in it.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = number(14)? + number(15)?;
    Some(Process {
        parent: number(4)?.try_into().ok()?,
        cpu: Duration::from_millis(ticks * 1000 / ticks_per_second.max(1)),
    })
}

fn family(all: &HashMap<u32, Process>, id: u32) -> Vec<u32> {
    let mut family = vec![id];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(all.iter().filter(|(_, process)| process.parent == parent).map(|(id, _)| *id));
        at += 1;
    }
    family
}

/// Megabytes resident now and at most.
fn memory(id: u32) -> Option<(f64, f64)> {
    let status = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status")).ok()?;
    let megabytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? / 1024.0)
    };
    Some((megabytes("VmRSS:")?, megabytes("VmHWM:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_program_is_called() {
        let stat = "42 (a (b) c) S 7 42 42 0 -1 4194560 100 0 0 0 250 50 30 20 20 0 1 0 100 1000 100";
        assert_eq!(parse(stat, 100), Some(Process { parent: 7, cpu: Duration::from_secs(3) }));
        assert_eq!(parse("42 (sh", 100), None);
    }

    #[test]
    fn a_process_counts_with_all_below_it() {
        let process = |parent| Process { parent, cpu: Duration::ZERO };
        let all = HashMap::from([(1, process(0)), (2, process(1)), (3, process(2)), (4, process(9))]);
        let mut family = family(&all, 1);
        family.sort_unstable();
        assert_eq!(family, [1, 2, 3]);
    }

    #[test]
    fn this_process_is_there() {
        let mut processes = Processes::default();
        processes.add("bench", Some(std::process::id()));
        let usage = processes.usages()["bench"];
        assert!(usage.resident_mb > 1.0 && usage.peak_mb >= usage.resident_mb, "{usage:?}");
    }
}
