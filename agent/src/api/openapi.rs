//! `GET /v1/openapi.json`: the routes from their table, and the schemas of `schemas.json`, which a test holds against
//! the types themselves.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::forward::NODE_HEADER;
use super::lines::NDJSON;
use super::routes::{Answer, Argument, Input, ROUTES, Route};

/// The description of the API.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for route in &ROUTES {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        methods[route.method] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "migrate-agent",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The API of an agent, HTTP/1.1 on its Unix socket.",
        },
        "paths": paths,
        "components": { "schemas": schemas() },
    })
}

/// A mistake in the file is found by the tests.
pub(super) fn schemas() -> Value {
    serde_json::from_str(include_str!("schemas.json")).unwrap_or_default()
}

fn operation(route: &Route) -> Value {
    let mut parameters = vec![json!({
        "name": NODE_HEADER, "in": "header", "required": false, "schema": {"$ref": reference("Name")},
        "description": "The node that is to answer; the asked agent's where absent",
    })];
    for name in ["name", "node"] {
        if route.path.contains(&format!("{{{name}}}")) {
            let schema = json!({"$ref": reference("Name")});
            parameters.push(json!({"name": name, "in": "path", "required": true, "schema": schema}));
        }
    }
    parameters.extend(route.query.iter().map(parameter));
    let (status, answer) = answer(route);
    let failure = json!({"description": "It failed", "content": content("application/json", "ErrorBody")});
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters,
        "responses": { (status.as_str()): answer, "default": failure },
    });
    if let Some(body) = body(route) {
        operation["requestBody"] = body;
    }
    operation
}

fn parameter(argument: &Argument) -> Value {
    let schema = match argument.kind {
        "integer" => json!({"type": "integer", "minimum": 0}),
        "boolean" => json!({"type": "boolean"}),
        "name" => json!({"$ref": reference("Name")}),
        "cursor" => json!({"type": "string"}),
        words => json!({"type": "string", "enum": words.split('|').collect::<Vec<_>>()}),
    };
    json!({"name": argument.name, "in": "query", "required": false, "schema": schema, "description": argument.help})
}

fn body(route: &Route) -> Option<Value> {
    match route.input {
        Input::Nothing => None,
        Input::Json(name) => Some(json!({"required": true, "content": content("application/json", name)})),
        Input::JsonThenBytes(name) => Some(json!({
            "required": true,
            "description": "The first line is the JSON value; what follows is the command's stdin, as it comes",
            "content": content(NDJSON, name),
        })),
    }
}

fn answer(route: &Route) -> (StatusCode, Value) {
    match route.answer {
        Answer::Nothing => (StatusCode::NO_CONTENT, json!({"description": "Done"})),
        Answer::One(status, name) => {
            (status, json!({"description": "Done", "content": content("application/json", name)}))
        }
        Answer::List(name) => {
            let schema = json!({"type": "array", "items": {"$ref": reference(name)}});
            (StatusCode::OK, json!({"description": "All", "content": {"application/json": {"schema": schema}}}))
        }
        Answer::Lines(name) => {
            (StatusCode::OK, json!({"description": "One JSON object a line", "content": content(NDJSON, name)}))
        }
        Answer::OpenApi => {
            let schema = json!({"type": "object"});
            (StatusCode::OK, json!({"description": "This", "content": {"application/json": {"schema": schema}}}))
        }
    }
}

fn content(media_type: &str, name: &str) -> Value {
    json!({ (media_type): {"schema": {"$ref": reference(name)}} })
}

fn reference(name: &str) -> String {
    format!("#/components/schemas/{name}")
}
