//! Buckets: S3 and what speaks like it, Google Cloud Storage, Azure.
//!
//! `object_store` retries nothing here, because it would send a conditional put again without
//! saying so; `retry` does it above. All network I/O runs on the control runtime, whoever asks.

use super::open::{Bucket, Provider, parse_endpoint, parse_flag};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::settings::Settings;
use object_store::aws::AmazonS3Builder;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::SpawnedReqwestConnector;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::multipart::MultipartStore;
use object_store::prefix::PrefixStore;
use object_store::{ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider};
use std::sync::Arc;
use url::{Host as UrlHost, Url};

/// One store under the two traits that it is used through.
pub(super) struct Opened {
    pub store: Arc<dyn ObjectStore>,
    pub multipart: Arc<dyn MultipartStore>,
}

pub(super) fn open(bucket: &Bucket, host: &Host, settings: &Settings) -> Result<Opened> {
    match bucket.provider {
        Provider::S3 => open_s3(bucket, host, settings),
        Provider::Google => open_google(bucket, host, settings),
        Provider::Azure => open_azure(bucket, host, settings),
    }
}

fn prefixed<T: ObjectStore + MultipartStore>(store: T, bucket: &Bucket) -> Opened {
    let store = Arc::new(PrefixStore::new(store, bucket.prefix.clone()));
    Opened {
        store: Arc::clone(&store) as _,
        multipart: store,
    }
}

fn options(settings: &Settings, allow_http: bool) -> ClientOptions {
    ClientOptions::new()
        .with_timeout(settings.storage_deadline())
        .with_allow_http(allow_http)
}

fn no_retry() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        ..Default::default()
    }
}

/// The variables of a cloud, by their lower-case names.
fn variables<'a>(settings: &'a Settings, prefix: &str) -> Vec<(String, &'a str)> {
    let all = settings.storage.variables.iter();
    all.filter(|(name, _)| name.starts_with(prefix))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
        .collect()
}

/// As `object_store` reads flags.
fn says_yes(value: Option<String>) -> bool {
    let value = value.unwrap_or_default().to_ascii_lowercase();
    ["1", "true", "on", "yes", "y"].contains(&&*value)
}

fn failed(bucket: &Bucket, error: object_store::Error) -> Error {
    Error::rejected(format!(
        "bucket {:?} cannot be opened: {error}",
        bucket.name
    ))
}

/// Plain HTTP shows data and signatures to the network: only for an endpoint that the URI spells
/// out, for this machine, or when the environment says so.
fn allows_http(endpoint: &Url, is_in_uri: bool, settings: &Settings, variable: &str) -> bool {
    let loopback = match endpoint.host() {
        Some(UrlHost::Domain(name)) => name == "localhost",
        Some(UrlHost::Ipv4(address)) => address.is_loopback(),
        Some(UrlHost::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let said = settings.storage.variables.get(variable);
    is_in_uri || loopback || said.is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn endpoint_of(
    bucket: &Bucket,
    settings: &Settings,
    names: &[&str],
    allow_variable: &str,
) -> Result<Option<(Url, bool)>> {
    let in_uri = bucket.parameters.get("endpoint");
    let given = names
        .iter()
        .find_map(|name| settings.storage.variables.get(*name));
    let Some(text) = in_uri.or(given) else {
        return Ok(None);
    };
    let endpoint = parse_endpoint(text)?;
    let is_plain = endpoint.scheme() == "http";
    if is_plain && !allows_http(&endpoint, in_uri.is_some(), settings, allow_variable) {
        return Err(Error::rejected(format!(
            "the storage endpoint from the environment is plain http://; use https://, write it into \
             the URI as ?endpoint=, or set {allow_variable}=true"
        )));
    }
    Ok(Some((endpoint, is_plain)))
}

fn open_s3(bucket: &Bucket, host: &Host, settings: &Settings) -> Result<Opened> {
    let names = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"];
    let endpoint = endpoint_of(bucket, settings, &names, "AWS_ALLOW_HTTP")?;
    let is_plain = endpoint.as_ref().is_some_and(|(_, is_plain)| *is_plain);
    let mut builder = AmazonS3Builder::new().with_client_options(options(settings, is_plain));
    for (name, value) in variables(settings, "AWS_") {
        if name.starts_with("aws_endpoint") && !name.ends_with("sts") || name == "aws_allow_http" {
            continue;
        }
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(region) = bucket.parameters.get("region") {
        builder = builder.with_region(region);
    }
    let path_style = bucket.parameters.get("path_style");
    let path_style = path_style
        .map(|value| parse_flag("path_style", value))
        .transpose()?;
    if let Some(path_style) = path_style {
        builder = builder.with_virtual_hosted_style_request(!path_style);
    }
    if let Some((mut endpoint, _)) = endpoint {
        if path_style == Some(false) {
            // The library takes the endpoint of a virtual host as it is.
            let name = format!(
                "{}.{}",
                bucket.name,
                endpoint.host_str().unwrap_or_default()
            );
            endpoint.set_host(Some(&name)).map_err(|error| {
                Error::rejected(format!(
                    "no virtual host {name:?}: {error}; use path_style=true"
                ))
            })?;
        }
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/'));
    }
    let store = builder
        .with_bucket_name(&bucket.name)
        .with_retry(no_retry())
        .with_http_connector(SpawnedReqwestConnector::new(host.runtimes.control.clone()))
        .build()
        .map_err(|error| failed(bucket, error))?;
    Ok(prefixed(store, bucket))
}

fn open_google(bucket: &Bucket, host: &Host, settings: &Settings) -> Result<Opened> {
    let names = ["GOOGLE_BASE_URL", "GOOGLE_ENDPOINT_URL"];
    let endpoint = endpoint_of(bucket, settings, &names, "GOOGLE_ALLOW_HTTP")?;
    let is_plain = endpoint.as_ref().is_some_and(|(_, is_plain)| *is_plain);
    let mut builder =
        GoogleCloudStorageBuilder::new().with_client_options(options(settings, is_plain));
    for (name, value) in variables(settings, "GOOGLE_") {
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some((endpoint, _)) = endpoint {
        builder = builder.with_base_url(endpoint.as_str().trim_end_matches('/'));
    }
    if says_yes(builder.get_config_value(&GoogleConfigKey::SkipSignature)) {
        // Without any, the library would still ask for a token before each write.
        let nobody = GcpCredential {
            bearer: String::new(),
        };
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(nobody)));
    }
    let store = builder
        .with_bucket_name(&bucket.name)
        .with_retry(no_retry())
        .with_http_connector(SpawnedReqwestConnector::new(host.runtimes.control.clone()))
        .build()
        .map_err(|error| failed(bucket, error))?;
    Ok(prefixed(store, bucket))
}

/// What Azure's own command line calls things, and the library.
const AZURE_CLI_NAMES: [(&str, &str); 2] = [
    ("azure_storage_account", "azure_storage_account_name"),
    ("azure_storage_key", "azure_storage_account_key"),
];

fn open_azure(bucket: &Bucket, host: &Host, settings: &Settings) -> Result<Opened> {
    let names = ["AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT"];
    let endpoint = endpoint_of(bucket, settings, &names, "AZURE_ALLOW_HTTP")?;
    let is_plain = endpoint.as_ref().is_some_and(|(_, is_plain)| *is_plain);
    let mut builder = MicrosoftAzureBuilder::new().with_client_options(options(settings, is_plain));
    for (name, value) in variables(settings, "AZURE_") {
        let known_as = AZURE_CLI_NAMES.iter().find(|(cli, _)| *cli == name);
        let name = known_as.map_or(&*name, |(_, library)| library);
        if let Ok(key) = name.parse() {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(account) = bucket.parameters.get("account") {
        builder = builder.with_account(account);
    }
    if let Some((endpoint, is_plain)) = endpoint {
        if says_yes(builder.get_config_value(&AzureConfigKey::UseEmulator)) {
            return Err(Error::rejected(
                "AZURE_STORAGE_USE_EMULATOR stands for http://127.0.0.1:10000 and goes with no other \
                 endpoint; leave it out, and let the endpoint end with the account, as in \
                 http://127.0.0.1:10001/devstoreaccount1",
            ));
        }
        builder = builder.with_endpoint(endpoint.as_str().trim_end_matches('/').into());
        builder = builder.with_allow_http(is_plain);
    }
    let store = builder
        .with_container_name(&bucket.name)
        .with_retry(no_retry())
        .with_http_connector(SpawnedReqwestConnector::new(host.runtimes.control.clone()))
        .build()
        .map_err(|error| failed(bucket, error))?;
    Ok(prefixed(store, bucket))
}
