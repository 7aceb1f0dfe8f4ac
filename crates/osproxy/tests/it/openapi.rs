//! The OpenAPI document, compared with the code, its routes and the file in `docs/`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Service, spawn_failing};

/// Routes that are not part of the API: pages for people, for Prometheus, and the document itself.
const NO_API: [&str; 6] =
    ["GET /", "GET /metrics", "GET /openapi.json", "GET /swagger", "GET /swagger/", "GET /swagger/{file}"];

fn document() -> Value {
    serde_json::from_str(include_str!("../../../../docs/openapi.json")).unwrap()
}

/// The routes of `osproxy-http/src/routes.rs`, by method and path.
fn routes() -> BTreeSet<String> {
    let page = include_str!("../../../osproxy-http/src/routes.rs");
    let mut found = BTreeSet::new();
    let (_, body) = page.split_once("pub fn router(").unwrap();
    let mut prefix = "";
    for router in body.split("Router::new()").collect::<Vec<_>>().windows(2) {
        // Each version has a function for its routes.
        prefix = match router[0].rsplit_once("\nfn ").and_then(|(_, name)| name.split_once('(')) {
            Some(("v0_routes", _)) => osproxy_api::v0::PREFIX,
            Some(("v1_routes", _)) => osproxy_api::v1::PREFIX,
            Some(("tus_routes", _)) => osproxy_api::tus::PREFIX,
            Some(_) => "",
            None => prefix,
        };
        // The tus specification describes these routes.
        if prefix == osproxy_api::tus::PREFIX {
            continue;
        }
        // The only route whose path is formatted.
        let router =
            router[1].replace("&format!(\"{LINKS}/{{uid}}/{{filename}}\")", "\"/f/{uid}/{filename}\"");
        for route in router.split(".route(").skip(1) {
            let path_and_handlers = route.trim_start().strip_prefix('"').unwrap().split_once("\",");
            let (path, handlers) = path_and_handlers.expect("a path is followed by its handlers");
            let path = path.replace("{*", "{");
            let handlers = handlers.split("\n        .").next().unwrap();
            let before = found.len();
            for method in ["get", "put", "post", "patch", "delete", "head"] {
                let is_there = [format!("{method}("), format!(".{method}(")].iter().any(|call| {
                    handlers.trim_start().starts_with(call.as_str()) || handlers.contains(&format!(".{call}"))
                });
                if is_there {
                    found.insert(format!("{} {prefix}{path}", method.to_uppercase()));
                }
            }
            assert!(found.len() > before, "{path} has no method");
        }
    }
    found
}

#[test]
fn every_route_is_in_the_document_and_nothing_else() {
    let document = document();
    let mut told = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id), "{id} occurs twice");
            // HEAD is GET without a body, and has no route of its own.
            if method != "head" {
                told.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    let mut routes = routes();
    for page in NO_API {
        assert!(routes.remove(page), "{page} is missing");
    }
    assert!(routes.len() >= 32, "{routes:?}");
    assert_eq!(told, routes);
}

#[test]
fn every_reference_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} has no target");
    }
}

#[tokio::test]
async fn the_file_in_docs_is_what_the_code_says() {
    let folder = tempfile::tempdir().unwrap();
    let (status, printed, _) = spawn_failing(folder.path(), &[], &["openapi"]).await;
    assert!(status.success());
    let kept = include_str!("../../../../docs/openapi.json");
    assert!(printed == kept, "docs/openapi.json is outdated; run `cargo run -- openapi > docs/openapi.json`");

    let service = Service::start().await;
    let answer = service.get("/openapi.json").await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.text().await.unwrap(), printed);
}
