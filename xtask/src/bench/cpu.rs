//! CPU time and memory of processes, their threads and their children.

use crate::{Doing as _, Failure, Outcome};

/// Linux accounts in hundredths of a second towards programs, whatever the kernel's own tick.
const TICKS_PER_SEC: f64 = 100.0;

/// CPU time that these processes and the children of theirs, those that ended included, have used so far, in microseconds.
pub(crate) fn used_us(parents: &[u32]) -> Outcome<f64> {
    let own = parents.iter().map(|&pid| ticks(pid, true)).sum::<Outcome<u64>>()?;
    // A child that has ended since it was listed is with its parent soon.
    let of_children: u64 = children(parents)?.into_iter().filter_map(|pid| ticks(pid, false).ok()).sum();
    Ok(number(own + of_children) / TICKS_PER_SEC * 1e6)
}

/// Memory that they have in use now (`VmRSS`), in KiB.
pub(crate) fn resident_kib(parents: &[u32]) -> Outcome<f64> {
    let theirs = parents.iter().map(|&pid| resident(pid)).sum::<Outcome<u64>>()?;
    // A child that has ended since it was listed has none.
    let of_children: u64 = children(parents)?.into_iter().filter_map(|pid| resident(pid).ok()).sum();
    Ok(number(theirs + of_children))
}

/// Peers have one generation of children at most.
fn children(parents: &[u32]) -> Outcome<Vec<u32>> {
    let of_them = |pid: &u32| parent_of(*pid).is_some_and(|parent| parents.contains(&parent));
    Ok(processes()?.into_iter().filter(of_them).collect())
}

/// Memory that one process has in use now (`VmRSS`), in KiB.
pub(crate) fn resident(pid: u32) -> Outcome<u64> {
    let file = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&file).doing(|| file.clone())?;
    resident_of(&text).ok_or_else(|| Failure(format!("{file} is not as expected")))
}

/// The most memory that one process has had in use at a time (`VmHWM`), in KiB.
pub(crate) fn resident_most(pid: u32) -> Outcome<f64> {
    let file = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&file).doing(|| file.clone())?;
    kib_of(&text, "VmHWM:").map(number).ok_or_else(|| Failure(format!("{file} is not as expected")))
}

fn resident_of(status: &str) -> Option<u64> {
    kib_of(status, "VmRSS:")
}

fn kib_of(status: &str, key: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(key))?.trim().strip_suffix(" kB")?.parse().ok()
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "a bench counts far fewer than 2^52 of anything")]
pub(crate) fn number(count: u64) -> f64 {
    count as f64
}

fn processes() -> Outcome<Vec<u32>> {
    let entries = std::fs::read_dir("/proc").doing(|| "/proc".to_owned())?;
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(Result::ok).filter_map(number).collect())
}

fn stat(pid: u32) -> Outcome<String> {
    let file = format!("/proc/{pid}/stat");
    std::fs::read_to_string(&file).doing(|| file.clone())
}

/// The n-th field after the program's name, from 0.
fn field(stat: &str, index: usize) -> Option<&str> {
    // The second field is the program's name in parentheses and may hold anything; count from its end.
    stat.rsplit_once(')')?.1.split_whitespace().nth(index)
}

fn parent_of(pid: u32) -> Option<u32> {
    // A process may be gone since it was listed.
    field(&stat(pid).ok()?, 1)?.parse().ok()
}

fn ticks(pid: u32, with_ended: bool) -> Outcome<u64> {
    let ticks = ticks_of(&stat(pid)?, with_ended);
    ticks.ok_or_else(|| Failure(format!("/proc/{pid}/stat is not as expected")))
}

/// `utime` and `stime` (proc(5)): all threads, those that ended included; and on demand those of children that ended
/// and were waited for.
fn ticks_of(stat: &str, with_ended: bool) -> Option<u64> {
    let number = |index| field(stat, index)?.parse::<u64>().ok();
    let own = number(11)? + number(12)?;
    Some(if with_ended { own + number(13)? + number(14)? } else { own })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_any_program_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 106 0 0 0 25 17 3 4 20 0 1 0 1 1 1";
        assert_eq!(ticks_of(stat, false), Some(42));
        assert_eq!(ticks_of(stat, true), Some(49));
        assert_eq!(field(stat, 1), Some("1"));
        assert_eq!(ticks_of("7 (x) S 1", false), None);
    }

    #[test]
    fn memory_in_use_is_read() {
        assert_eq!(resident_of("VmHWM:\t     900 kB\nVmRSS:\t     812 kB\n"), Some(812));
        assert_eq!(kib_of("VmHWM:\t     900 kB\n", "VmHWM:"), Some(900));
        assert!(resident_kib(&[std::process::id()]).unwrap() > 100.0);
    }

    #[test]
    fn children_count_with_their_parents() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (me, found) = (std::process::id(), child.id());
        assert_eq!(parent_of(found), Some(me));
        assert!(processes().unwrap().contains(&found));
        assert!(used_us(&[me]).is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
