//! A node that shares its database with no other makes sure of that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sea_orm::{DatabaseConnection, DbErr};
use tokio::task::AbortHandle;

use super::{
    dialect::{self, Lock},
    migrate,
};
use crate::config::DatabaseServer;

/// How often it is made sure that the lock is still held, and tried to have it again.
const PAUSE: Duration = Duration::from_secs(3);
/// How long an answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A lock on a database server: this node alone uses the database, as long as it is held. It is lost with the connection
/// and taken again when the server is back, unless another node was faster. Dropped, it is given back.
pub struct Alone {
    held: Arc<AtomicBool>,
    keeping: AbortHandle,
}

impl Alone {
    /// Takes the lock. `None`: another node has it.
    pub async fn lock(server: &DatabaseServer) -> Result<Option<Self>, DbErr> {
        let connection = migrate::single_connection(server).await?;
        if !dialect::lock(&connection, Lock::Alone, Duration::ZERO).await? {
            return Ok(None);
        }
        let held = Arc::new(AtomicBool::new(true));
        let keeping = tokio::spawn(keep(server.clone(), connection, held.clone())).abort_handle();
        Ok(Some(Self { held, keeping }))
    }

    /// Whether it was held when that was last found out.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // The connection goes with it, and with that the lock.
        self.keeping.abort();
    }
}

async fn keep(server: DatabaseServer, mut connection: DatabaseConnection, held: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(PAUSE).await;
        let still = dialect::still_locked(&connection, Lock::Alone);
        if matches!(tokio::time::timeout(TIMEOUT, still).await, Ok(Ok(true))) {
            continue;
        }
        if held.swap(false, Ordering::AcqRel) {
            tracing::warn!("lost the lock on the database; no uids are issued until it is held again");
        }
        let again = async {
            let connection = migrate::single_connection(&server).await?;
            let taken = dialect::lock(&connection, Lock::Alone, Duration::ZERO).await?;
            Ok::<_, DbErr>(taken.then_some(connection))
        };
        match tokio::time::timeout(TIMEOUT, again).await {
            Ok(Ok(Some(again))) => {
                connection = again;
                held.store(true, Ordering::Release);
                tracing::info!("holds the lock on the database again");
            }
            Ok(Ok(None)) => tracing::error!(
                "another node uses this database now; with `redis` in the configuration of both they can share it"
            ),
            // The server is away, which is told elsewhere.
            Ok(Err(_)) | Err(_) => {}
        }
    }
}
