//! Webhooks are managed by the API, the command line and the configuration file.

use osproxy_api::v1::{Webhook, WebhookState, WebhookTest, Webhooks};
use reqwest::Method;
use serde_json::{Value, json};

use super::{LOCAL, create, create_for, describe, start};
use crate::support::{
    Answer, Certificate, Receiver, Service, eventually, expect_json, expect_problem, spawn_failing,
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[tokio::test]
async fn a_webhook_is_created_listed_changed_and_deleted() {
    let service = Service::start().await;
    let url = "https://app.example.org/hook";
    let created =
        service.v1_post("/webhooks", &json!({"url": url, "types": ["file.deleted", "file.created"]})).await;
    let location = created.headers()["location"].to_str().unwrap().to_owned();
    let first: Webhook = expect_json(created, 201).await;
    assert_eq!(location, format!("/api/v1/webhooks/{}", first.id));
    assert!(first.secret.as_ref().unwrap().starts_with("whsec_"));
    assert_eq!(first.types, ["file.created", "file.deleted"]);
    let second = create(&service, &json!({"url": url, "metadata": {"a": "b"}, "categories": ["doc"]})).await;
    let list: Webhooks = expect_json(service.v1_get("/webhooks?limit=1").await, 200).await;
    assert_eq!(list.webhooks, [Webhook { secret: None, ..second.clone() }]);
    let cursor = list.next_cursor.unwrap();
    let list: Webhooks =
        expect_json(service.v1_get(&format!("/webhooks?limit=1&cursor={cursor}")).await, 200).await;
    assert_eq!((list.webhooks[0].id.as_str(), list.next_cursor), (first.id.as_str(), None));
    assert!(describe(&service, &first).await.secret.is_none());
    let route = format!("/webhooks/{}", second.id);
    let wish = json!({"url": " https://OTHER.example.org:443\n", "state": "disabled", "metadata": null});
    let changed: Webhook = expect_json(service.v1(Method::PATCH, &route, Some(&wish)).await, 200).await;
    assert_eq!((changed.url.as_str(), changed.state), ("https://other.example.org/", WebhookState::Disabled));
    assert_eq!(changed.metadata, second.metadata);
    assert_eq!(service.v1(Method::DELETE, &route, None).await.status(), 204);
    expect_problem(service.v1(Method::DELETE, &route, None).await, 404, "webhook_not_found").await;
    expect_problem(service.v1_get(&route).await, 404, "webhook_not_found").await;
}

#[tokio::test]
async fn what_is_wrong_is_named_and_leaves_nothing_behind() {
    let service = Service::start().await;
    let good = "https://app.example.org/hook";
    let webhook = create(&service, &json!({"url": good})).await;
    for (wish, field) in [
        (json!({"url": "nowhere"}), "url"),
        (json!({"url": "ftp://app.example.org"}), "url"),
        (json!({"url": "http://app.example.org"}), "url"),
        (json!({"url": "https://user:secret@app.example.org"}), "url"),
        (json!({"url": "https://127.0.0.1/"}), "url"),
        (json!({"url": "https://2130706433/"}), "url"),
        (json!({"url": "https://0.0.0.0/"}), "url"),
        (json!({"url": "https://[::ffff:127.0.0.1]/"}), "url"),
        (json!({"url": "https://169.254.169.254/latest/meta-data"}), "url"),
        (json!({"url": format!("https://app.example.org/{}", "x".repeat(2048))}), "url"),
        (json!({"url": good, "secret": "whsec_c2hvcnQ="}), "secret"),
        (json!({"url": good, "secret": "hush-hush-hush-hush-hush-hush"}), "secret"),
        (json!({"url": good, "types": ["file.complete"]}), "types"),
        (json!({"url": good, "categories": ["picture"]}), "categories"),
        (json!({"url": good, "metadata": {"": "x"}}), "metadata"),
        (json!({"url": good, "more": 1}), "more"),
        (json!({}), "url"),
    ] {
        let problem =
            expect_problem(service.v1_post("/webhooks", &wish).await, 400, "invalid_argument").await;
        assert!(!problem.to_string().contains("secret@"), "{problem}");
        if field != "more" && wish != json!({}) {
            assert_eq!(problem["field"], field, "{wish} {problem}");
            let route = format!("/webhooks/{}", webhook.id);
            if field != "secret" {
                let patched = service.v1(Method::PATCH, &route, Some(&wish)).await;
                expect_problem(patched, 400, "invalid_argument").await;
            }
        }
    }
    let route = |verb: &str| format!("/webhooks/{}/{verb}", webhook.id);
    for (verb, wish) in [
        ("rotate-secret", json!({"secret": "whsec_c2hvcnQ="})),
        ("rotate-secret", json!({"overlap": -1})),
        ("rotate-secret", json!({"overlap": 2_592_001})),
        ("replay", json!({})),
        ("replay", json!({"after": -1})),
        ("replay", json!({"after": 1, "state": "dead"})),
        ("replay", json!({"state": "delivered"})),
    ] {
        expect_problem(service.v1_post(&route(verb), &wish).await, 400, "invalid_argument").await;
    }
    for query in ["?state=done", "?limit=0", "?cursor=x", "?more=1"] {
        let answer = service.v1_get(&(route("deliveries") + query)).await;
        expect_problem(answer, 400, "invalid_argument").await;
    }
    expect_problem(service.v1_get("/webhooks/x").await, 400, "invalid_argument").await;
    let list: Webhooks = expect_json(service.v1_get("/webhooks").await, 200).await;
    assert_eq!(list.webhooks, [Webhook { secret: None, ..webhook }]);
}

#[tokio::test]
async fn the_normal_form_of_a_url_is_stored() {
    let service = Service::start().await;
    for (url, stored) in [
        ("https://app.example.org", "https://app.example.org/"),
        (" https://APP.example.org:443/a/../ho\tok\r\n?x=\u{1}y \n", "https://app.example.org/hook?x=%01y"),
        ("https://bücher.example.org/", "https://xn--bcher-kva.example.org/"),
    ] {
        let webhook = create(&service, &json!({"url": url})).await;
        assert_eq!(webhook.url, stored);
        assert_eq!(
            service.sql(&format!("SELECT url FROM webhooks WHERE id = {}", webhook.id)).await,
            [stored]
        );
    }
    let (code, said) = service.cli(&["webhook", "create", "https://CLI.example.org\t:443/"]).await;
    assert_eq!(code, 0, "{said}");
    let (_, said) = service.cli(&["webhook", "ls", "--json"]).await;
    assert!(said.lines().next().unwrap().contains(r#""url":"https://cli.example.org/""#), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_at_the_same_time_all_take_effect() {
    let service = Service::start().await;
    let webhook = create(&service, &json!({"url": "https://app.example.org/"})).await;
    for round in 0..30 {
        let (metadata, categories) = (json!({"round": round.to_string()}), ["doc", "image"][round % 2]);
        let state = [WebhookState::Disabled, WebhookState::Enabled][round % 2];
        let types = ["file.deleted", "file.completed"][round % 2];
        let wishes = [
            json!({"types": [types]}),
            json!({"categories": [categories]}),
            json!({"metadata": metadata}),
            json!({"state": state}),
        ];
        let changes = wishes.iter().map(|wish| super::update(&service, &webhook, wish));
        futures_util::future::join_all(changes).await;
        let found = describe(&service, &webhook).await;
        assert_eq!(
            (&found.types[..], &found.categories[..]),
            (&[types.to_owned()][..], &[categories.to_owned()][..])
        );
        assert_eq!((json!(found.metadata), found.state), (metadata, state), "{round}");
    }
}

#[tokio::test]
async fn an_endpoint_with_a_certificate_of_a_private_ca_is_trusted_if_the_ca_is_configured() {
    let (ca, certificate) = Certificate::of_private_ca();
    let receiver = Receiver::start_tls(&certificate).await;
    let config = "webhooks: {allowed_networks: [127.0.0.0/8]}";
    let mut service = Service::start_configured(config).await;
    let webhook = create_for(&service, &receiver).await;
    let route = format!("/webhooks/{}/test", webhook.id);
    let test: WebhookTest = expect_json(service.v1(Method::POST, &route, None).await, 200).await;
    assert!(!test.delivered && test.error.as_ref().unwrap().contains("certificate"), "{test:?}");
    assert!(receiver.received().is_empty());

    std::fs::write(service.folder().join("ca.pem"), ca).unwrap();
    std::fs::write(service.folder().join("config.yaml"), config.replace('}', ", ca_file: ca.pem}")).unwrap();
    service.restart_configured().await;
    let test: WebhookTest = expect_json(service.v1(Method::POST, &route, None).await, 200).await;
    assert!(test.delivered, "{test:?}");
    let uid = service.store("a", b"x").await;
    let message = receiver.wait_for_event("file.completed", &uid).await;
    assert!(super::is_signed(&message, webhook.secret.as_ref().unwrap()));

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.yaml"), "webhooks: {ca_file: none.pem}").unwrap();
    let (status, _, said) = spawn_failing(folder.path(), &[], &["serve", "--config", "config.yaml"]).await;
    assert!(!status.success() && said.contains("webhooks.ca_file"), "{said}");
}

#[tokio::test]
async fn the_list_of_deliveries_keeps_failures_longer_than_successes() {
    let mut service = start().await;
    let receiver = Receiver::start().await;
    let webhook = create_for(&service, &receiver).await;
    let deleted = create_for(&service, &receiver).await;
    let mut uids = Vec::new();
    for name in ["fresh", "delivered", "dead", "retrying", "ancient"] {
        let uid = service.store(name, b"x").await;
        for webhook in [&webhook, &deleted] {
            super::wait_for_delivery(&service, webhook, &uid, |_| true).await;
        }
        uids.push(uid);
    }
    service.v1(Method::DELETE, &format!("/webhooks/{}", deleted.id), None).await;
    // Of each webhook.
    let count = async |service: &Service, uid: &str| {
        service.sql(&format!("SELECT count(*) FROM webhook_deliveries WHERE uid = {uid}")).await.remove(0)
    };
    for (name, days, state) in [(1, 2, "delivered"), (2, 6, "dead"), (3, 8, "retrying"), (4, 8, "dead")] {
        let at = format!("attempted_at - {}", days * 24 * 3_600_000);
        let next = if state == "retrying" { &at } else { "NULL" };
        let uid = &uids[name];
        let sql = format!(
            "UPDATE webhook_deliveries SET next_at = {next}, attempted_at = {at}, state = '{state}' WHERE uid = {uid}"
        );
        service.sql(&sql).await;
    }
    service.sql(&format!("UPDATE webhooks SET state = 'disabled' WHERE id = {}", webhook.id)).await;
    service.restart_configured().await;
    for (name, left) in [(1, "0"), (3, "0"), (4, "0"), (0, "2"), (2, "2")] {
        eventually(&format!("{left} deliveries are left of file {name}"), async || {
            (count(&service, &uids[name]).await == left).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn webhooks_belong_to_a_tenant_and_need_the_scope_admin() {
    let service = Service::start_with(&[("WEBHOOKS__MAX_PER_TENANT", "2")]).await;
    let admin = service.with_key(&service.create_key(&["--tenant", "shop", "--scopes", "admin"]).await);
    let user = service.with_key(&service.create_key(&["--scopes", "upload,read,delete"]).await);
    let wish = json!({"url": "https://app.example.org/hook"});
    expect_problem(user.v1_post("/webhooks", &wish).await, 403, "permission_denied").await;
    let webhook = create(&admin, &wish).await;
    let path = format!("/webhooks/{}", webhook.id);
    expect_problem(user.v1_get(&path).await, 403, "permission_denied").await;
    let list: Webhooks = expect_json(service.v1_get("/webhooks").await, 200).await;
    assert_eq!(list.webhooks, [], "another tenant");
    for (method, route, body) in [
        (Method::GET, String::new(), None),
        (Method::PATCH, String::new(), Some(json!({"state": "disabled"}))),
        (Method::DELETE, String::new(), None),
        (Method::POST, "/rotate-secret".to_owned(), Some(json!({}))),
        (Method::POST, "/test".to_owned(), None),
        (Method::GET, "/deliveries".to_owned(), None),
        (Method::POST, "/replay".to_owned(), Some(json!({"after": 0}))),
    ] {
        let answer = service.v1(method, &(path.clone() + &route), body.as_ref()).await;
        expect_problem(answer, 404, "webhook_not_found").await;
    }
    assert_eq!(describe(&admin, &webhook).await, Webhook { secret: None, ..webhook.clone() });
    create(&admin, &wish).await;
    expect_problem(admin.v1_post("/webhooks", &wish).await, 409, "too_many_webhooks").await;
    create(&service, &wish).await;
    assert_eq!(admin.v1(Method::DELETE, &path, None).await.status(), 204);
    create(&admin, &wish).await;
}

#[tokio::test]
async fn addresses_that_are_not_public_are_refused_when_the_connection_is_made() {
    let service = Service::start_configured("webhooks: {allow_http: true}").await;
    let receiver = Receiver::start().await;
    let url = format!("http://localhost:{}/hook?token=hush", receiver.address.port());
    let webhook = create(&service, &json!({"url": url})).await;
    let route = format!("/webhooks/{}/test", webhook.id);
    let test: WebhookTest = expect_json(service.v1(Method::POST, &route, None).await, 200).await;
    let error = test.error.unwrap();
    assert!(!test.delivered && test.status.is_none());
    assert!(error.starts_with("the host has no address that messages may be sent to"), "{error}");
    let uid = service.store("a", b"x").await;
    let failed = super::wait_for_delivery(&service, &webhook, &uid, |_| true).await;
    assert_eq!(failed.error, Some(error));
    // The network was allowed when the webhook was created.
    let mut service = start().await;
    let webhook = create_for(&service, &receiver).await;
    std::fs::write(service.folder().join("config.yaml"), "webhooks: {allow_http: true}").unwrap();
    service.restart_configured().await;
    let route = format!("/webhooks/{}/test", webhook.id);
    let test: WebhookTest = expect_json(service.v1(Method::POST, &route, None).await, 200).await;
    let error = test.error.unwrap();
    assert!(error.contains("public address") && !error.contains("127.0"), "{error}");
    assert!(receiver.received().is_empty());
}

#[tokio::test]
async fn the_command_line_manages_webhooks() {
    let service = start().await;
    let receiver = Receiver::start().await;
    let cli = async |arguments: &[&str]| {
        let (code, said) = service.cli(&[arguments, &["--config", "config.yaml"]].concat()).await;
        (code, said.trim_end().to_owned())
    };
    let url = receiver.url();
    let (code, said) = cli(&["webhook", "create", &url, "--types", "file.completed,file.deleted"]).await;
    assert_eq!(code, 0, "{said}");
    let (id, secret) = said.split_once(' ').unwrap();
    assert!(secret.starts_with("whsec_"), "{said}");
    // The service notices it, although it was created by another process.
    let first = service.store("a", b"x").await;
    let message = receiver.wait_for_event("file.completed", &first).await;
    assert!(super::is_signed(&message, secret));
    let (code, said) = cli(&["webhook", "ls"]).await;
    assert!(code == 0 && said.contains(id) && said.contains("enabled") && said.contains(&url), "{said}");
    let (code, said) = cli(&["webhook", "show", id]).await;
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &shown["filter"]["types"]), (0, &json!(["file.completed", "file.deleted"])));
    assert!(!said.contains(secret), "{said}");
    let (code, said) = cli(&["webhook", "test", id]).await;
    assert!(code == 0 && said.starts_with("the endpoint answered 204 after"), "{said}");
    receiver.set_answer(Answer::Status(500, ""));
    let (code, said) = cli(&["webhook", "test", id]).await;
    assert_eq!((code, said.as_str()), (1, "osproxy: the endpoint answered 500"));
    receiver.set_answer(Answer::Status(200, ""));
    eventually("the delivery is listed", async || {
        let (_, said) = cli(&["webhook", "deliveries", id, "--state", "delivered"]).await;
        (said.contains(&first) && said.contains("file.completed")).then_some(())
    })
    .await;
    assert_eq!(cli(&["webhook", "deliveries", id, "--state", "dead"]).await, (0, "none".to_owned()));
    assert_eq!(cli(&["webhook", "disable", id]).await, (0, format!("webhook {id} is disabled")));
    assert_eq!(cli(&["webhook", "enable", id]).await, (0, format!("webhook {id} is enabled")));
    assert_eq!(cli(&["webhook", "replay", id]).await, (0, "0 dead deliveries are due".to_owned()));
    let (code, said) = cli(&["webhook", "replay", id, "--after", "0"]).await;
    assert_eq!((code, said.as_str()), (0, "the events after position 0 are due"));
    eventually("it is delivered again", async || {
        (receiver.accepted().iter().filter(|one| one.uid() == first).count() == 2).then_some(())
    })
    .await;
    assert_eq!(cli(&["webhook", "rm", id]).await, (0, format!("webhook {id} is deleted")));
    assert_eq!(cli(&["webhook", "ls"]).await, (0, "none".to_owned()));
    for (arguments, problem) in [
        (["webhook", "create", "nowhere"], "must be a URL"),
        (["webhook", "show", "1"], "there is no webhook 1"),
        (["webhook", "test", id], "there is no webhook"),
        (["webhook", "rm", id], "there is no webhook"),
    ] {
        let (code, said) = cli(&arguments).await;
        assert!(code == 1 && said.contains(problem), "{said}");
    }
}

#[tokio::test]
async fn the_configuration_file_has_webhooks() {
    let receiver = Receiver::start().await;
    let config = |endpoints: &str| LOCAL.replace('}', &format!(", endpoints: [{endpoints}]}}"));
    let endpoint = |more: &str| format!("{{name: a, url: '{}', secret: {SECRET}{more}}}", receiver.url());
    let mut service = Service::start_configured(&config(&endpoint(", types: [file.completed]"))).await;
    let list: Webhooks = expect_json(service.v1_get("/webhooks").await, 200).await;
    let [webhook] = &list.webhooks[..] else { panic!("{list:?}") };
    assert_eq!(webhook.config_name.as_deref(), Some("a"));
    let uid = service.store("a", b"x").await;
    let message = receiver.wait_for_event("file.completed", &uid).await;
    assert!(super::is_signed(&message, SECRET));
    let path = format!("/webhooks/{}", webhook.id);
    for (method, route, body) in [
        (Method::PATCH, "", Some(json!({"state": "disabled"}))),
        (Method::DELETE, "", None),
        (Method::POST, "/rotate-secret", Some(json!({}))),
    ] {
        let answer = service.v1(method, &format!("{path}{route}"), body.as_ref()).await;
        expect_problem(answer, 409, "webhook_configured").await;
    }
    let (code, said) = service.cli(&["webhook", "rm", &webhook.id]).await;
    assert!(code == 1 && said.contains("in the configuration file"), "{said}");

    // The position is kept when the endpoint changes.
    super::wait_for_delivery(&service, webhook, &uid, |_| true).await;
    std::fs::write(service.folder().join("config.yaml"), config(&endpoint(", types: [file.deleted]")))
        .unwrap();
    service.restart_configured().await;
    let changed = describe(&service, webhook).await;
    assert_eq!(
        (&changed.types[..], changed.position >= message.sequence()),
        (&["file.deleted".to_owned()][..], true)
    );
    std::fs::write(service.folder().join("config.yaml"), config("")).unwrap();
    service.restart_configured().await;
    let list: Webhooks = expect_json(service.v1_get("/webhooks").await, 200).await;
    // Where nodes share a database, another one may still have it in its configuration.
    let is_shared = std::env::var_os("OSPROXY_TEST_DATABASE").is_some();
    let left: Vec<_> = list.webhooks.iter().map(|webhook| webhook.state).collect();
    assert_eq!(left, if is_shared { vec![WebhookState::Disabled] } else { Vec::new() });

    let folder = tempfile::tempdir().unwrap();
    let short = endpoint("").replace(SECRET, "whsec_c2hvcnQ=");
    std::fs::write(folder.path().join("config.yaml"), config(&short)).unwrap();
    let (status, _, said) =
        spawn_failing(folder.path(), &[], &["check-config", "--config", "config.yaml"]).await;
    assert!(!status.success() && said.contains("webhooks.endpoints[0]: a secret must be"), "{said}");
}
