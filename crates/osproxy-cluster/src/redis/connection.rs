//! Connections to Redis: to a server, through sentinels, or to a cluster.

use std::time::Duration;

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, RedisResult, TlsCertificates, TlsMode,
    aio::{MultiplexedConnection, PubSub},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};

use crate::{RedisAddress, RedisSettings};

/// Timeout for a response, and for opening a connection.
pub(super) const TIMEOUT: Duration = Duration::from_secs(2);

/// A connection for commands.
#[derive(Clone)]
pub(super) enum CommandConnection {
    /// To a single server.
    Single(MultiplexedConnection),
    /// To all nodes of a Redis Cluster.
    Cluster(ClusterConnection),
}

impl CommandConnection {
    /// Sends a command and waits for the response.
    pub(super) async fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        let query = async {
            match self {
                Self::Single(connection) => command.query_async(connection).await,
                Self::Cluster(connection) => command.query_async(connection).await,
            }
        };
        with_timeout(query).await
    }
}

/// Fails if `request` takes longer than [`TIMEOUT`].
pub(super) async fn with_timeout<T>(request: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    let timed_out = |_| RedisError::from((redis::ErrorKind::Io, "no response in time"));
    tokio::time::timeout(TIMEOUT, request).await.map_err(timed_out)?
}

/// Address of Redis for logs and errors. Never includes the password.
pub(super) fn display_address(redis: &RedisSettings) -> String {
    match &redis.address {
        RedisAddress::Url(url) => match url.reveal().into_connection_info() {
            Ok(info) => info.addr().to_string(),
            Err(_) => "`redis.url`".to_owned(),
        },
        RedisAddress::Server(host, port) => format!("{host}:{port}"),
        RedisAddress::Sentinel(master, _) => format!("sentinel master {master:?}"),
        RedisAddress::Cluster(nodes) => {
            let nodes: Vec<_> = nodes.iter().map(|(host, port)| format!("{host}:{port}")).collect();
            format!("cluster {}", nodes.join(", "))
        }
    }
}

/// Opens two connections: one for commands, one for messages.
pub(super) async fn connect(redis: &RedisSettings) -> RedisResult<(CommandConnection, PubSub)> {
    match &redis.address {
        RedisAddress::Url(url) => single(client(redis, url.reveal().into_connection_info()?)?).await,
        RedisAddress::Server(host, port) => {
            single(client(redis, connection_info(redis, host, *port)?)?).await
        }
        RedisAddress::Sentinel(master, nodes) => {
            // Ask the sentinels each time, because the master may have changed.
            let nodes = nodes.iter().map(|(host, port)| address(redis, host, *port));
            let sentinels = SentinelClientBuilder::new(nodes, master.clone(), SentinelServerType::Master)?;
            let mut sentinels = sentinels.set_client_to_redis_db(redis.db.into());
            if let Some(username) = &redis.username {
                sentinels = sentinels.set_client_to_redis_username(username);
            }
            if let Some(password) = &redis.password {
                sentinels = sentinels.set_client_to_redis_password(password.reveal());
            }
            if redis.tls {
                sentinels = sentinels.set_client_to_redis_tls_mode(TlsMode::Secure);
                if let Some(certificates) = certificates(redis) {
                    sentinels = sentinels
                        .set_client_to_redis_certificates(certificates.clone())
                        .set_client_to_sentinel_certificates(certificates);
                }
            }
            let master = with_timeout(sentinels.build()?.async_get_client()).await?;
            single(master).await
        }
        RedisAddress::Cluster(nodes) => cluster(redis, nodes).await,
    }
}

async fn single(client: Client) -> RedisResult<(CommandConnection, PubSub)> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT));
    let commands = client.get_multiplexed_async_connection_with_config(&config).await?;
    let messages = with_timeout(client.get_async_pubsub()).await?;
    Ok((CommandConnection::Single(commands), messages))
}

/// Connects to a Redis Cluster. Commands go to the Redis node that has the keys. A subscription on
/// one Redis node is enough: that node also receives messages published on other Redis nodes.
async fn cluster(redis: &RedisSettings, nodes: &[(String, u16)]) -> RedisResult<(CommandConnection, PubSub)> {
    let infos: RedisResult<Vec<_>> =
        nodes.iter().map(|(host, port)| connection_info(redis, host, *port)).collect();
    let infos = infos?;
    let mut builder = ClusterClientBuilder::new(infos.clone())
        .retries(1)
        .connection_timeout(TIMEOUT)
        .response_timeout(TIMEOUT);
    if let Some(username) = &redis.username {
        builder = builder.username(username);
    }
    if let Some(password) = &redis.password {
        builder = builder.password(password.reveal());
    }
    if redis.tls {
        builder = builder.tls(TlsMode::Secure);
        if let Some(certificates) = certificates(redis) {
            builder = builder.certs(certificates);
        }
    }
    let commands = with_timeout(builder.build()?.get_async_connection()).await?;
    let mut last_error = RedisError::from((redis::ErrorKind::Io, "no node of the Redis cluster responds"));
    for info in infos {
        match with_timeout(client(redis, info)?.get_async_pubsub()).await {
            Ok(messages) => return Ok((CommandConnection::Cluster(commands), messages)),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

fn client(redis: &RedisSettings, info: ConnectionInfo) -> RedisResult<Client> {
    match certificates(redis) {
        Some(certificates) if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) => {
            Client::build_with_tls(info, certificates)
        }
        _ => Client::open(info),
    }
}

fn certificates(redis: &RedisSettings) -> Option<TlsCertificates> {
    redis.ca_pem.clone().map(|root| TlsCertificates { client_tls: None, root_cert: Some(root) })
}

fn address(redis: &RedisSettings, host: &str, port: u16) -> ConnectionAddr {
    let host = host.to_owned();
    if redis.tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

fn connection_info(redis: &RedisSettings, host: &str, port: u16) -> RedisResult<ConnectionInfo> {
    let mut settings = RedisConnectionInfo::default().set_db(redis.db.into());
    if let Some(username) = &redis.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &redis.password {
        settings = settings.set_password(password.reveal());
    }
    Ok(address(redis, host, port).into_connection_info()?.set_redis_settings(settings))
}
