//! A database of a test's own, and tests that run on both kinds of it.

use std::path::Path;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::{plans, postgres::Postgres, stack::Database};

/// Runs each of these tests on both databases: functions of what the expression makes for a kind of
/// [`Database`](crate::Database), which return `()` or a `Result`.
///
/// ```ignore
/// on_both_databases! {
///     |kind| Place::new(kind).await.unwrap();
///     what_is_committed_stays,
/// }
///
/// async fn what_is_committed_stays(place: Place) {}
/// ```
#[macro_export]
macro_rules! on_both_databases {
    (|$kind:ident| $input:expr; $($test:ident),+ $(,)?) => {
        $crate::on_both_databases! { sqlite Sqlite |$kind| $input; $($test)+ }
        $crate::on_both_databases! { postgres Postgres |$kind| $input; $($test)+ }
    };
    ($module:ident $database:ident |$kind:ident| $input:expr; $($test:ident)+) => {
        mod $module {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() -> std::process::ExitCode {
                let $kind = $crate::Database::$database;
                std::process::Termination::report(super::$test($input).await)
            })+
        }
    };
}

/// Where an empty database is, for as long as this value lives. At its end it fails the test if a statement of ours reads
/// more the longer the past is, see `plans`.
#[derive(Debug)]
pub struct Place {
    url: String,
    _folder: Option<TempDir>,
}

impl Place {
    /// Of this kind.
    ///
    /// # Errors
    /// As [`sqlite`](Self::sqlite) or [`postgres`](Self::postgres).
    pub async fn new(kind: Database) -> Result<Self> {
        match kind {
            Database::Sqlite => Self::sqlite(),
            Database::Postgres => Self::postgres().await,
        }
    }

    /// A file in a temporary folder, in folders that do not exist yet.
    ///
    /// # Errors
    /// When there is no place for temporary folders.
    pub fn sqlite() -> Result<Self> {
        plans::watch();
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        Ok(Self { url: format!("sqlite://{}/new/folder/test.db", folder.path().display()), _folder: Some(folder) })
    }

    /// A database on the server that the tests of this process share.
    ///
    /// # Errors
    /// When there is no server, or it refuses.
    pub async fn postgres() -> Result<Self> {
        Ok(Self { url: Postgres::shared().await?.create_database("test").await?, _folder: None })
    }

    /// Its URL, for any number of processes.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let file = self.url.strip_prefix("sqlite://");
        if std::thread::panicking() || !file.is_some_and(|file| Path::new(file).exists()) {
            return;
        }
        if let Err(error) = plans::judge(&self.url) {
            panic!("{error:#}");
        }
    }
}
