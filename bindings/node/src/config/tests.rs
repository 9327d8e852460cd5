use super::*;

fn variables(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let owned: Vec<_> = pairs
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect();
    owned.into_iter()
}

fn flags(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    variables(pairs).collect()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn every_field_of_the_settings_has_a_key_and_every_key_a_field() {
    let Value::Object(fields) = serde_json::to_value(Settings::default()).unwrap() else {
        panic!("settings are not an object");
    };
    let mut expected: Vec<&str> = fields.keys().map(String::as_str).collect();
    let mut named: Vec<&str> = KEYS.iter().filter_map(|key| key.field).collect();
    expected.sort();
    named.sort();
    assert_eq!(expected, named);
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file_and_that_over_the_default() {
    let file = file("memory = \"1GiB\"\nbees = 3\nquery_deadline = \"5min\"\n");
    let environment = variables(&[("APIARY_MEMORY", "2GiB"), ("APIARY_BEES", "4")]);
    let config = load(Some(file.path()), environment, &flags(&[("bees", "5")])).unwrap();
    assert_eq!(config.settings.bees, Some(5));
    assert_eq!(config.settings.memory_bytes, Some(2 << 30));
    assert_eq!(config.settings.query_deadline_ms, 300_000);
    assert_eq!(
        config.settings.max_partitions,
        Settings::default().max_partitions
    );
    assert_eq!(config.storage, DEFAULT_STORAGE);
}

#[test]
fn an_unknown_key_is_refused_with_its_name_and_the_file() {
    let file = file("memroy = \"1GiB\"\n");
    let error = load(Some(file.path()), variables(&[]), &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("\"memroy\""), "{error}");
    assert!(
        error.contains(&file.path().display().to_string()),
        "{error}"
    );
    let error = load(None, variables(&[]), &flags(&[("nope", "1")]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("\"nope\""), "{error}");
}

#[test]
fn a_wrong_value_is_refused_with_the_place_it_stands_in() {
    let error = load(None, variables(&[("APIARY_MEMORY", "much")]), &[]).unwrap_err();
    assert!(error.to_string().contains("APIARY_MEMORY"), "{error}");
    let error = load(None, variables(&[("APIARY_CODEC", "rar")]), &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("codec in the variable APIARY_CODEC"),
        "{error}"
    );
    let file = file("bees = -1\n");
    assert!(load(Some(file.path()), variables(&[]), &[]).is_err());
}

#[test]
fn an_unknown_variable_of_ours_is_refused_with_the_nearest_key() {
    let error = load(None, variables(&[("APIARY_MEMROY", "1GiB")]), &[]).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("APIARY_MEMROY") && error.contains("nearest is \"memory\""),
        "{error}"
    );
    let others = variables(&[
        ("APIARY_CONFIG", "x"),
        ("APIARY_HISTORY", "y"),
        ("PATH", "z"),
        ("APIARY_SERVICE_PORT", "80"),
        ("APIARY_PORT", "tcp://10.0.0.11:80"),
    ]);
    assert!(load(None, others, &[]).is_ok());
    assert!(load(None, variables(&[("APIARY_PORT", "80")]), &[]).is_err());
}

#[test]
fn distances_count_letters() {
    assert_eq!(distance("memory", "memory"), 0);
    assert_eq!(distance("memory", "memry"), 1);
    assert_eq!(distance("bees", "trees"), 2);
    assert_eq!(distance("", "abc"), 3);
}

#[test]
fn a_cache_has_a_size_or_is_off() {
    let cache = |text| load(None, variables(&[]), &flags(&[("cache", text)]));
    let bytes = |text| cache(text).unwrap().settings.cache_bytes_max;
    assert_eq!(bytes("4GiB"), Some(4 << 30));
    assert_eq!(bytes("off"), Some(0));
    let refused = cache("none").unwrap_err().to_string();
    assert!(refused.contains("or off"), "{refused}");
    let file = file("cache = \"off\"\n");
    let config = load(Some(file.path()), variables(&[]), &[]).unwrap();
    assert_eq!(config.settings.cache_bytes_max, Some(0));
}

#[test]
fn sizes_and_durations_have_units() {
    assert_eq!(parse_size("256MiB"), Some(256 << 20));
    assert_eq!(parse_size("1.5 gb"), Some(1_500_000_000));
    assert_eq!(parse_size("12"), Some(12));
    assert_eq!(parse_size("-1"), None);
    assert_eq!(parse_size("1 parsec"), None);
    assert_eq!(parse_size("99999999TiB"), None);
    assert_eq!(parse_duration_ms("1.5s"), Some(1500));
    assert_eq!(parse_duration_ms("2min"), Some(120_000));
    assert_eq!(parse_duration_ms("soon"), None);
}
