//! From a URI to a place: pure parsing, everything that is refused is refused by name.
//!
//! Never reads the environment, never puts the value of a parameter into a message: a user may have
//! put a secret there.

use crate::error::{Error, Result};
use crate::settings::StorageEnvironment;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::path::{Component, PathBuf};
use url::Url;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provider {
    S3,
    Google,
    Azure,
}

impl Provider {
    fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::S3 => &["region", "endpoint", "path_style"],
            Self::Google => &["endpoint"],
            Self::Azure => &["account", "endpoint"],
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub provider: Provider,
    pub name: String,
    pub prefix: Path,
    pub parameters: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Local(PathBuf),
    Memory(String),
    Bucket(Bucket),
}

pub(super) fn plan_place(uri: &str, environment: &StorageEnvironment) -> Result<Place> {
    let uri = uri.trim();
    let Some((scheme, rest)) = uri.split_once("://") else {
        return plan_path(uri, environment).map(Place::Local);
    };
    match scheme.to_ascii_lowercase().as_str() {
        "local" => plan_path(rest, environment).map(Place::Local),
        "file" => plan_file(uri, rest, environment).map(Place::Local),
        "memory" if rest.contains(['?', '#', '@']) => Err(Error::rejected(
            "memory:// takes a name and nothing else, as in memory://test",
        )),
        "memory" => Ok(Place::Memory(rest.trim_end_matches('/').into())),
        "s3" | "s3a" => plan_bucket(uri, Provider::S3).map(Place::Bucket),
        "gs" => plan_bucket(uri, Provider::Google).map(Place::Bucket),
        "az" | "abfs" | "abfss" => plan_bucket(uri, Provider::Azure).map(Place::Bucket),
        _ => Err(Error::rejected(format!(
            "storage scheme {scheme}:// is unknown; use a path, file://, s3://, gs://, az:// or memory://"
        ))),
    }
}

/// A path as people type it: `~` is the home directory, a relative one starts where the process does.
fn plan_path(text: &str, environment: &StorageEnvironment) -> Result<PathBuf> {
    if text.is_empty() || text.contains('\0') {
        return Err(Error::rejected(
            "the storage path is empty; name a directory",
        ));
    }
    let home = || {
        environment.home.clone().ok_or_else(|| {
            Error::rejected("~ stands for no directory: HOME is not set; write the path out")
        })
    };
    let path = match text.strip_prefix('~') {
        Some("") => home()?,
        Some(rest) if rest.starts_with('/') => home()?.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(text),
    };
    let absolute = match (path.is_absolute(), &environment.working_directory) {
        (true, _) => path,
        (false, Some(directory)) => directory.join(path),
        (false, None) => {
            let message = format!("storage path {text:?} is relative; write the path out");
            return Err(Error::rejected(message));
        }
    };
    let mut plain = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    Ok(plain)
}

fn plan_file(uri: &str, rest: &str, environment: &StorageEnvironment) -> Result<PathBuf> {
    if rest.starts_with('~') {
        return plan_path(rest, environment);
    }
    let url = parse_url(uri)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Error::rejected("file:// takes no parameters"));
    }
    url.to_file_path().map_err(|()| {
        Error::rejected("file:// wants an absolute path on this machine, as in file:///data/meadow")
    })
}

fn parse_url(uri: &str) -> Result<Url> {
    // The parser's reason never quotes its input.
    Url::parse(uri).map_err(|error| Error::rejected(format!("the storage URI is invalid: {error}")))
}

fn plan_bucket(uri: &str, provider: Provider) -> Result<Bucket> {
    let url = parse_url(uri)?;
    let mut parameters = plan_parameters(&url, provider)?;
    let host = url
        .host_str()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| {
            Error::rejected("the storage URI names no bucket; write s3://bucket/prefix")
        })?;
    // abfss://container@account.dfs.core.windows.net/prefix
    let is_container = provider == Provider::Azure && !url.username().is_empty();
    if url.password().is_some() || (!url.username().is_empty() && !is_container) {
        return Err(no_credentials());
    }
    let name = if is_container {
        let account = host.split('.').next().unwrap_or(host);
        parameters
            .entry("account".into())
            .or_insert_with(|| account.into());
        url.username().to_string()
    } else {
        host.to_string()
    };
    let prefix = Path::from_url_path(url.path().trim_matches('/')).map_err(|error| {
        Error::rejected(format!("the prefix in the storage URI is invalid: {error}"))
    })?;
    Ok(Bucket {
        provider,
        name,
        prefix,
        parameters,
    })
}

fn plan_parameters(url: &Url, provider: Provider) -> Result<BTreeMap<String, String>> {
    if url.fragment().is_some() {
        return Err(Error::rejected(
            "the storage URI has a #fragment; encode # as %23",
        ));
    }
    let mut parameters = BTreeMap::new();
    for (key, value) in url.query_pairs() {
        let folded = key.to_ascii_lowercase();
        if ["key", "secret", "token", "password", "sas", "sig"]
            .iter()
            .any(|word| folded.contains(word))
        {
            return Err(no_credentials());
        }
        if !provider.parameters().contains(&key.as_ref()) {
            let known = provider.parameters().join(", ");
            let message = format!("storage parameter {key:?} is unknown; known are: {known}");
            return Err(Error::rejected(message));
        }
        if parameters
            .insert(key.to_string(), value.to_string())
            .is_some()
        {
            return Err(Error::rejected(format!(
                "storage parameter {key:?} is given twice"
            )));
        }
    }
    Ok(parameters)
}

fn no_credentials() -> Error {
    Error::rejected(
        "the storage URI holds credentials, which end up in logs and shell histories; put them into \
         the environment (AWS_ACCESS_KEY_ID, …) or the cloud's own files",
    )
}

/// `true` or `false` of a parameter.
pub(super) fn parse_flag(key: &str, value: &str) -> Result<bool> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Error::rejected(format!(
            "storage parameter {key:?} is true or false"
        ))),
    }
}

/// An HTTP endpoint without credentials.
pub(super) fn parse_endpoint(text: &str) -> Result<Url> {
    let wanted = || Error::rejected("a storage endpoint is an http:// or https:// URL of a host");
    let url = Url::parse(text).map_err(|_| wanted())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wanted());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(no_credentials());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> StorageEnvironment {
        StorageEnvironment {
            home: Some("/home/bee".into()),
            working_directory: Some("/work".into()),
            ..Default::default()
        }
    }

    fn place(uri: &str) -> Place {
        plan_place(uri, &environment()).unwrap()
    }

    fn refusal(uri: &str) -> String {
        plan_place(uri, &environment()).unwrap_err().to_string()
    }

    #[test]
    fn every_way_to_write_a_directory_is_understood() {
        for (uri, path) in [
            ("/data/a", "/data/a"),
            ("data/a/", "/work/data/a"),
            ("./a/../b", "/work/b"),
            ("~", "/home/bee"),
            ("~/hive", "/home/bee/hive"),
            ("local://~/hive", "/home/bee/hive"),
            ("local:///data", "/data"),
            ("file:///data/with%20space", "/data/with space"),
            ("file://~/hive", "/home/bee/hive"),
        ] {
            assert_eq!(place(uri), Place::Local(path.into()), "{uri}");
        }
    }

    #[test]
    fn a_bucket_has_a_name_a_prefix_and_known_parameters() {
        let uri = "s3://bucket/a/b%20c/?region=eu&endpoint=http://127.0.0.1:9&path_style=true";
        let Place::Bucket(bucket) = place(uri) else {
            panic!("no bucket")
        };
        assert_eq!(
            (bucket.provider, bucket.name.as_str()),
            (Provider::S3, "bucket")
        );
        assert_eq!(bucket.prefix.as_ref(), "a/b c");
        assert_eq!(bucket.parameters["region"], "eu");
        assert_eq!(bucket.parameters["endpoint"], "http://127.0.0.1:9");
        let Place::Bucket(azure) = place("abfss://box@farm.dfs.core.windows.net/x") else {
            panic!("no bucket")
        };
        assert_eq!(
            (azure.name.as_str(), azure.parameters["account"].as_str()),
            ("box", "farm")
        );
    }

    #[test]
    fn unknown_parameters_are_refused_by_name() {
        assert!(refusal("s3://b?regoin=eu").contains("\"regoin\""));
        assert!(refusal("s3://b?region=a&region=b").contains("twice"));
        assert!(refusal("ftp://b").contains("ftp://"));
    }

    #[test]
    fn credentials_in_a_uri_are_refused_and_not_repeated() {
        for uri in [
            "s3://AKIA:hunter2@bucket/x",
            "s3://hunter2@bucket/x",
            "s3://bucket?secret_access_key=hunter2",
            "az://c:hunter2@account.dfs.core.windows.net/",
        ] {
            let refusal = refusal(uri);
            assert!(refusal.contains("credentials"), "{refusal}");
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
        assert!(parse_endpoint("http://user:hunter2@host").is_err());
    }

    #[test]
    fn places_that_lead_nowhere_are_refused() {
        for uri in [
            "",
            "s3://",
            "s3:///x",
            "file://host/x",
            "file:///x?y=1",
            "memory://a?b=c",
        ] {
            refusal(uri);
        }
        assert!(plan_place("relative", &StorageEnvironment::default()).is_err());
        assert!(plan_place("~/x", &StorageEnvironment::default()).is_err());
    }
}
