//! The description of the API against the router, and its schemas against the types.

use std::collections::BTreeSet;

use migrate_proto::api::*;
use migrate_proto::care::restart::Policy;
use migrate_proto::care::{Timing, Wish};
use migrate_proto::message::Severity;
use migrate_proto::name::WorkloadName;
use migrate_proto::phase::Phase;
use migrate_proto::spec::{User, Volume, WorkloadSpec};
use serde::Serialize;
use serde_json::{Value, json};

use super::super::*;
use super::fake::{self, Fake, ask, request};

async fn document() -> Value {
    ask(&Fake::new("node1").router(), request("GET", "/v1/openapi.json", &[], "")).await.json()
}

/// Method and path of everything in the document.
fn described(document: &Value) -> BTreeSet<(String, String)> {
    let methods = |(path, methods): (&String, &Value)| {
        methods.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())).collect::<Vec<_>>()
    };
    document["paths"].as_object().unwrap().iter().flat_map(methods).collect()
}

#[tokio::test]
async fn every_route_is_described_and_everything_described_is_a_route() {
    let document = document().await;
    let routed = routes::ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    assert_eq!(described(&document), routed);
    assert_eq!(routed.len(), routes::ROUTES.len());

    let router = Fake::new("node1").router();
    for (method, path) in described(&document) {
        let path = path.replace("{name}", "web").replace("{node}", "node2");
        let Ok(response) = router.clone().oneshot(request(&method.to_uppercase(), &path, &[], "{}\n")).await;
        assert!(![404, 405].contains(&response.status().as_u16()), "{method} {path}");
    }
}

/// The table says which methods a path takes; the router must refuse all others.
#[tokio::test]
async fn nothing_is_routed_that_is_not_described() {
    let described = described(&document().await);
    let router = Fake::new("node1").router();
    for (_, path) in &described {
        for method in ["get", "post", "put", "patch", "delete"] {
            if !described.contains(&(method.to_owned(), path.clone())) {
                let real = path.replace("{name}", "web").replace("{node}", "node2");
                let answered = ask(&router, request(&method.to_uppercase(), &real, &[], "")).await;
                assert_eq!(answered.status.as_u16(), 405, "{method} {path}");
            }
        }
    }
}

#[tokio::test]
async fn the_query_arguments_described_are_those_taken() {
    let document = document().await;
    let router = Fake::new("node1").router();
    for (method, path) in described(&document) {
        for parameter in document["paths"][&path][&method]["parameters"].as_array().unwrap() {
            if parameter["in"] != "query" {
                continue;
            }
            let name = parameter["name"].as_str().unwrap();
            // A value of no type: the answer shows that the argument is known.
            let asked = format!("{}?{name}=%00", path.replace("{name}", "web").replace("{node}", "node2"));
            let problem = ask(&router, request(&method.to_uppercase(), &asked, &[], "")).await.problem();
            assert!(problem.message.contains(&format!("{name}: ")), "{asked}: {problem}");
        }
    }
}

#[tokio::test]
async fn every_reference_leads_somewhere_and_every_schema_is_used() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").map(|target| target.as_str().unwrap().to_owned()));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document().await;
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let there: BTreeSet<String> = schemas.keys().map(|name| format!("#/components/schemas/{name}")).collect();
    assert_eq!(found, there);
}

fn fields_are_described(name: &str, value: &impl Serialize) {
    let value = serde_json::to_value(value).unwrap();
    let fields: BTreeSet<&String> = value.as_object().unwrap().keys().collect();
    let schemas = super::super::openapi::schemas();
    let schema = &schemas[name];
    let properties: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
    assert_eq!(fields, properties, "{name}");
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(properties.contains(&required.as_str().unwrap().to_owned()), "{name}: {required}");
    }
}

/// A value with only the required fields must be taken, and one with less must not.
fn required_fields_suffice<T: serde::de::DeserializeOwned>(name: &str, least: &Value) {
    assert!(serde_json::from_value::<T>(least.clone()).is_ok(), "{name}");
    let schemas = super::super::openapi::schemas();
    let required: BTreeSet<&str> =
        schemas[name]["required"].as_array().into_iter().flatten().map(|field| field.as_str().unwrap()).collect();
    assert_eq!(least.as_object().unwrap().keys().map(String::as_str).collect::<BTreeSet<_>>(), required, "{name}");
    for field in required {
        let mut less = least.clone();
        less.as_object_mut().unwrap().remove(field);
        assert!(serde_json::from_value::<T>(less).is_err(), "{name} without {field}");
    }
}

#[test]
fn schemas_have_the_fields_of_the_types() {
    let (web, node1): (WorkloadName, NodeName) = ("web".parse().unwrap(), "node1".parse().unwrap());
    let spec: WorkloadSpec = serde_json::from_value(json!({"name": "web", "argv": ["a"]})).unwrap();
    let problem = Problem::new(Code::Usage, "");
    fields_are_described("WorkloadSpec", &spec);
    let care = Wish { restart: Policy::Always, ..Wish::default() };
    fields_are_described("Wish", &care);
    fields_are_described("Timing", &care.timing);
    let request = RunRequest { spec, on: None, root: None, care, queue: true, priority: 1, replicas: Some(1) };
    fields_are_described("RunRequest", &request);
    fields_are_described("User", &User { uid: 1, gid: 1 });
    fields_are_described("Volume", &Volume { source: "/a".into(), target: "/b".into(), read_only: true });
    fields_are_described("WorkloadView", &fake::workload(&web, &node1));
    fields_are_described("NodeView", &fake::node());
    let checkpoint = fake::checkpoint(&web, &node1);
    fields_are_described("LastCheckpoint", &fake::last_checkpoint());
    fields_are_described("CheckpointView", &checkpoint);
    fields_are_described("RecoveryTest", &fake::recovery_test());
    fields_are_described("RestoreRequest", &RestoreRequest::default());
    fields_are_described("Backup", &fake::backup());
    fields_are_described("RebuildRequest", &RebuildRequest { backup: None, sure: true });
    fields_are_described("RebuildView", &fake::rebuilt(&node1));
    fields_are_described("Health", &fake::health(&node1));
    fields_are_described("Event", &fake::event());
    fields_are_described("MoveFigures", &fake::event().figures.unwrap());
    let checked = fake::checked(&web);
    fields_are_described("Reason", &checked.reasons[0]);
    fields_are_described("CheckReport", &checked);
    fields_are_described("Unsettled", &fake::unsettled());
    fields_are_described("WhyView", &fake::why(&web, &node1));
    fields_are_described("PredictionView", &PredictionView::default());
    fields_are_described("MoveRequest", &MoveRequest::default());
    fields_are_described("MoveProgress", &fake::progress());
    fields_are_described("MoveReport", &fake::report(&web, &node1));
    fields_are_described("PhaseTime", &PhaseTime { name: Phase::Freeze, ms: 1.0 });
    fields_are_described("ExecRequest", &ExecRequest { argv: vec![] });
    fields_are_described("Problem", &problem);
    fields_are_described("ErrorBody", &ErrorBody { error: problem });
}

#[test]
fn schemas_of_requests_require_what_the_types_require() {
    required_fields_suffice::<WorkloadSpec>("WorkloadSpec", &json!({"name": "web", "argv": ["a"]}));
    required_fields_suffice::<RunRequest>("RunRequest", &json!({"spec": {"name": "web", "argv": ["a"]}}));
    required_fields_suffice::<Wish>("Wish", &json!({}));
    required_fields_suffice::<Timing>("Timing", &json!({}));
    required_fields_suffice::<MoveRequest>("MoveRequest", &json!({}));
    required_fields_suffice::<RestoreRequest>("RestoreRequest", &json!({}));
    required_fields_suffice::<RebuildRequest>("RebuildRequest", &json!({}));
    required_fields_suffice::<ExecRequest>("ExecRequest", &json!({"argv": ["a"]}));
}

#[test]
fn schemas_have_the_words_of_the_enums() {
    let schemas = super::super::openapi::schemas();
    assert_eq!(schemas["Phase"]["enum"], json!(Phase::ALL.map(Phase::as_str)));
    let words = |name: &str, field: &str| match field {
        "" => schemas[name]["enum"].clone(),
        _ => schemas[name]["properties"][field]["enum"].clone(),
    };
    assert_eq!(words("Mode", ""), json!([Mode::Auto, Mode::Stream, Mode::Ahead]));
    assert_eq!(words("MoveReport", "outcome"), json!([Outcome::Moved, Outcome::Stayed, Outcome::Unknown]));
    assert_eq!(words("CheckReport", "verdict"), json!([Verdict::Yes, Verdict::No, Verdict::Unlikely]));
    assert_eq!(words("Reason", "severity"), json!([Severity::No, Severity::Unlikely, Severity::Note]));
    use migrate_proto::cluster::record::CheckpointKind::{Asked, BeforeStop, Drain, Periodic};
    assert_eq!(words("CheckpointView", "kind"), json!([Periodic, Asked, Drain, BeforeStop]));
    for (name, count) in [("WorkloadView", 9), ("NodeView", 5)] {
        let states = words(name, "state");
        assert_eq!(states.as_array().unwrap().len(), count);
        for state in states.as_array().unwrap() {
            let known = match name {
                "WorkloadView" => serde_json::from_value::<State>(state.clone()).is_ok(),
                _ => serde_json::from_value::<NodeState>(state.clone()).is_ok(),
            };
            assert!(known, "{name} {state}");
        }
    }
    use crate::events::Kind;
    let kinds = [
        Kind::Started,
        Kind::Ended,
        Kind::Restarting,
        Kind::Failed,
        Kind::Healthy,
        Kind::Unhealthy,
        Kind::Checkpointed,
        Kind::Restored,
        Kind::Stopped,
        Kind::Removed,
        Kind::Moving,
        Kind::Moved,
        Kind::Arrived,
        Kind::Stayed,
        Kind::Adopted,
        Kind::Keys,
        Kind::NodeJoined,
        Kind::NodeSuspect,
        Kind::NodeBack,
        Kind::NodeDead,
        Kind::NodeLeft,
        Kind::Leader,
        Kind::Fenced,
        Kind::Recovering,
        Kind::Recovered,
        Kind::Draining,
        Kind::Waits,
        Kind::AgentStarted,
        Kind::AgentStopped,
        Kind::Warning,
    ];
    assert_eq!(words("Event", "kind"), json!(kinds.map(Kind::as_str)));
}
