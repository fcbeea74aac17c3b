//! What a workload asks of its node beyond files and room: ports, limits, the CPU's layout. The source collects, the target
//! judges.

use std::fs;
use std::path::Path;

use migrate_proto::error::{Code, Problem};
use migrate_proto::message::{Demands, Finding, Limit, Needs};
use migrate_proto::name::NodeName;

use super::finding::{no, note};
use super::net_tables::{self, Entry};
use super::{sockets, xsave};

const CAP_SYS_RESOURCE: u32 = 24;

/// What the processes of `tree` ask.
pub(super) fn of(tree: &[i32]) -> Demands {
    Demands {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        xsave: xsave::layout(),
        ports: sockets::ports(tree),
        limits: highest_limits(tree),
    }
}

/// What this node, whose name is `here`, has to say to that. `from` is the source.
pub(super) fn judge(demands: &Demands, here: &NodeName, from: &NodeName) -> Vec<Finding> {
    let mut findings = Vec::new();
    let layout = demands.xsave.as_ref().and_then(|theirs| xsave::difference(theirs, xsave::layout().as_ref()));
    if let Some(difference) = layout {
        let what =
            format!("the CPU of {here} lays out a thread's state in another way than that of {from}: {difference}");
        findings.push(no(Problem::new(Code::Incompatible, what)
            .hint("choose a target with the same CPU; for virtual machines, give all the same CPU model")));
    }
    findings.extend(taken_ports(demands, here));
    findings.extend(lower_limits(&demands.limits, here));
    if demands.agent_version != env!("CARGO_PKG_VERSION") {
        let what = format!(
            "the agents differ: {} on {from}, {} on {here}",
            demands.agent_version.escape_debug(),
            env!("CARGO_PKG_VERSION")
        );
        findings.push(note(what, "the same version everywhere is what has been tested"));
    }
    findings
}

/// Kernels may differ: it has been tested that they can.
pub(super) fn judge_kernel(needs: &Needs, kernel: &str, here: &NodeName, from: &NodeName) -> Option<Finding> {
    let what = || format!("the kernels differ: {} on {from}, {kernel} on {here}", needs.kernel.escape_debug());
    let release = |text: &str| text.split('.').take(2).map(str::to_owned).collect::<Vec<_>>();
    (release(&needs.kernel) != release(kernel)).then(|| note(what(), ""))
}

fn taken_ports(demands: &Demands, here: &NodeName) -> Option<Finding> {
    if demands.ports.is_empty() {
        return None;
    }
    let own = net_tables::of(std::process::id() as i32);
    let taken: Vec<_> = own.iter().filter_map(Entry::port).collect();
    let wanted = demands.ports.iter().find(|wanted| taken.iter().any(|port| net_tables::collide(wanted, port)))?;
    let what = format!("it holds {}, which another program has taken on {here}", net_tables::in_words(wanted));
    let hint = format!("`ss -lntup` on {here} says which; stop it, or choose another node");
    Some(no(Problem::new(Code::Incompatible, what).hint(hint)))
}

fn lower_limits(wanted: &[Limit], here: &NodeName) -> Option<Finding> {
    if may_raise_limits() {
        return None;
    }
    let own = limits_of(Path::new("/proc/self/limits"));
    let is_lower = |wanted: &&Limit| {
        let ours = own.iter().find(|limit| limit.name == wanted.name).and_then(|limit| limit.hard);
        ours.is_some_and(|ours| wanted.hard.is_none_or(|theirs| theirs > ours))
    };
    let lower: Vec<String> =
        wanted.iter().filter(is_lower).map(|limit| limit.name.escape_debug().to_string()).collect();
    if lower.is_empty() {
        return None;
    }
    let what =
        format!("some of its limits are higher than {here} may give, and will be lower there: {}", lower.join(", "));
    Some(note(what, format!("give the agent on {here} higher limits, or CAP_SYS_RESOURCE")))
}

fn may_raise_limits() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = bounding.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    bounding >> CAP_SYS_RESOURCE & 1 == 1
}

/// The highest hard limit of each kind among the processes.
fn highest_limits(tree: &[i32]) -> Vec<Limit> {
    let mut highest: Vec<Limit> = Vec::new();
    for limit in tree.iter().flat_map(|pid| limits_of(Path::new(&format!("/proc/{pid}/limits")))) {
        match highest.iter_mut().find(|known| known.name == limit.name) {
            Some(known) => known.hard = known.hard.zip(limit.hard).map(|(a, b)| a.max(b)),
            None => highest.push(limit),
        }
    }
    highest
}

/// `Max open files            1024                 1048576              files`
fn limits_of(path: &Path) -> Vec<Limit> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().skip(1).filter_map(limit).collect()
}

fn limit(line: &str) -> Option<Limit> {
    let name = line.get(..26)?.trim().to_owned();
    let hard = line.get(26..)?.split_ascii_whitespace().nth(1)?;
    let hard = if hard == "unlimited" { None } else { Some(hard.parse().ok()?) };
    Some(Limit { name, hard })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::TcpListener;

    use migrate_proto::message::Severity;

    use super::*;

    fn node(name: &str) -> NodeName {
        name.parse().unwrap()
    }

    fn judged(demands: &Demands) -> Vec<Finding> {
        judge(demands, &node("b"), &node("a"))
    }

    fn own() -> Demands {
        of(&[std::process::id() as i32])
    }

    #[test]
    fn a_node_suits_itself_but_for_its_ports() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut demands = own();
        let found = judged(&demands);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].severity, Severity::No);
        assert!(found[0].problem.message.contains("which another program has taken on b"), "{found:?}");
        let port = listener.local_addr().unwrap().port();
        demands.ports.retain(|held| held.port == port);
        assert!(judged(&demands)[0].problem.message.contains(&format!("port {port} (TCP, on 127.0.0.1)")));
        drop(listener);
        assert_eq!(judged(&demands), []);
    }

    #[test]
    fn what_differs_is_said() {
        let demands = Demands { agent_version: "9.9\n".to_owned(), ..Demands::default() };
        let found = judged(&demands);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].severity == Severity::Note && found[0].problem.message.contains("9.9\\n on a"), "{found:?}");
        if let Some(mut xsave) = xsave::layout() {
            xsave.enabled |= 1 << 62;
            let demands = Demands { xsave: Some(xsave), ..own() };
            let found = judged(&demands);
            assert!(found.iter().any(|finding| finding.problem.message.contains("lays out")), "{found:?}");
        }
        let needs = |kernel: &str| Needs {
            criu_version: String::new(),
            kernel: kernel.to_owned(),
            arch: String::new(),
            cpu_flags: Vec::new(),
            mapped_files: Vec::new(),
        };
        let judged = |kernel| judge_kernel(&needs(kernel), "6.18.5", &node("b"), &node("a"));
        assert_eq!(judged("6.18.1-rc2"), None);
        assert!(judged("6.1.90").unwrap().problem.message.contains("6.1.90 on a, 6.18.5 on b"));
    }

    #[test]
    fn limits_are_read_and_the_highest_counts() {
        let seen = limit("Max open files            1024                 1048576              files     ").unwrap();
        assert_eq!(seen, Limit { name: "Max open files".to_owned(), hard: Some(1 << 20) });
        let endless = limit("Max cpu time              unlimited            unlimited            seconds   ").unwrap();
        assert_eq!(endless.hard, None);
        assert!(own().limits.len() > 10);
        if !may_raise_limits() {
            let wanted = vec![Limit { name: "Max open files".to_owned(), hard: None }];
            let found = lower_limits(&wanted, &node("b")).unwrap();
            assert!(found.problem.message.contains("Max open files"), "{found:?}");
        }
        assert_eq!(lower_limits(&highest_limits(&[std::process::id() as i32]), &node("b")), None);
    }
}
