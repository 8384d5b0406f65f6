//! A headless browser, spoken to over the Chrome DevTools Protocol.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod opened;

use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use data_encoding::BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;
use tungstenite::{Message, WebSocket};

const NAMES: [&str; 5] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"];
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page, which ends with this value.
pub(crate) struct Browser {
    child: Child,
    socket: WebSocket<TcpStream>,
    /// The page's number in what is said.
    session: Value,
    said: u64,
    events: Vec<Value>,
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser. `None`: this machine has none.
    pub(crate) fn start() -> Option<Self> {
        let program = find()?;
        let profile = TempDir::new().expect("a directory");
        let child = Command::new(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars"])
            .args(["--disable-dev-shm-usage", "--remote-debugging-port=0", "--window-size=1280,800"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a browser");
        let (port, path) = endpoint(profile.path());
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the browser listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let address = format!("ws://127.0.0.1:{port}{path}");
        let (socket, _) = tungstenite::client(address, stream).expect("a handshake");
        let mut browser =
            Self { child, socket, session: Value::Null, said: 0, events: Vec::new(), _profile: profile };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}))["targetId"].take();
        let attached = browser.call("Target.attachToTarget", &json!({"targetId": target, "flatten": true}));
        browser.session = attached["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    /// The same; where there is none, with a line that says so.
    pub(crate) fn start_or_say() -> Option<Self> {
        let browser = Self::start();
        if browser.is_none() {
            // Past the harness, which would keep it to itself.
            writeln!(std::io::stderr(), "no browser here, the page is not looked at").ok();
        }
        browser
    }

    /// Opens a file, with what stands behind `#` in its address.
    pub(crate) fn open(&mut self, file: &Path, hash: &str) {
        // Another address that differs behind `#` only would not load the file again.
        for url in ["about:blank".to_owned(), format!("file://{}{hash}", file.display())] {
            let before = self.events.len();
            self.call("Page.navigate", &json!({"url": url}));
            self.wait_for("Page.loadEventFired", before);
        }
    }

    /// The value of an expression in the page; a promise is waited for.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let said = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", &said);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer:#}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression in the page is true.
    pub(crate) fn wait_until(&mut self, expression: &str) {
        let begin = Instant::now();
        while self.value(expression) != true {
            assert!(begin.elapsed() < PATIENCE, "never: {expression}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Presses a key: a letter, or a name such as `ArrowDown`.
    pub(crate) fn press(&mut self, key: &str) {
        let text = match key {
            "Enter" => "\r",
            letter if letter.chars().count() == 1 => letter,
            _ => "",
        };
        for (kind, text) in [("keyDown", text), ("keyUp", "")] {
            self.call("Input.dispatchKeyEvent", &json!({"type": kind, "key": key, "text": text}));
        }
        self.settle();
    }

    /// Moves the pointer to the middle of the first element that this selects.
    pub(crate) fn point_at(&mut self, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const box = document.querySelector({selector:?}).getBoundingClientRect(); \
             return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        ));
        let moved = json!({"type": "mouseMoved", "x": place[0], "y": place[1]});
        self.call("Input.dispatchMouseEvent", &moved);
        self.settle();
    }

    /// Makes the window so large, and says which colours are preferred: `light` or `dark`.
    pub(crate) fn look(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", &json!({"features": features}));
        self.settle();
    }

    /// What the page has asked for beside files that it was told to open.
    pub(crate) fn requests(&self) -> Vec<String> {
        let urls = self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        let urls = urls.map(|event| event["params"]["request"]["url"].as_str().unwrap_or("?").to_owned());
        urls.filter(|url| !url.starts_with("file://") && !url.starts_with("data:")).collect()
    }

    /// What was thrown, logged, or complained about.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let complaints = ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"];
        let is_one = |event: &&Value| complaints.iter().any(|method| event["method"] == *method);
        self.events.iter().filter(is_one).map(|event| event["params"].to_string()).collect()
    }

    /// Puts a picture of the page into a directory, if `HUGEWALK_SCREENSHOTS` names one.
    pub(crate) fn picture(&mut self, name: &str) {
        let Some(directory) = env::var_os("HUGEWALK_SCREENSHOTS") else { return };
        let path = PathBuf::from(directory).join(name).with_extension("png");
        let picture = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        let picture =
            BASE64.decode(picture["data"].as_str().expect("a picture").as_bytes()).expect("base 64");
        fs::write(path, picture).expect("written");
    }

    /// Waits until the page has been drawn.
    fn settle(&mut self) {
        self.value(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))",
        );
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.said += 1;
        let mut message = json!({"id": self.said, "method": method, "params": parameters});
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.socket.send(Message::text(message.to_string())).expect("the browser listens");
        loop {
            let mut answer = self.hear();
            if answer["id"] == self.said {
                assert!(answer.get("error").is_none(), "{method}: {answer:#}");
                return answer["result"].take();
            }
            self.events.push(answer);
        }
    }

    /// Waits for an event that is none of the first `before`.
    fn wait_for(&mut self, method: &str, before: usize) {
        while !self.events[before..].iter().any(|event| event["method"] == method) {
            let event = self.hear();
            self.events.push(event);
        }
    }

    fn hear(&mut self) -> Value {
        loop {
            if let Message::Text(text) = self.socket.read().expect("the browser answers") {
                return serde_json::from_str(&text).expect("JSON");
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let close = json!({"id": 0, "method": "Browser.close"});
        let _ = self.socket.send(Message::text(close.to_string()));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find() -> Option<PathBuf> {
    let directories: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    let all = NAMES.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    all.into_iter().find(|path| path.is_file())
}

/// Where the browser listens: it writes that into its profile when it is ready.
fn endpoint(profile: &Path) -> (u16, String) {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let text = fs::read_to_string(profile.join("DevToolsActivePort")).unwrap_or_default();
        if let Some((port, path)) = text.split_once('\n') {
            return (port.parse().expect("a port"), path.trim().to_owned());
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("the browser does not say where it listens");
}
