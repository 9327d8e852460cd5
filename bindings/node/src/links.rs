//! Variables that a container platform makes from the name of a service.
//!
//! In a namespace with a service `apiary`, Kubernetes gives every container `APIARY_SERVICE_HOST`,
//! `APIARY_PORT_80_TCP` and more; a Docker link with that alias does so too. They are nobody's
//! settings, so exactly they are let pass. A name alone is not believed where a person could have
//! meant a setting: the value has to be what a platform would write.
//!
//! Sources: Kubernetes "Discovering services", Docker "Legacy container links".

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// Whether a variable, less the prefix of ours, comes from a service or link whose name begins with
/// `apiary`. Of a longer one (`apiary-node`) the rest stands before the part that is looked at.
pub fn is_link(name: &str, value: &str) -> bool {
    let words: Vec<&str> = name.split('_').collect();
    let is_upper = |word: &&str| {
        word.bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
    };
    (0..words.len())
        .any(|first| words[..first].iter().all(is_upper) && is_link_of_name(&words[first..], value))
}

fn is_link_of_name(words: &[&str], value: &str) -> bool {
    match words {
        ["SERVICE", "HOST"] => is_address(value),
        // Each named port of a service has one of its own.
        ["SERVICE", "PORT", ..] => is_port(value),
        ["PORT"] => is_url(value),
        ["PORT", port, protocol, rest @ ..] if is_port(port) && PROTOCOLS.contains(protocol) => {
            match rest {
                [] | ["START" | "END"] => is_url(value),
                ["PROTO"] | [_, "PROTO"] => value.eq_ignore_ascii_case(protocol),
                ["PORT"] | [_, "PORT"] => is_port(value),
                ["ADDR"] | [_, "ADDR"] => is_address(value),
                _ => false,
            }
        }
        // `/container/alias`.
        ["NAME"] => value.starts_with('/'),
        // The linked container's own variables.
        ["ENV", _, ..] => true,
        _ => false,
    }
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok()
}

/// `tcp://10.0.0.11:6379`
fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| {
        PROTOCOLS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(scheme))
            && rest.rsplit_once(':').is_some_and(|(_, port)| is_port(port))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_makes_of_a_service_passes() {
        for (name, value) in [
            ("SERVICE_HOST", "10.0.0.11"),
            ("SERVICE_HOST", "fd00::11"),
            ("SERVICE_PORT", "80"),
            ("SERVICE_PORT_HTTP", "80"),
            ("SERVICE_PORT_WEB_UI", "8080"),
            ("PORT", "tcp://10.0.0.11:80"),
            ("PORT", "udp://[fd00::11]:53"),
            ("PORT_80_TCP", "tcp://10.0.0.11:80"),
            ("PORT_80_TCP_PROTO", "tcp"),
            ("PORT_80_TCP_PORT", "80"),
            ("PORT_80_TCP_ADDR", "10.0.0.11"),
            ("NODE_SERVICE_HOST", "10.0.0.11"),
            ("NODE_2_PORT_5432_SCTP_ADDR", "10.0.0.11"),
        ] {
            assert!(is_link(name, value), "{name}={value}");
        }
    }

    #[test]
    fn what_docker_makes_of_a_link_passes() {
        for (name, value) in [
            ("NAME", "/web/apiary"),
            ("PORT", "tcp://172.17.0.5:6379"),
            ("PORT_6379_TCP_ADDR", "172.17.0.5"),
            ("PORT_6379_TCP_START", "tcp://172.17.0.5:6379"),
            ("PORT_6379_TCP_END", "tcp://172.17.0.5:6381"),
            ("ENV_PASSWORD", "anything"),
            ("DB_ENV_PASSWORD", "anything"),
        ] {
            assert!(is_link(name, value), "{name}={value}");
        }
    }

    #[test]
    fn what_a_person_may_have_meant_as_a_setting_does_not() {
        for (name, value) in [
            ("PORT", "8080"),
            ("PORT", "http://localhost:80"),
            ("SERVICE_HOST", "db.example.org"),
            ("SERVICE_PORT", "many"),
            ("PORT_80_TCP_PROTO", "udp"),
            ("PORT_80_QUIC", "quic://10.0.0.11:80"),
            ("PORT_80_TCP_COLOUR", "red"),
            ("PORT_X_TCP", "tcp://10.0.0.11:80"),
            ("MEMROY", "1GiB"),
            ("SERVICE", "apiary"),
            ("ENV", "production"),
            ("lower_SERVICE_PORT", "80"),
            ("NODE_NAME", "pi-3"),
            ("", ""),
        ] {
            assert!(!is_link(name, value), "{name}={value}");
        }
    }
}
