//! The AWS tools' own files, as far as static keys, region and endpoint go.
//!
//! Never logs a value. Single sign-on and assumed roles are not read from here.

use std::collections::BTreeMap;

/// What a profile may hold that is used here, and the variable that means the same.
const CREDENTIALS: [(&str, &str); 3] = [
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
];

/// Adds what the chosen profile says and the environment does not. The keys go together: when the
/// environment holds one of them, none is taken from a file.
pub(super) fn add_aws_profile(
    variables: &mut BTreeMap<String, String>,
    credentials: &str,
    config: &str,
) {
    let chosen = ["AWS_PROFILE", "AWS_DEFAULT_PROFILE"];
    let chosen = chosen.iter().find_map(|name| variables.get(*name).cloned());
    let profile = chosen.clone().unwrap_or_else(|| "default".into());
    let section = |text: &str, prefixed: bool| {
        let mut sections = parse_sections(text);
        let plain = sections.remove(&profile);
        let long = prefixed
            .then(|| sections.remove(&format!("profile {profile}")))
            .flatten();
        long.or(plain)
    };
    let (keys, general) = (section(credentials, false), section(config, true));
    if chosen.is_some() && keys.is_none() && general.is_none() {
        tracing::warn!(profile, "the AWS profile is in neither of the AWS files");
    }
    let (keys, general) = (keys.unwrap_or_default(), general.unwrap_or_default());
    if !CREDENTIALS
        .iter()
        .any(|(_, variable)| variables.contains_key(*variable))
    {
        let holder = match keys.contains_key(CREDENTIALS[0].0) {
            true => &keys,
            false => &general,
        };
        for (key, variable) in CREDENTIALS {
            if let Some(value) = holder.get(key) {
                variables.insert(variable.into(), value.clone());
            }
        }
    }
    let has = |variables: &BTreeMap<String, String>, names: &[&str]| {
        names.iter().any(|name| variables.contains_key(*name))
    };
    if let Some(region) = general.get("region")
        && !has(variables, &["AWS_REGION", "AWS_DEFAULT_REGION"])
    {
        variables.insert("AWS_REGION".into(), region.clone());
    }
    if let Some(endpoint) = general.get("endpoint_url")
        && !has(
            variables,
            &["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"],
        )
    {
        variables.insert("AWS_ENDPOINT_URL".into(), endpoint.clone());
    }
}

/// Sections of an INI file. Indented lines belong to a nested setting and are left out, as are
/// comments and lines that are neither.
fn parse_sections(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut sections: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if line.starts_with(['#', ';', ' ', '\t']) {
            continue;
        }
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            let name = name.split(']').next().unwrap_or_default();
            let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
            current = Some(sections.entry(name).or_default());
        } else if let (Some(section), Some((key, value))) = (&mut current, line.split_once('=')) {
            // A comment after a value needs a space before it: a secret may hold the character.
            let value = value.split(" #").next().unwrap_or_default().trim();
            section.insert(key.trim().to_ascii_lowercase(), value.into());
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS_FILE: &str = "# mine\n[default]\naws_access_key_id = A\n\
        aws_secret_access_key=s/+=#x\n\n[ other ]\naws_access_key_id = B\n\
        aws_secret_access_key = t # note\naws_session_token = u\n";
    const CONFIG_FILE: &str = "[default]\nregion = eu-west-1\ns3 =\n  region = nested\n\
        [profile other]\nregion=us-west-2\nendpoint_url = https://example.com\n";

    fn with(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        let mut variables = variables.iter().map(own).collect();
        add_aws_profile(&mut variables, CREDENTIALS_FILE, CONFIG_FILE);
        variables
    }

    #[test]
    fn the_default_profile_is_used_when_none_is_named() {
        let variables = with(&[]);
        assert_eq!(variables["AWS_ACCESS_KEY_ID"], "A");
        assert_eq!(variables["AWS_SECRET_ACCESS_KEY"], "s/+=#x");
        assert_eq!(variables["AWS_REGION"], "eu-west-1");
        assert!(!variables.contains_key("AWS_SESSION_TOKEN"));
    }

    #[test]
    fn a_named_profile_is_found_under_both_spellings() {
        let variables = with(&[("AWS_PROFILE", "other")]);
        assert_eq!(variables["AWS_ACCESS_KEY_ID"], "B");
        assert_eq!(variables["AWS_SECRET_ACCESS_KEY"], "t");
        assert_eq!(variables["AWS_SESSION_TOKEN"], "u");
        assert_eq!(variables["AWS_REGION"], "us-west-2");
        assert_eq!(variables["AWS_ENDPOINT_URL"], "https://example.com");
    }

    #[test]
    fn the_environment_wins_and_keys_are_never_mixed() {
        let variables = with(&[("AWS_ACCESS_KEY_ID", "E"), ("AWS_DEFAULT_REGION", "r")]);
        assert_eq!(variables["AWS_ACCESS_KEY_ID"], "E");
        assert!(!variables.contains_key("AWS_SECRET_ACCESS_KEY"));
        assert!(!variables.contains_key("AWS_REGION"));
    }

    #[test]
    fn an_unknown_profile_adds_nothing() {
        assert_eq!(with(&[("AWS_PROFILE", "nobody")]).len(), 1);
    }
}
