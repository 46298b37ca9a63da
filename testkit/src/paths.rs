//! Where things are: this workspace, programs on the search path, the run directory.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// The top folder of the workspace: the nearest one above the running program that has contracts in it, or the one
/// this crate was built in.
#[must_use]
pub fn workspace() -> PathBuf {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    env::current_exe()
        .ok()
        .and_then(|program| {
            program.ancestors().find(|folder| folder.join("contracts/package.json").is_file()).map(Path::to_path_buf)
        })
        .unwrap_or_else(|| built_in.to_path_buf())
}

/// The program of this name on the search path.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders).map(|folder| folder.join(name)).find(|file| is_program(file))
}

/// Whether this is a file that may be executed.
#[must_use]
pub fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

/// A workspace binary of the same build as the running program (which may be a test of it).
///
/// # Errors
/// When it has not been built; the message says how.
pub fn workspace_binary(name: &str) -> Result<PathBuf> {
    let program = env::current_exe().context("the running program has no path")?;
    let mut folder = program.parent().context("a program is in a folder")?;
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder.parent().context("cargo's folders have a parent")?;
    }
    binary_in(folder, name)
}

/// The binary of this name in a folder of cargo's.
///
/// # Errors
/// When it has not been built; the message says how.
pub fn binary_in(folder: &Path, name: &str) -> Result<PathBuf> {
    let binary = folder.join(name);
    if !is_program(&binary) {
        let profile = if folder.ends_with("release") { " --release" } else { "" };
        bail!("{} is missing: run `cargo build --workspace{profile}`", binary.display());
    }
    Ok(binary)
}

/// The folder of one run: logs, databases, sockets.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    temporary: Option<TempDir>,
}

impl RunDir {
    /// A new temporary folder, removed with this value. It stays where a test has panicked or `TESTKIT_KEEP` is set.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn temporary() -> Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("testkit-").tempdir().context("cannot create a temporary folder")?;
        // Programs that run as another user must get through to theirs.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).context("cannot open the folder")?;
        Ok(Self { path: folder.path().to_path_buf(), temporary: Some(folder) })
    }

    /// This folder, which stays.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path, temporary: None })
    }

    /// Leaves the folder for somebody else to remove, and returns its path.
    #[must_use]
    pub fn keep(mut self) -> PathBuf {
        if let Some(folder) = self.temporary.take() {
            let _ = folder.keep();
        }
        self.path.clone()
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log file of the process called `name`.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// The folder of all logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Some(folder) = self.temporary.as_mut()
            && (thread::panicking() || env::var_os("TESTKIT_KEEP").is_some())
        {
            folder.disable_cleanup(true);
            eprintln!("logs and databases are kept in {}", folder.path().display());
        }
    }
}
