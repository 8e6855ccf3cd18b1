//! Where Redis is, as `PAYSTREAM_REDIS_URL` says it: one server, the Sentinels that know
//! it, or nodes of a cluster. Never connects.

use std::fmt;

use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisResult, TlsCertificates,
};

use super::{Error, connecting::RESPONSE_TIMEOUT};

const SENTINEL_PORT: u16 = 26379;
const PORT: u16 = 6379;

/// A server of Redis, by host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Node {
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Single,
    /// Sentinels know the master by this name. What they are logged in to as is apart from what
    /// Redis is.
    Sentinel {
        master: String,
        login: Box<ConnectionInfo>,
    },
    Cluster,
}

#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) kind: Kind,
    /// The servers that are asked first; at least one.
    pub(super) nodes: Vec<Node>,
    /// How a server is logged in to, whatever its address.
    info: ConnectionInfo,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let (scheme, way) = match scheme.split_once('-') {
            Some((scheme @ ("redis" | "rediss"), way)) => (scheme, way),
            _ => {
                let info = with_settings(url.into_connection_info()?);
                return Ok(Self { kind: Kind::Single, nodes: vec![node_of(&info)], info });
            }
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (rest, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) =
            rest.rsplit_once('@').map_or(("", rest), |(login, hosts)| (login, hosts));
        let (default_port, hint) = match way {
            "sentinel" => (SENTINEL_PORT, "redis-sentinel://host:26379,host:26379/master-name"),
            "cluster" => (PORT, "redis-cluster://host:6379,host:6379"),
            _ => return Err(Error::Address("its scheme is not known".to_owned())),
        };
        let refused = |why: &str| Error::Address(format!("{why}; it looks like {hint}"));
        let mut nodes = Vec::new();
        for host in hosts.split(',') {
            let info = format!("redis://{host}").into_connection_info();
            let info = info.map_err(|_| refused("one of its hosts is not valid"))?;
            let mut node = node_of(&info);
            let has_port = host.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
            node.port = if has_port { node.port } else { default_port };
            nodes.push(node);
        }
        let logged_in = |login: &str| -> Result<ConnectionInfo, Error> {
            let at = if login.is_empty() { "" } else { "@" };
            let info = format!("{scheme}://{login}{at}host").into_connection_info();
            Ok(with_settings(info.map_err(|_| refused("its user or password is not valid"))?))
        };
        if way == "cluster" {
            if !path.is_empty() || !query.is_empty() {
                return Err(refused("a cluster has no databases and no parameters"));
            }
            return Ok(Self { kind: Kind::Cluster, nodes, info: logged_in(login)? });
        }
        let (mut username, mut password) = ("", "");
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("sentinel_username", text)) => username = text,
                Some(("sentinel_password", text)) => password = text,
                _ => return Err(refused("it knows sentinel_username and sentinel_password only")),
            }
        }
        let master = match path {
            "" => return Err(refused("the name of the master is missing")),
            name if name.contains('/') => {
                return Err(refused("the name of the master has a slash"));
            }
            name => name.to_owned(),
        };
        let of_sentinels = match password {
            "" => String::new(),
            password => format!("{username}:{password}"),
        };
        let kind = Kind::Sentinel { master, login: Box::new(logged_in(&of_sentinels)?) };
        Ok(Self { kind, nodes, info: logged_in(login)? })
    }

    /// The same, with these certificates. An address without TLS ignores them: when streams move, they
    /// may be those of the other Redis.
    pub(super) fn with_certificates(self, of: &TlsCertificates) -> Result<Self, Error> {
        if self.is_plaintext() {
            return Ok(self);
        }
        let with = |info: ConnectionInfo| {
            let client = Client::build_with_tls(info, of.clone());
            let client = client.map_err(|error| Error::Address(error.to_string()))?;
            Ok::<_, Error>(client.get_connection_info().clone())
        };
        let kind = match self.kind {
            Kind::Sentinel { master, login } => {
                Kind::Sentinel { master, login: Box::new(with(*login)?) }
            }
            kind @ (Kind::Single | Kind::Cluster) => kind,
        };
        Ok(Self { kind, info: with(self.info)?, nodes: self.nodes })
    }

    /// What connects to this server.
    pub(super) fn client(&self, node: &Node) -> RedisResult<Client> {
        match self.kind {
            Kind::Single => Client::open(self.info.clone()),
            Kind::Sentinel { .. } | Kind::Cluster => Client::open(at(&self.info, node)),
        }
    }

    /// What asks this server which one serves: itself, or a Sentinel.
    pub(super) fn guide(&self, node: &Node) -> RedisResult<Client> {
        match &self.kind {
            Kind::Single => Client::open(self.info.clone()),
            Kind::Sentinel { login, .. } => Client::open(at(login, node)),
            Kind::Cluster => Client::open(at(&self.info, node)),
        }
    }

    /// Whether a server is reached without TLS; a socket needs none.
    pub(super) fn is_plaintext(&self) -> bool {
        matches!(self.info.addr(), ConnectionAddr::Tcp(..))
    }
}

fn node_of(info: &ConnectionInfo) -> Node {
    if let ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } = info.addr()
    {
        return Node { host: host.clone(), port: *port };
    }
    // A socket.
    Node { host: info.addr().to_string(), port: 0 }
}

/// The same login, at this server.
fn at(info: &ConnectionInfo, node: &Node) -> ConnectionInfo {
    let mut addr = info.addr().clone();
    if let ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } = &mut addr {
        (*host, *port) = (node.host.clone(), node.port);
    }
    info.clone().set_addr(addr)
}

fn with_settings(info: ConnectionInfo) -> ConnectionInfo {
    let tcp = redis::io::tcp::TcpSettings::default().set_nodelay(true);
    // A shared connection comes back only after it has broken, and one whose
    // other end is gone without a word breaks only by this.
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(RESPONSE_TIMEOUT);
    // What no ACL user needs, none has to be allowed.
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    info.set_tcp_settings(tcp).set_redis_settings(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_have_a_login_and_a_port_of_their_own() {
        let url = "rediss-sentinel://ada:p%40ss@one,two:5000,[::1]/pay?sentinel_password=s%2Ct";
        let address = Address::parse(url).unwrap();
        let nodes: Vec<String> = address.nodes.iter().map(ToString::to_string).collect();
        assert_eq!(nodes, ["one:26379", "two:5000", "::1:26379"]);
        let settings = address.info.redis_settings();
        assert_eq!((settings.username(), settings.password()), (Some("ada"), Some("p@ss")));
        let Kind::Sentinel { master, login } = &address.kind else { panic!("{address:?}") };
        let settings = login.redis_settings();
        assert_eq!((settings.username(), settings.password()), (None, Some("s,t")));
        assert_eq!(master, "pay");
        let client = address.client(&address.nodes[1]).unwrap();
        let at = client.get_connection_info().addr().clone();
        assert!(
            matches!(at, ConnectionAddr::TcpTls { host, port: 5000, insecure: false, .. } if host == "two")
        );
    }

    #[test]
    fn what_is_wrong_with_an_address_is_said() {
        for (url, why) in [
            ("redis-sentinel://one,two", "the name of the master is missing"),
            ("redis-sentinel://one,,two/pay", "one of its hosts is not valid"),
            ("redis-sentinel://one/pay?db=2", "sentinel_username and sentinel_password only"),
            ("redis-sentinel://one/pay/2", "a slash"),
            ("redis-cluster://one,two/2", "no databases and no parameters"),
            ("redis-cluster://one?x=y", "no databases and no parameters"),
            ("redis-herd://one", "its scheme is not known"),
        ] {
            let refused = Address::parse(url).unwrap_err().to_string();
            assert!(refused.contains(why), "{url}: {refused}");
        }
        assert!(Address::parse("http://one").is_err());
        assert!(Address::parse("nonsense").is_err());
    }
}
