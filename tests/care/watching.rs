//! What these tests look at.

use migrate_proto::api::{Event, State, WorkloadView};

use crate::harness::{Lab, eventually};

impl Lab {
    /// Waits until the workload looks like that.
    pub(crate) fn wait_until(&self, name: &str, mut holds: impl FnMut(&WorkloadView) -> bool) -> WorkloadView {
        let mut seen = None;
        let found = eventually(|| {
            // Between an agent's death and its next life it is nowhere.
            let ps = self.migrate(["--json", "ps"]);
            let Ok(views) = serde_json::from_str::<Vec<WorkloadView>>(&ps.stdout) else { return false };
            seen = views.into_iter().find(|view| view.name.as_str() == name);
            seen.as_ref().is_some_and(&mut holds)
        });
        assert!(found, "{name} never came to look like that; now: {seen:?}\n{}", self.story(name));
        seen.unwrap()
    }

    /// Waits until it runs, after so many restarts.
    pub(crate) fn wait_for_restart(&self, name: &str, count: u32) -> WorkloadView {
        self.wait_until(name, |view| view.restarts >= count && view.state == State::Running)
    }

    /// What happened to it, one line each.
    pub(crate) fn story(&self, name: &str) -> String {
        let said = self.migrate(["--json", "events"]).stdout;
        let events = said.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok());
        let about = events.filter(|event| event.workload.as_ref().is_some_and(|workload| workload.as_str() == name));
        about.map(|event| format!("{}: {}\n", event.kind, event.message)).collect()
    }

    /// Waits until something was said about it.
    pub(crate) fn wait_for_event(&self, name: &str, words: &str) {
        assert!(eventually(|| self.story(name).contains(words)), "'{words}' was not said:\n{}", self.story(name));
    }
}
