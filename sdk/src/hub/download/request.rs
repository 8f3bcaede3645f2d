//! Requests to the hub, and to where it redirects.
//!
//! Owns the way of one request: redirects, who sees the token, and what an answer's status means.

use std::fmt;
use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderName, Method, Request, Response, Uri, header};
use ureq::{Agent, Body as Content, BodyReader};

use crate::hub::{Away, HubError, HubId, HubOptions};

/// Longest time without a byte, and longest time to connect.
const PATIENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);

/// Redirects in a row.
const MOST_REDIRECTS: usize = 8;

const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");
const LINKED_ETAG: HeaderName = HeaderName::from_static("x-linked-etag");
const LINKED_SIZE: HeaderName = HeaderName::from_static("x-linked-size");

/// Connections to a hub.
pub(super) struct Requests(Agent);

/// What the hub says of a file.
pub(super) struct Head {
    /// The mark of its content, fit for a file's name.
    pub etag: String,
    /// Its length in bytes, where the hub says.
    pub size: Option<u64>,
}

impl Head {
    /// Whether the mark is a SHA-256, as it is of large files.
    pub fn is_digest(&self) -> bool {
        self.etag.len() == 64
    }
}

/// A file's bytes from `start` on.
pub(super) struct Body {
    pub bytes: BodyReader<'static>,
    pub start: u64,
}

/// What is asked for, and by whom.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub options: &'a HubOptions,
    pub id: &'a HubId,
    /// None for the listing.
    pub file: Option<&'a str>,
}

/// How far redirects are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One to another host is the answer.
    AtHub,
    /// All, for the content from this byte on.
    ToEnd(u64),
}

impl Requests {
    pub fn new() -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here: who may see the token depends on where one leads.
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_per_read(Some(PATIENCE))
            .timeout_per_write(Some(PATIENCE))
            .user_agent(concat!("twinspan/", env!("CARGO_PKG_VERSION")))
            .build();
        Self(agent.new_agent())
    }

    /// The bytes of an answer of at most `longest`; a longer one is cut.
    pub fn short(&self, question: Question, url: &str, longest: u64) -> Result<Vec<u8>, HubError> {
        let answer = self.follow(question, Method::GET, url, Way::ToEnd(0))?;
        let mut bytes = Vec::new();
        answer
            .into_body()
            .into_reader()
            .take(longest)
            .read_to_end(&mut bytes)
            .map_err(|error| question.unreachable(error))?;
        Ok(bytes)
    }

    /// What the hub says of the file at `url`.
    pub fn head(&self, question: Question, url: &str) -> Result<Head, HubError> {
        let answer = self.follow(question, Method::HEAD, url, Way::AtHub)?;
        let linked = text(&answer, LINKED_ETAG).or_else(|| text(&answer, header::ETAG));
        let etag = linked.unwrap_or_default();
        let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        if etag.is_empty() || etag.len() > 128 || !etag.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(question.answer("it has no ETag that marks the content"));
        }
        // The length of a redirect is not the file's.
        let own = || text(&answer, header::CONTENT_LENGTH).filter(|_| answer.status().is_success());
        let size = text(&answer, LINKED_SIZE).or_else(own);
        Ok(Head {
            etag: etag.to_ascii_lowercase(),
            size: size.and_then(|size| size.parse().ok()),
        })
    }

    /// The bytes of the file at `url` from `from` on, or from the start where the host cannot
    /// begin in the middle.
    pub fn body(&self, question: Question, url: &str, from: u64) -> Result<Body, HubError> {
        let answer = self.follow(question, Method::GET, url, Way::ToEnd(from))?;
        let start = match answer.status().as_u16() {
            206 => from,
            _ => 0,
        };
        let range = text(&answer, header::CONTENT_RANGE).unwrap_or_default();
        if start > 0 && !range.starts_with(&format!("bytes {start}-")) {
            return Err(question.answer("it is not the part that was asked for"));
        }
        Ok(Body {
            bytes: answer.into_body().into_reader(),
            start,
        })
    }

    /// The answer to a request.
    fn follow(
        &self,
        question: Question,
        method: Method,
        url: &str,
        way: Way,
    ) -> Result<Response<Content>, HubError> {
        let hub = question.uri(&question.options.endpoint)?;
        let mut here = question.uri(url)?;
        for _ in 0..MOST_REDIRECTS {
            let at_hub = same_host(&hub, &here);
            let answer = self.ask(question, method.clone(), &here, at_hub, way)?;
            let status = answer.status();
            if !status.is_redirection() {
                return question.check(answer, at_hub);
            }
            let Some(to) = text(&answer, header::LOCATION) else {
                return Err(question.answer("it redirects nowhere"));
            };
            let next = question.uri(&joined(&here, to))?;
            if way == Way::AtHub && !same_host(&hub, &next) {
                return Ok(answer);
            }
            if here.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(question.answer("it redirects to where nothing is encrypted"));
            }
            here = next;
        }
        Err(question.answer("it redirects without end"))
    }

    fn ask(
        &self,
        question: Question,
        method: Method,
        uri: &Uri,
        at_hub: bool,
        way: Way,
    ) -> Result<Response<Content>, HubError> {
        let mut request = Request::builder()
            .method(method)
            .uri(uri.clone())
            .header(header::ACCEPT_ENCODING, "identity");
        if let Way::ToEnd(from @ 1..) = way {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        if let Some(token) = question.options.token.as_ref().filter(|_| at_hub) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.secret()));
        }
        // Of all parts only the token is of unknown letters.
        let request = request.body(()).map_err(|_| HubError::Token)?;
        self.0
            .run(request)
            .map_err(|error| question.unreachable(error))
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Requests")
    }
}

impl Question<'_> {
    /// An answer that is one; an error says what its status means.
    fn check(self, answer: Response<Content>, at_hub: bool) -> Result<Response<Content>, HubError> {
        let status = answer.status().as_u16();
        let host = self.options.endpoint.clone();
        let model = self.id.model().to_string();
        if answer.status().is_success() {
            return Ok(answer);
        }
        if status == 429 || status >= 500 || !at_hub {
            return Err(self.unreachable(format!("it answers {status}")));
        }
        let code = text(&answer, ERROR_CODE);
        Err(match (status, code, self.file) {
            (401 | 403, ..) => HubError::Refused {
                model,
                host,
                status,
                token: self.options.token.is_some(),
            },
            (404, Some("RevisionNotFound"), _) => HubError::NoSuchRevision {
                model,
                revision: self.id.revision().into(),
                host,
            },
            (404, Some("RepoNotFound"), _) | (404, _, None) => {
                HubError::NoSuchModel { model, host }
            }
            (404, _, Some(file)) => HubError::NoSuchFile {
                id: self.id.to_string(),
                file: file.into(),
                host,
            },
            _ => self.answer(&format!("its status is {status}")),
        })
    }

    fn uri(self, text: &str) -> Result<Uri, HubError> {
        let uri: Option<Uri> = text.parse().ok();
        uri.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")))
            .ok_or_else(|| self.answer("an address is none, of http or https"))
    }

    /// What the hub says makes no sense.
    pub fn answer(self, problem: &str) -> HubError {
        HubError::Answer {
            host: self.options.endpoint.clone(),
            what: match self.file {
                Some(file) => format!("{file} of `{}`", self.id),
                None => format!("the files of `{}`", self.id),
            },
            problem: problem.into(),
        }
    }

    fn unreachable(self, cause: impl fmt::Display) -> HubError {
        HubError::Away(Away::Unreachable {
            host: self.options.endpoint.clone(),
            cause: cause.to_string(),
        })
    }
}

/// Whether two addresses are of one host, port and protocol.
fn same_host(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme() && one.host() == other.host() && port(one) == port(other)
}

fn port(uri: &Uri) -> u16 {
    let usual = match uri.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    uri.port_u16().unwrap_or(usual)
}

/// Where `to` leads from `here`.
fn joined(here: &Uri, to: &str) -> String {
    let scheme = here.scheme_str().unwrap_or("https");
    let authority = here.authority().map_or("", |authority| authority.as_str());
    match to {
        _ if to.starts_with("//") => format!("{scheme}:{to}"),
        _ if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
        _ => to.to_string(),
    }
}

fn text(answer: &Response<Content>, name: HeaderName) -> Option<&str> {
    answer.headers().get(name)?.to_str().ok()
}
