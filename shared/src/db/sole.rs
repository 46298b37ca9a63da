//! SQLite is for one process: a second one would run into the first one's locks, and its workers do the same work.

use std::fs::{File, TryLockError};
use std::path::Path;

use secrecy::SecretString;

use super::{Error, Result, create_folder_of, sqlite_file};

/// While this lives, no other process [takes](sole_process) the same database. It ends with the process, kill -9 included.
#[derive(Debug)]
#[must_use]
pub struct SoleProcess(#[expect(dead_code, reason = "it is held, not read")] Option<File>);

/// Takes a SQLite database for this process alone. PostgreSQL is shared by as many as like.
///
/// What reads beside a service, as `audit` and `rebuild` do, does not take it.
///
/// # Errors
///
/// [`Error::InUse`] when another process has it.
pub async fn sole_process(url: &SecretString) -> Result<SoleProcess> {
    let Some(file) = sqlite_file(url) else { return Ok(SoleProcess(None)) };
    create_folder_of(Path::new(file)).await?;
    // Beside the database, which may not exist yet, and whose own locks are SQLite's business.
    let path = format!("{file}.process");
    let failed = |source| Error::Create { path: path.clone(), source };
    let lock = File::create(&path).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(SoleProcess(Some(lock))),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { file: file.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
