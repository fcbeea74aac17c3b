//! `check` and `why`: questions that change nothing.

use migrate_proto::api::{CheckReport, Verdict, WhyView};
use migrate_proto::name::{NodeName, WorkloadName};

use super::Session;
use crate::failure::Failure;
use crate::show::{answer, checking};

/// Would it move? The exit code is for scripts: 0 for yes, 1 for everything else.
pub(crate) async fn check(session: &Session, name: &WorkloadName, to: Option<&NodeName>) -> Result<u8, Failure> {
    let to = to.map(|to| format!("?to={to}")).unwrap_or_default();
    let report: CheckReport = session.agent().await?.get(&format!("/v1/workloads/{name}/check{to}")).await?;
    match session.everywhere.json {
        true => answer::json_document(&report)?,
        false => answer::line(&checking::report(session.style, &report))?,
    }
    Ok(if report.verdict == Verdict::Yes { 0 } else { 1 })
}

/// Why a workload is where it is.
pub(crate) async fn why(session: &Session, name: &WorkloadName) -> Result<u8, Failure> {
    let view: WhyView = session.agent().await?.get(&format!("/v1/workloads/{name}/why")).await?;
    match session.everywhere.json {
        true => answer::json_document(&view)?,
        false => answer::line(&checking::why(session.style, &view))?,
    }
    Ok(0)
}
