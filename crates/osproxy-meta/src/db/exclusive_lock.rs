//! Exclusive use of a database by one node. Without Redis, nodes cannot share a database, so a node
//! without Redis takes this lock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sea_orm::{DatabaseConnection, DbErr};
use tokio::task::AbortHandle;

use crate::MetaError;
use crate::{
    DatabaseServer, boxed_future,
    db::{
        database_lock::{self, DatabaseLock},
        migrate,
    },
};

/// Interval between checks of the lock, and between attempts to reacquire it.
const CHECK_INTERVAL: Duration = Duration::from_secs(3);
/// Timeout of one check, and of one attempt to reacquire the lock.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// A lock that prevents all other nodes without Redis from using a database. If the connection that
/// holds the lock breaks, the lock is lost. A background task then tries to reacquire the lock
/// every few seconds, and fails while another node holds the lock. Dropping this value releases the
/// lock.
pub struct ExclusiveLock {
    is_held: Arc<AtomicBool>,
    maintainer: AbortHandle,
}

impl ExclusiveLock {
    /// Takes the lock without waiting. Returns `None` if another node holds the lock.
    #[boxed_future]
    pub async fn try_acquire(server: &DatabaseServer) -> Result<Option<Self>, MetaError> {
        let connection = migrate::single_connection(server).await?;
        if !database_lock::acquire(&connection, DatabaseLock::Exclusive, Duration::ZERO).await? {
            return Ok(None);
        }
        let is_held = Arc::new(AtomicBool::new(true));
        let maintainer = tokio::spawn(maintain(server.clone(), connection, is_held.clone())).abort_handle();
        Ok(Some(Self { is_held, maintainer }))
    }

    /// Whether this node held the lock at the most recent check.
    pub fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Acquire)
    }
}

impl Drop for ExclusiveLock {
    fn drop(&mut self) {
        // Drops the connection, which releases the lock.
        self.maintainer.abort();
    }
}

async fn maintain(server: DatabaseServer, mut connection: DatabaseConnection, is_held: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let check = database_lock::is_held(&connection, DatabaseLock::Exclusive);
        if matches!(tokio::time::timeout(CHECK_TIMEOUT, check).await, Ok(Ok(true))) {
            continue;
        }
        if is_held.swap(false, Ordering::AcqRel) {
            tracing::warn!("lost the exclusive database lock; no uids are issued until it is reacquired");
        }
        let reacquire = async {
            let connection = migrate::single_connection(&server).await?;
            let is_acquired =
                database_lock::acquire(&connection, DatabaseLock::Exclusive, Duration::ZERO).await?;
            Ok::<_, DbErr>(is_acquired.then_some(connection))
        };
        match tokio::time::timeout(CHECK_TIMEOUT, reacquire).await {
            Ok(Ok(Some(reacquired))) => {
                connection = reacquired;
                is_held.store(true, Ordering::Release);
                tracing::info!("reacquired the exclusive database lock");
            }
            Ok(Ok(None)) => tracing::error!(
                "another node uses this database now; configure `redis` on both nodes to share it"
            ),
            // Most likely the server is unreachable, which the health check reports.
            Ok(Err(_)) | Err(_) => {}
        }
    }
}
