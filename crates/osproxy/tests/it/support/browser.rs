use std::{path::Path, process::Stdio};

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{PATIENCE, eventually};

/// The key of element ids in answers of `WebDriver`.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A headless Chromium with its own profile, driven over `WebDriver`.
pub struct Browser {
    /// The driver is killed on drop. The browser then ends as well.
    _driver: Child,
    session: String,
    client: Client,
    _profile: TempDir,
}

impl Browser {
    pub async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            // Without a locale, it does not find files whose names are not ASCII.
            .env("LC_ALL", "C.UTF-8")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver is not installed");
        let port =
            tokio::time::timeout(PATIENCE, port(&mut driver)).await.expect("chromedriver is not ready");
        let client = Client::builder().timeout(2 * PATIENCE).build().unwrap();
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--remote-debugging-pipe",
            "--window-size=1200,2000",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let url = format!("http://127.0.0.1:{port}/session");
        let answer = client.post(&url).json(&capabilities).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        let id = answer["value"]["sessionId"].as_str().unwrap_or_else(|| panic!("{answer}"));
        Self { _driver: driver, session: format!("{url}/{id}"), client, _profile: profile }
    }

    /// Sends a command to the driver, and returns the answer of the driver.
    async fn command(&self, command: &str, body: &Value) -> Result<Value, Value> {
        let request = self.client.post(format!("{}/{command}", self.session)).json(body);
        let answer = request.send().await.unwrap();
        let is_ok = answer.status().is_success();
        let mut answer: Value = answer.json().await.unwrap();
        if is_ok { Ok(answer["value"].take()) } else { Err(answer) }
    }

    pub async fn open(&self, url: &str) {
        self.command("url", &json!({"url": url})).await.unwrap();
    }

    /// Runs a script that ends with a `return` statement, and returns the value of the statement.
    pub async fn execute(&self, script: &str) -> Value {
        self.command("execute/sync", &json!({"script": script, "args": []})).await.unwrap()
    }

    /// Runs a script, which can use `await`. Returns the value that the script returns, or the
    /// exception that it throws as `Err`.
    pub async fn execute_async(&self, script: &str) -> Result<Value, String> {
        let script = format!(
            "const done = arguments[arguments.length - 1];\
             (async () => {{ {script} }})().then(value => done({{value}}), why => done({{why: String(why)}}))"
        );
        let mut answer = self.command("execute/async", &json!({"script": script, "args": []})).await.unwrap();
        match answer["why"].as_str() {
            Some(why) => Err(why.to_owned()),
            None => Ok(answer["value"].take()),
        }
    }

    /// Runs `what` while commands refer to the frame that a CSS selector names.
    pub async fn in_frame<T>(&self, selector: &str, what: impl AsyncFnOnce() -> T) -> T {
        let found =
            self.command("element", &json!({"using": "css selector", "value": selector})).await.unwrap();
        self.command("frame", &json!({"id": found})).await.unwrap();
        let made = what().await;
        self.command("frame", &json!({"id": null})).await.unwrap();
        made
    }

    /// The number of red pixels in a screenshot. A screenshot also shows content that scripts
    /// cannot access.
    pub async fn red_pixels(&self) -> u64 {
        let picture = self.client.get(format!("{}/screenshot", self.session)).send().await.unwrap();
        let picture: Value = picture.json().await.unwrap();
        // Decode the screenshot in a page of another window.
        let here = self.client.get(format!("{}/window", self.session)).send().await.unwrap();
        let here: Value = here.json().await.unwrap();
        let window = self.command("window/new", &json!({"type": "tab"})).await.unwrap();
        self.command("window", &json!({"handle": window["handle"]})).await.unwrap();
        let script = format!(
            "const picture = new Image();
             picture.src = 'data:image/png;base64,' + {};
             await picture.decode();
             const canvas = document.createElement('canvas');
             [canvas.width, canvas.height] = [picture.width, picture.height];
             const context = canvas.getContext('2d');
             context.drawImage(picture, 0, 0);
             const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
             let red = 0;
             for (let at = 0; at < pixels.length; at += 4) {{
                 if (pixels[at] > 200 && pixels[at + 1] < 60 && pixels[at + 2] < 60) red++;
             }}
             return red;",
            picture["value"]
        );
        let red = self.execute_async(&script).await.unwrap().as_u64().unwrap();
        self.client.delete(format!("{}/window", self.session)).send().await.unwrap();
        self.command("window", &json!({"handle": here["value"]})).await.unwrap();
        red
    }

    /// Chooses a file in the file field that a CSS selector names.
    pub async fn choose_file(&self, selector: &str, file: &Path) {
        self.fill(selector, file.to_str().unwrap()).await;
    }

    /// Types text into the field that a CSS selector names.
    pub async fn fill(&self, selector: &str, text: &str) {
        let found =
            self.command("element", &json!({"using": "css selector", "value": selector})).await.unwrap();
        let id = found[ELEMENT].as_str().unwrap();
        self.command(&format!("element/{id}/value"), &json!({"text": text})).await.unwrap();
    }

    /// Clicks on the element that a CSS selector names, once the element is visible and not
    /// covered.
    pub async fn click(&self, selector: &str) {
        eventually(&format!("{selector} can be clicked"), async || {
            let found =
                self.command("element", &json!({"using": "css selector", "value": selector})).await.ok()?;
            let id = found[ELEMENT].as_str()?;
            self.command(&format!("element/{id}/click"), &json!({})).await.ok()
        })
        .await;
    }

    /// Waits until an element that a CSS selector names contains this text.
    pub async fn wait_for_text(&self, selector: &str, text: &str) {
        let (quoted, wanted) = (Value::from(selector), Value::from(text));
        let script = format!(
            "return [...document.querySelectorAll({quoted})].some(found => found.innerText.includes({wanted}))"
        );
        eventually(&format!("{selector} says {text}"), async || {
            (self.execute(&script).await == Value::Bool(true)).then_some(())
        })
        .await;
    }

    /// Errors on the console since the previous call: resources that a policy blocked or that were
    /// not found, and exceptions of scripts.
    pub async fn console_messages(&self) -> Vec<Value> {
        let log = self.command("se/log", &json!({"type": "browser"})).await.unwrap();
        let entries = log.as_array().unwrap().iter();
        entries.filter(|entry| entry["level"] == "SEVERE").cloned().collect()
    }
}

/// Waits until the driver prints its port, and returns the port.
async fn port(driver: &mut Child) -> u16 {
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some((_, port)) = line.rsplit_once("started successfully on port ") {
            return port.trim_end_matches('.').parse().unwrap();
        }
    }
    panic!("chromedriver did not start");
}
