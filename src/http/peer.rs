//! Where a request is from: the address at the other end of the connection, or, where that is a
//! proxy that we trust, the one that it names. Never believes what anybody else writes.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

use crate::callers::Thumbprint;

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// Whether the client came over TLS: to us, unless a proxy that we trust says how it
    /// came to that.
    pub(crate) is_https: bool,
    /// The certificate that the client itself has shown to us.
    pub(crate) certificate: Option<Thumbprint>,
}

impl Peer {
    /// Whoever is at the other end of the connection.
    pub(super) fn connected(address: IpAddr, is_https: bool) -> Self {
        Self { address: address.to_canonical(), is_https, certificate: None }
    }

    /// The client behind this one: of the addresses that proxies have noted, the last that is
    /// none of theirs. What stands before it is the client's own word.
    pub(super) fn behind(self, headers: &HeaderMap, trusted: &[IpNet]) -> Self {
        let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
        if !is_trusted(self.address) {
            return self;
        }
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        let hops = lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        let mut address = self.address;
        for hop in hops {
            // Behind what cannot be read nothing is known.
            let Some(noted) = parse(hop.trim()) else { break };
            address = noted;
            if !is_trusted(address) {
                break;
            }
        }
        // The last one is that of the proxy beside us.
        let proto = headers.get_all(FORWARDED_PROTO).iter().next_back();
        let is_https = proto.map_or(self.is_https, |line| {
            let last = line.to_str().unwrap_or_default().rsplit(',').next();
            last.is_some_and(|proto| proto.trim().eq_ignore_ascii_case("https"))
        });
        // A proxy's certificate is not that of whoever is behind it, even where the proxy does not
        // say who that is.
        let certificate = self.certificate.filter(|_| !headers.contains_key(FORWARDED_FOR));
        Self { address, is_https, certificate }
    }
}

/// An address, as some proxies write it with a port.
fn parse(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse().ok().or_else(|| hop.parse().ok().map(|it: SocketAddr| it.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(connected: &str, lines: &[&str], proto: &[&str]) -> (String, bool) {
        over(false, connected, lines, proto)
    }

    fn over(tls: bool, connected: &str, lines: &[&str], proto: &[&str]) -> (String, bool) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        for line in proto {
            headers.append(FORWARDED_PROTO, line.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let peer = Peer::connected(connected.parse().unwrap(), tls).behind(&headers, &trusted);
        (peer.address.to_string(), peer.is_https)
    }

    #[test]
    fn the_last_hop_that_is_no_proxy_of_ours_is_the_client() {
        for (connected, lines, client) in [
            ("10.0.0.1", vec!["192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", vec!["6.6.6.6, 192.0.2.7"], "192.0.2.7"),
            ("10.0.0.1", vec!["6.6.6.6, 192.0.2.7, 10.0.0.2"], "192.0.2.7"),
            ("10.0.0.1", vec!["6.6.6.6", "192.0.2.7,10.0.0.2", " 10.0.0.3 "], "192.0.2.7"),
            ("10.0.0.1", vec!["192.0.2.7:4711"], "192.0.2.7"),
            ("10.0.0.1", vec!["::ffff:192.0.2.7"], "192.0.2.7"),
            ("fd00::1", vec!["[2001:db8::7]:4711"], "2001:db8::7"),
            ("fd00::1", vec!["[2001:db8::7]"], "2001:db8::7"),
            // Nobody behind them, or nobody who can be read.
            ("10.0.0.1", vec![], "10.0.0.1"),
            ("10.0.0.1", vec!["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            ("10.0.0.1", vec!["192.0.2.7, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", vec!["192.0.2.7,"], "10.0.0.1"),
            ("10.0.0.1", vec!["\u{e9}, 192.0.2.7"], "10.0.0.1"),
            // Whoever is no proxy of ours speaks for itself only.
            ("192.0.2.8", vec!["6.6.6.6"], "192.0.2.8"),
            ("::ffff:192.0.2.8", vec!["10.0.0.1"], "192.0.2.8"),
        ] {
            assert_eq!(peer(connected, &lines, &[]).0, client, "{connected} {lines:?}");
        }
    }

    #[test]
    fn a_proxy_does_not_lend_its_certificate() {
        let peer = Peer {
            certificate: Some([7; 32]),
            ..Peer::connected("10.0.0.1".parse().unwrap(), true)
        };
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        assert_eq!(peer.behind(&headers, &trusted), peer);
        for client in ["192.0.2.7", "10.0.0.1", "unknown", ""] {
            headers.insert(FORWARDED_FOR, client.parse().unwrap());
            assert_eq!(peer.behind(&headers, &trusted).certificate, None, "{client}");
            assert_eq!(peer.behind(&headers, &[]), peer);
        }
    }

    #[test]
    fn only_a_proxy_of_ours_says_that_a_client_came_over_tls() {
        assert!(peer("10.0.0.1", &[], &["https"]).1);
        assert!(peer("10.0.0.1", &[], &["http", "https"]).1);
        for (connected, proto) in [
            ("192.0.2.8", vec!["https"]),
            ("10.0.0.1", vec!["https, http"]),
            ("10.0.0.1", vec!["https", "http"]),
            ("10.0.0.1", vec![]),
        ] {
            assert!(!peer(connected, &[], &proto).1, "{connected} {proto:?}");
        }
        // Over TLS it is so unless the proxy knows better.
        for (connected, proto, https) in [
            ("192.0.2.8", vec![], true),
            ("192.0.2.8", vec!["http"], true),
            ("10.0.0.1", vec![], true),
            ("10.0.0.1", vec!["http"], false),
            ("10.0.0.1", vec!["https"], true),
        ] {
            assert_eq!(over(true, connected, &[], &proto).1, https, "{connected} {proto:?}");
        }
    }
}
