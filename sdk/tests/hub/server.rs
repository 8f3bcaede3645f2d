//! A server on 127.0.0.1 that answers as a test tells it, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a server was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Asked {
    /// From which byte on the content is wanted.
    pub fn from(&self) -> Option<usize> {
        let range = self.headers.get("range")?;
        let from = range.strip_prefix("bytes=")?.strip_suffix('-')?;
        Some(from.parse().unwrap())
    }

    pub fn has_token(&self) -> bool {
        self.headers.contains_key("authorization")
    }
}

/// What it answers.
#[derive(Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Bytes after which the connection is cut.
    pub cut: Option<usize>,
}

impl Answer {
    pub fn of(body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: 200,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// A part of the content, as `asked` wants it.
    pub fn part(content: &[u8], asked: &Asked) -> Self {
        let Some(from) = asked.from() else {
            return Self::of(content);
        };
        let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
        Self {
            status: 206,
            ..Self::of(&content[from..]).with("Content-Range", range)
        }
    }
}

pub struct Server {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// A server that lives as long as the tests.
    pub fn new(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (asked.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (log.clone(), answer.clone());
                thread::spawn(move || talk(stream, &log, answer.as_ref()));
            }
        });
        Self { address, asked }
    }

    /// What it was asked since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

/// One question and its answer; the connection is closed then.
fn talk(stream: TcpStream, log: &Mutex<Vec<Asked>>, answer: &dyn Fn(&Asked) -> Answer) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else {
        return;
    };
    let mut words = first.split(' ').map(str::to_string);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let headers = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_string()))
        })
        .collect();
    let asked = Asked {
        method,
        path,
        headers,
    };
    let answer = answer(&asked);
    let bodiless = asked.method == "HEAD";
    log.lock().unwrap().push(asked);
    let mut out = format!(
        "HTTP/1.1 {} Said\r\nConnection: close\r\nContent-Length: {}\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        out.push_str(&format!("{name}: {value}\r\n"));
    }
    out.push_str("\r\n");
    let body = match bodiless {
        true => &[],
        false => &answer.body[..answer.cut.unwrap_or(answer.body.len())],
    };
    let mut stream = stream;
    // A client that has heard enough may have gone.
    let _ = stream.write_all(out.as_bytes());
    let _ = stream.write_all(body);
}
