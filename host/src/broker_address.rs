//! Where the broker is: `mqtt://[user:password@]host[:port]`.

use core::fmt;
use core::str::FromStr;

use serde::Deserialize;

/// The port of MQTT without TLS.
pub const DEFAULT_PORT: u16 = 1883;

const SCHEME: &str = "mqtt://";

/// Where the broker is and as whom to log in. Neither `Display` nor `Debug` shows the password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct BrokerAddress {
    host: String,
    port: u16,
    login: Option<Login>,
}

#[derive(Clone, PartialEq, Eq)]
struct Login {
    user: String,
    password: String,
}

/// Why a broker address cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerAddressError {
    /// TLS was asked for.
    #[error("TLS is not built into this version yet; use `mqtt://` inside a trusted network or through a tunnel")]
    Tls,
    /// Not an MQTT address.
    #[error("a broker address begins with `mqtt://`, for example `mqtt://broker.local:1883`")]
    Scheme,
    /// No usable host.
    #[error("the broker address names no host; write `mqtt://host`, or `mqtt://[::1]` for an IPv6 address")]
    Host,
    /// The port is not one.
    #[error("`{port}` is not a port; write a number from 1 to 65535 after the host")]
    Port {
        /// What stands in the port's place.
        port: String,
    },
    /// A `%` that is not followed by two hexadecimal digits, or that spells no text.
    #[error("write `%25` for a `%` in the broker's user name or password (`%40` for `@`, `%3A` for `:`)")]
    Escape,
}

impl BrokerAddress {
    /// A broker without a login.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port, login: None }
    }

    /// Host name or IP address; an IPv6 address is in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// User name and password, if the address names any.
    pub fn login(&self) -> Option<(&str, &str)> {
        self.login.as_ref().map(|login| (login.user.as_str(), login.password.as_str()))
    }
}

impl FromStr for BrokerAddress {
    type Err = BrokerAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("mqtts://") || text.starts_with("ssl://") {
            return Err(BrokerAddressError::Tls);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(BrokerAddressError::Scheme)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (login, place) = match rest.rsplit_once('@') {
            Some((login, place)) => (Some(parse_login(login)?), place),
            None => (None, rest),
        };
        let (host, port) = split_port(place)?;
        Ok(Self { host: host.to_owned(), port, login })
    }
}

impl TryFrom<String> for BrokerAddress {
    type Error = BrokerAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.login.as_ref().map(|login| format!("{}@", login.user)).unwrap_or_default();
        write!(f, "{SCHEME}{user}{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerAddress({self})")
    }
}

fn parse_login(text: &str) -> Result<Login, BrokerAddressError> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    Ok(Login { user: unescape(user)?, password: unescape(password)? })
}

fn split_port(place: &str) -> Result<(&str, u16), BrokerAddressError> {
    // The colons inside an IPv6 address's brackets are not the port's.
    let after_brackets = place.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match place[after_brackets..].rfind(':') {
        Some(at) => (&place[..after_brackets + at], Some(&place[after_brackets + at + 1..])),
        None => (place, None),
    };
    let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    let odd = |c: char| c.is_whitespace() || c.is_control() || ['/', '?', '#', '@'].contains(&c);
    if host.is_empty() || host.contains(odd) || (host.contains([':', '[', ']']) && !bracketed) {
        return Err(BrokerAddressError::Host);
    }
    let Some(port) = port else { return Ok((host, DEFAULT_PORT)) };
    match port.parse() {
        Ok(number) if number > 0 => Ok((host, number)),
        Ok(_) | Err(_) => Err(BrokerAddressError::Port { port: port.to_owned() }),
    }
}

fn unescape(text: &str) -> Result<String, BrokerAddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(BrokerAddressError::Escape) };
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| BrokerAddressError::Escape)
}

/// For a command line that needs the address as it was written.
///
/// # Errors
/// If the text is no broker address; the text of the error says why.
pub fn checked(text: &str) -> Result<String, String> {
    text.parse::<BrokerAddress>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BrokerAddress, BrokerAddressError> {
        text.parse()
    }

    #[test]
    fn every_part_is_read() {
        assert_eq!(parse("mqtt://broker.local").unwrap(), BrokerAddress::new("broker.local", 1883));
        assert_eq!(parse("mqtt://10.0.0.1:1884/").unwrap(), BrokerAddress::new("10.0.0.1", 1884));
        assert_eq!(parse("mqtt://[::1]").unwrap(), BrokerAddress::new("[::1]", 1883));
        assert_eq!(parse("mqtt://[::1]:99").unwrap(), BrokerAddress::new("[::1]", 99));
        let address = parse("mqtt://ann:p%40ss%3Aword@host:1").unwrap();
        assert_eq!(address.login(), Some(("ann", "p@ss:word")));
        assert_eq!((address.host(), address.port()), ("host", 1));
    }

    #[test]
    fn the_password_is_never_shown() {
        let address = parse("mqtt://ann:secret@host").unwrap();
        assert_eq!(address.to_string(), "mqtt://ann@host:1883");
        assert!(!format!("{address:?}").contains("secret"));
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_advice() {
        assert_eq!(parse("mqtts://host"), Err(BrokerAddressError::Tls));
        assert_eq!(parse("host:1883"), Err(BrokerAddressError::Scheme));
        for host in ["mqtt://", "mqtt://:1883", "mqtt://a b", "mqtt://::1", "mqtt://a/b", "mqtt://[]"] {
            assert_eq!(parse(host), Err(BrokerAddressError::Host), "{host}");
        }
        for port in ["0", "65536", "x", ""] {
            assert_eq!(parse(&format!("mqtt://h:{port}")), Err(BrokerAddressError::Port { port: port.to_owned() }));
        }
        for login in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(parse(&format!("mqtt://{login}@h")), Err(BrokerAddressError::Escape), "{login}");
        }
    }
}
