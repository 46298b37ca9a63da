//! Faults of the services' databases.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Executor as _};

use super::{World, all_told, hold};
use crate::{
    chaos::world::{Databases, SqlitePlace},
    service::Which,
};

impl World {
    pub(super) async fn cut_commits(&self, which: Which, durable: bool, times: u32, time: Duration) -> u32 {
        let Some(place) = self.databases.postgres(which) else { return 0 };
        place.proxy.cut_commits(times, durable);
        all_told(time, || place.proxy.commits_cut() == times).await;
        place.proxy.spare_commits()
    }

    pub(super) async fn end_sessions(&self, which: Which) -> Result<u32> {
        let Databases::Postgres { server, .. } = &self.databases else { return Ok(0) };
        let Some(place) = self.databases.postgres(which) else { return Ok(0) };
        Ok(u32::from(server.end_sessions(&place.name).await? > 0))
    }

    pub(super) async fn restart_postgres(&self, down: Duration) -> Result<u32> {
        let Databases::Postgres { server, .. } = &self.databases else { return Ok(0) };
        if !server.is_own() {
            return Ok(0);
        }
        server.crash().await?;
        hold(down).await;
        server.launch().await?;
        Ok(1)
    }

    /// Holds the lock on everything that a service writes.
    pub(super) async fn lock_tables(&self, which: Which, time: Duration) -> Result<u32> {
        sqlx::any::install_default_drivers();
        let Ok(mut connection) = AnyConnection::connect(&self.databases.direct_url(which)).await else { return Ok(0) };
        let lock = match (&self.databases, which) {
            (Databases::Sqlite { .. }, _) => "pragma busy_timeout = 5000; begin immediate",
            (Databases::Postgres { .. }, Which::Campaign) => {
                "begin; lock table token_grant, outbox in access exclusive mode"
            }
            (Databases::Postgres { .. }, Which::Blockchain) => {
                "begin; lock table payment, outbox in access exclusive mode"
            }
        };
        // Under load the lock itself may be hard to get.
        let locked = connection.execute(lock).await.is_ok();
        if locked {
            hold(time).await;
            connection.execute("rollback").await.context("cannot give the lock back")?;
        }
        connection.close().await?;
        Ok(u32::from(locked))
    }

    pub(super) async fn fill_disk(&self, which: Which, time: Duration) -> Result<u32> {
        let Some(SqlitePlace { disk: Some(disk), .. }) = self.databases.sqlite(which) else { return Ok(0) };
        tokio::task::block_in_place(|| disk.fill())?;
        hold(time).await;
        disk.free()?;
        Ok(1)
    }

    pub(super) async fn restore_database(&self, age: Duration) -> Result<u32> {
        let _held = self.hold(Which::Blockchain).await;
        let service = self.service(Which::Blockchain);
        match &self.databases {
            Databases::Sqlite { blockchain: SqlitePlace { file, .. }, .. } => {
                let copy = self.run_dir.path().join("older.db");
                let Ok(()) = copy_sqlite(file, &copy).await else { return Ok(0) };
                hold(age).await;
                service.kill9().await?;
                for name in ["", "-wal", "-shm"] {
                    let _ = fs::remove_file(format!("{}{name}", file.display()));
                }
                fs::copy(&copy, file).context("cannot restore the database")?;
            }
            Databases::Postgres { server, blockchain, .. } => {
                let copy = format!("{}_older", blockchain.name);
                // A copy can be made while nobody is connected.
                service.kill9().await?;
                server.copy_database(&blockchain.name, &copy).await?;
                self.start_again(Which::Blockchain)?;
                hold(age).await;
                service.kill9().await?;
                server.copy_database(&copy, &blockchain.name).await?;
            }
        }
        self.start_again(Which::Blockchain)?;
        Ok(1)
    }
}

/// A consistent copy, in one transaction. A copy that is there is replaced.
async fn copy_sqlite(file: &Path, copy: &Path) -> Result<()> {
    let _ = fs::remove_file(copy);
    sqlx::any::install_default_drivers();
    let mut connection = AnyConnection::connect(&format!("sqlite://{}", file.display())).await?;
    connection.execute("pragma busy_timeout = 5000").await?;
    let into = AssertSqlSafe(format!("vacuum into '{}'", copy.display()));
    let copied = sqlx::raw_sql(into).execute(&mut connection).await;
    connection.close().await?;
    copied.context("cannot copy the database")?;
    Ok(())
}
