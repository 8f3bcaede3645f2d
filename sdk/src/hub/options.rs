//! What the environment says of the hub.
//!
//! Owns the variables that every program of the hub reads, and their defaults.

use std::env;
use std::fmt;
use std::fs;
use std::path::PathBuf;

/// The public hub.
const ENDPOINT: &str = "https://huggingface.co";

/// Where the hub and its cache are, and who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubOptions {
    /// The folder of the cache, as every program of the hub lays it out.
    pub cache: PathBuf,
    /// Address of the hub, without a slash at the end.
    pub endpoint: String,
    /// Says who asks; private and gated models need one. It is sent to the endpoint alone.
    pub token: Option<Token>,
    /// Whether the network is left alone.
    pub offline: bool,
}

/// A secret that no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token that `text` is, less white space at its ends; none where nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.into()))
    }

    #[cfg(feature = "hub")]
    pub(super) fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl HubOptions {
    /// What the environment says: `HF_HUB_CACHE`, or `HF_HOME` with `/hub` behind it, or
    /// `~/.cache/huggingface/hub` (`XDG_CACHE_HOME` in place of `~/.cache`); `HF_ENDPOINT`, or
    /// `https://huggingface.co`; `HF_TOKEN`, or the file that `HF_TOKEN_PATH` names, or `token` in
    /// `HF_HOME`; and `HF_HUB_OFFLINE` (`1`, `true`, `yes`, `on`). An empty variable is an unset
    /// one.
    pub fn from_env() -> Self {
        Self::from_variables(|name| env::var(name).ok())
    }

    /// The same of variables that `value` looks up.
    pub fn from_variables(value: impl Fn(&str) -> Option<String>) -> Self {
        let value = |name: &str| value(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| value(name).map(PathBuf::from);
        let home = path("HF_HOME").unwrap_or_else(|| {
            let user = || env::home_dir().unwrap_or_default().join(".cache");
            path("XDG_CACHE_HOME")
                .unwrap_or_else(user)
                .join("huggingface")
        });
        let token = value("HF_TOKEN").or_else(|| {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            fs::read_to_string(file).ok()
        });
        let endpoint = value("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let offline = value("HF_HUB_OFFLINE").unwrap_or_default();
        Self {
            cache: path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            endpoint: endpoint.trim().trim_end_matches('/').into(),
            token: token.as_deref().and_then(Token::new),
            offline: ["1", "true", "yes", "on"].contains(&offline.trim().to_lowercase().as_str()),
        }
    }
}
